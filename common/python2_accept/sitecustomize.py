"""Gives any Python process the accept() of Python 2, which a signal interrupts.

Since Python 3.5 (PEP 475) socket.accept() calls the kernel's accept() again when that ends with
EINTR. Here it raises InterruptedError instead, as it did before. Python imports a module of this
name when it starts (see the docs of `site`), so the folder in PYTHONPATH is all that it takes.
"""
import os
import socket
import sys


def accept(self):
    """Return (socket, address) of the next client; raises OSError as errno says.

    Source: accept(2); the layouts of struct sockaddr_in and sockaddr_in6 are those of ip(7) and ipv6(7).
    """
    host = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}.get(self.family)
    if host is None or self.gettimeout() is not None:
        return python3_accept(self)
    address = ctypes.create_string_buffer(28)
    length = ctypes.c_uint32(len(address))
    descriptor = libc.accept(self.fileno(), address, ctypes.byref(length))
    if descriptor == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    port = int.from_bytes(address.raw[2:4], 'big')
    more = (0, 0) if self.family == socket.AF_INET6 else ()
    return socket.socket(fileno=descriptor), (socket.inet_ntop(self.family, address.raw[host]), port) + more


if sys.version_info >= (3, 5):  # noqa: UP036 (those before have it)
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    python3_accept = socket.socket.accept
    socket.socket.accept = accept
