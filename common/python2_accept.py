"""Runs a stage with the accept() of Python 2, which a signal interrupts.

Since Python 3.5 (PEP 475) socket.accept() calls the kernel's accept() again when that ends with
EINTR. Here it raises InterruptedError instead, as it did before.

Use: python2_accept.py part3/v1.2/server.py
"""
import ctypes
import os
import runpy
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)


def accept(self):
    """Return (socket, (host, port)) of the next IPv4 client; raises OSError as errno says.

    Source: accept(2); the layout of struct sockaddr_in is that of ip(7).
    """
    address = ctypes.create_string_buffer(16)
    length = ctypes.c_uint32(len(address))
    descriptor = libc.accept(self.fileno(), address, ctypes.byref(length))
    if descriptor == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    port = int.from_bytes(address.raw[2:4], 'big')
    return socket.socket(fileno=descriptor), (socket.inet_ntoa(address.raw[4:8]), port)


if __name__ == '__main__':
    socket.socket.accept = accept
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name='__main__')
