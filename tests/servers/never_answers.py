"""Listens, and does nothing else."""
import os
import signal
import socket

listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
signal.pause()
