"""Asks for clients again and again instead of waiting for one."""
import os
import socket

listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
listen_socket.setblocking(False)
while True:
    try:
        client_fd, client_addr = listen_socket.accept()
    except BlockingIOError:
        continue
    client_fd.setblocking(True)
    client_fd.recv(1024)
    client_fd.sendall(b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n')
    client_fd.close()
