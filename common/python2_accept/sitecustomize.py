"""Gives any Python process the accept() of Python 2, which a signal interrupts.

Since Python 3.5 (PEP 475) socket.accept() calls the kernel's accept() again when that ends with
EINTR. Here it raises InterruptedError instead, as it did before. Python imports a module of this
name when it starts (see the docs of `site`), so the folder in PYTHONPATH is all that it takes.
"""
import ctypes
import os
import socket

libc = ctypes.CDLL(None, use_errno=True)
python3_accept = socket.socket.accept


def accept(self):
    """Return (socket, (host, port)) of the next client; raises OSError as errno says.

    Source: accept(2); the layout of struct sockaddr_in is that of ip(7).
    """
    if self.family != socket.AF_INET or self.gettimeout() is not None:
        return python3_accept(self)
    address = ctypes.create_string_buffer(16)
    length = ctypes.c_uint32(len(address))
    descriptor = libc.accept(self.fileno(), address, ctypes.byref(length))
    if descriptor == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    port = int.from_bytes(address.raw[2:4], 'big')
    return socket.socket(fileno=descriptor), (socket.inet_ntoa(address.raw[4:8]), port)


socket.socket.accept = accept
