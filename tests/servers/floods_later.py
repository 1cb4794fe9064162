"""Prints without end, once a client has come."""
import os
import socket

listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
client_fd, client_addr = listen_socket.accept()
while True:
    print('x' * 1000)
