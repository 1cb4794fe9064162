"""Listens, and computes without end."""
import os
import socket

listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
while True:
    pass
