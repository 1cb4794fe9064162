"""Being a client: connections, requests and replies, as bytes.

No wait lasts longer than the server needs: each gives up when the server is at rest (common/kernel.py).
"""
import select
import socket
import struct
from typing import NamedTuple

from common import kernel

MOST = 30_000_000  # bytes of a reply that are read
REQUEST = b'GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'


def connect(port):
    """A connection to the server; every later wait on it is bounded by kernel.LIMIT."""
    return socket.create_connection(('127.0.0.1', port), timeout=kernel.LIMIT)


def readable(client):
    """Whether recv() would return at once: bytes have come, or the end of the connection."""
    return bool(select.select([client], [], [], 0)[0])


def ask(client, pid):
    """Send a request; return the first bytes of the answer, b'' where none comes."""
    try:
        client.sendall(REQUEST)
        return client.recv(65536) if kernel.wait_until(lambda: readable(client), pid) else b''
    except ConnectionError:
        return b''


def exchange(pid, port, data=REQUEST):
    """Be a client from beginning to end; return what read_reply() does."""
    with connect(port) as client:
        client.sendall(data)
        return read_reply(client, pid)


def read_reply(client, pid):
    """Return the bytes that come, and whether the server ended the connection after them."""
    reply = bytearray()
    while len(reply) < MOST and kernel.wait_until(lambda: readable(client), pid):
        try:
            data = client.recv(65536)
        except ConnectionError:
            data = b''
        if not data:
            return bytes(reply), True
        reply += data
    return bytes(reply), False


class Response(NamedTuple):
    status: str  # '200 OK', or '' where no response came
    headers: list  # of (name, value)
    body: bytes

    def values(self, name):
        """All values of the headers of that name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


def request(method, path, *headers, body=b''):
    """The bytes of a request; a Content-Length is added where there is a body."""
    lines = [f'{method} {path} HTTP/1.1', 'Host: localhost', *headers]
    if body:
        lines.append(f'Content-Length: {len(body)}')
    return '\r\n'.join([*lines, '', '']).encode('latin-1') + body


def fetch(pid, port, *pieces):
    """Send a request in pieces, each after the server has read those before; return the Response.

    It is empty where the server has ended, or ends the connection without a reply.
    """
    try:
        with connect(port) as client:
            for piece in pieces[:-1]:
                client.sendall(piece)
                kernel.let_rest(pid)
            client.sendall(pieces[-1])
            return parse(read_reply(client, pid)[0])
    except ConnectionError:
        return Response('', [], b'')


def get(pid, port, path, *headers):
    return fetch(pid, port, request('GET', path, *headers))


def parse(reply):
    """Take the bytes of a reply apart."""
    head, _, body = reply.partition(b'\r\n\r\n')
    status_line, *lines = head.decode('latin-1').split('\r\n')
    headers = [(name, value.strip()) for name, _, value in (line.partition(':') for line in lines)]
    return Response(status_line.partition(' ')[2], headers, body)


def status_of(pid, port, data):
    """Send the bytes and then FIN; return the number of the status that comes, '' for none."""
    try:
        with connect(port) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return parse(read_reply(client, pid)[0]).status.partition(' ')[0]
    except ConnectionError:
        return ''


def reset(client):
    """Close the connection with RST instead of FIN: SO_LINGER with 0 seconds, socket(7)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    client.close()
