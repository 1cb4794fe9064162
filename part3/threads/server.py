"""A threading server: a thread for each client.

Article: https://ruslanspivak.com/lsbaws-part3/
"""
import os
import socket
import threading

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
REQUEST_QUEUE_SIZE = 1024


def handle_request(client_fd):
    with client_fd:  # closes it at the end, whatever happens
        request = client_fd.recv(1024)
        print(request.decode('ascii', 'backslashreplace'), flush=True)
        client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n')


def serve_forever():
    listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen_socket.bind((HOST, PORT))
    listen_socket.listen(REQUEST_QUEUE_SIZE)
    print(f'Serving HTTP on port {listen_socket.getsockname()[1]} ...', flush=True)

    while True:
        client_fd, client_addr = listen_socket.accept()
        # daemon: Ctrl-C ends the server, and does not wait for its threads
        threading.Thread(target=handle_request, args=(client_fd,), daemon=True).start()


if __name__ == '__main__':
    try:
        serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server
