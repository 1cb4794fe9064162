"""Answers, and does not stop."""
import os
import socket

listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
while True:
    client_fd, client_addr = listen_socket.accept()
    try:
        while True:
            client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\n' * 1000)
    except ConnectionError:
        client_fd.close()
