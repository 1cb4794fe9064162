"""Being a client: connections, requests and replies.

No wait lasts longer than the server needs: each gives up when the server is at rest (process.py).
Replies are read by h11, which knows all the ways in which HTTP/1.1 ends a body.
"""
import select
import socket
import struct
from typing import NamedTuple

import h11

from laboratory.instruments import kernel

MOST = 30_000_000  # bytes of a reply that are read
REQUEST = b'GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
FIN, RST, OPEN = 'FIN', 'RST', 'open'  # how a connection looks after a reply


class Reply(NamedTuple):
    data: bytes = b''  # all that came
    end: str = OPEN  # FIN, RST, or OPEN where nothing more comes
    status: int = 0  # of the response in it, 0 where there is none
    reason: str = ''
    headers: tuple = ()  # of (name, value)
    body: bytes = b''
    complete: bool = False  # whether the response ended where its headers, or FIN, say
    extra: bytes = b''  # what came behind the end
    problem: str = ''  # what h11 says of a response that breaks the rules

    def values(self, name):
        """All values of the headers of that name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


def connect(server):
    """A connection to the server; every later wait on it is bounded by kernel.LIMIT."""
    try:
        return socket.create_connection(('127.0.0.1', server.port), timeout=kernel.LIMIT)
    except ConnectionRefusedError:
        return socket.create_connection(('::1', server.port), timeout=kernel.LIMIT)


def readable(client):
    """Whether recv() would return at once: bytes have come, or the end of the connection."""
    return bool(select.select([client], [], [], 0)[0])


def ask(client, server):
    """Send a request; return the first bytes of the answer, b'' where none comes."""
    try:
        client.sendall(REQUEST)
        return client.recv(65536) if server.wait_until(lambda: readable(client)) else b''
    except ConnectionError:
        return b''


def exchange(server, data=REQUEST):
    """Be a client from beginning to end; return the Reply."""
    with connect(server) as client:
        client.sendall(data)
        return read_reply(client, server)


def read_reply(client, server, method='GET'):
    """Return the Reply to a request with that method: all that comes until the server ends it or rests."""
    parser, events = h11.Connection(h11.CLIENT), []
    headers = [('Host', 'localhost'), ('Connection', 'close')]
    parser.send(h11.Request(method=method, target='/', headers=headers))
    parser.send(h11.EndOfMessage())
    data, end, problem = bytearray(), OPEN, ''
    while end == OPEN and len(data) < MOST and server.wait_until(lambda: readable(client)):
        try:
            piece = client.recv(65536)
            end = OPEN if piece else FIN
        except ConnectionError:
            piece, end = b'', RST
        data += piece
        if problem or end == RST:
            continue
        try:
            parser.receive_data(piece)
            while type(event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED, h11.ConnectionClosed):
                events.append(event)
        except h11.RemoteProtocolError as error:
            problem = str(error)
    head = next((event for event in events if isinstance(event, h11.Response)), None)
    if head is None:
        return Reply(bytes(data), end, problem=problem)
    return Reply(
        bytes(data), end, head.status_code, head.reason.decode('latin-1'),
        tuple((name.decode('latin-1'), value.decode('latin-1')) for name, value in head.headers.raw_items()),
        b''.join(event.data for event in events if isinstance(event, h11.Data)),
        any(isinstance(event, h11.EndOfMessage) for event in events), parser.trailing_data[0], problem)


def request(method, path, *headers, body=b''):
    """The bytes of a request; a Content-Length is added where there is a body."""
    lines = [f'{method} {path} HTTP/1.1', 'Host: localhost', 'Connection: close', *headers]
    if body:
        lines.append(f'Content-Length: {len(body)}')
    return '\r\n'.join([*lines, '', '']).encode('latin-1') + body


def fetch(server, *pieces):
    """Send a request in pieces, each after the server has read those before; return the Reply.

    It is empty where the server has ended, or ends the connection without a reply.
    """
    try:
        with connect(server) as client:
            for piece in pieces[:-1]:
                client.sendall(piece)
                server.let_rest()
            client.sendall(pieces[-1])
            return read_reply(client, server, pieces[0].partition(b' ')[0].decode('latin-1'))
    except ConnectionError:
        return Reply()


def get(server, path, *headers):
    return fetch(server, request('GET', path, *headers))


def status_of(server, data):
    """Send the bytes and then FIN; return the number of the status that comes, 0 for none."""
    try:
        with connect(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_reply(client, server).status
    except ConnectionError:
        return 0


def reset(client):
    """Close the connection with RST instead of FIN: SO_LINGER with 0 seconds, socket(7)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    client.close()
