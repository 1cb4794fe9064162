"""A forking server that reaps every child that ended.

Article: https://ruslanspivak.com/lsbaws-part3/
"""
import contextlib
import os
import signal
import socket

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
REQUEST_QUEUE_SIZE = 1024


def handle_exit(signum, frame):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # no child is left
        if pid == 0:
            return  # the children that are left still run
        with contextlib.suppress(OSError):  # standard output may be closed or full
            os.write(1, b'get SIGCHLD from: %d\n' % pid)  # print() is not safe in a signal handler


def handle_request(client_fd):
    request = client_fd.recv(1024)
    print(request.decode('ascii', 'backslashreplace'), flush=True)
    client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n')


def serve_forever():
    listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen_socket.bind((HOST, PORT))
    listen_socket.listen(REQUEST_QUEUE_SIZE)
    print(f'Serving HTTP on port {listen_socket.getsockname()[1]} ...', flush=True)

    signal.signal(signal.SIGCHLD, handle_exit)
    while True:
        try:
            client_fd, client_addr = listen_socket.accept()
        except InterruptedError:  # EINTR
            continue
        pid = os.fork()
        if pid == 0:  # child
            listen_socket.close()
            handle_request(client_fd)
            client_fd.close()
            os._exit(0)
        client_fd.close()  # the parent's copy


if __name__ == '__main__':
    try:
        serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server
