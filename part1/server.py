"""A hello-world socket server: every client gets a greeting.

Article: https://ruslanspivak.com/lsbaws-part1/
"""
import os
import socket

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))

listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listen_socket.bind((HOST, PORT))
listen_socket.listen(5)
print(f'Serving HTTP on port {listen_socket.getsockname()[1]} ...', flush=True)

try:
    while True:
        client_fd, client_addr = listen_socket.accept()
        request = client_fd.recv(1024)
        print(request.decode('ascii', 'backslashreplace'), flush=True)
        client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n')
        client_fd.close()
except KeyboardInterrupt:
    pass  # Ctrl-C is the way to end this server
