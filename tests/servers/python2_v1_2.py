"""Part 3 v1.2 in words that Python 2.7 understands too: there a signal ends accept() by itself."""
import os
import signal
import socket


def handle_exit(signum, frame):
    pid, status = os.wait()
    os.write(1, b'get SIGCHLD from: %d\n' % pid)


listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listen_socket.bind(('127.0.0.1', int(os.environ['PORT'])))
listen_socket.listen(128)
signal.signal(signal.SIGCHLD, handle_exit)
while True:
    client_fd, client_addr = listen_socket.accept()
    if os.fork() == 0:
        listen_socket.close()
        client_fd.recv(1024)
        client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n')
        client_fd.close()
        os._exit(0)
    client_fd.close()
