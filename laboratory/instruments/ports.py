"""A free port for a server that we start."""
import random
import socket
from collections import deque
from contextlib import suppress

claims = deque(maxlen=50)  # sockets with the last ports that were given away, kept from other processes


def free_port():
    """A port below those that kernels give to clients, which no other call returns for a while."""
    while True:
        address = '127.0.0.1', random.randrange(10_000, 32_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)  # UDP: a server that wants TCP is not disturbed
        with socket.socket() as probe, suppress(OSError):  # it is taken
            claim.bind(address)
            probe.bind(address)
            claims.append(claim)
            return address[1]
        claim.close()
