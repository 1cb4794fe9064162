"""Being a client: connections, requests and replies; no wait lasts longer than until the server rests."""
import select
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

import h11

from laboratory.instruments import kernel

MOST = 30_000_000  # bytes of a reply that are read
NO_LINGER = struct.pack('ii', 1, 0)  # SO_LINGER with 0 seconds: close() sends RST, see socket(7)
SOON = 0.05  # seconds in which most replies come, before it is worth to look at the server
NO_EVENTS = h11.NEED_DATA, h11.PAUSED, h11.ConnectionClosed
REQUEST = b'GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
FIN, RST, OPEN, REFUSED = 'FIN', 'RST', 'open', 'refused'  # how a connection looks after a reply
WORDS = {FIN: 'closed without an answer', RST: 'a reset without an answer',
         OPEN: 'no answer', REFUSED: 'no connection'}


class Reply(NamedTuple):
    data: bytes = b''  # all that came
    end: str = OPEN  # FIN, RST, OPEN where nothing more comes, or REFUSED
    status: int = 0  # of the response in it, 0 where there is none
    headers: tuple = ()  # of (name, value)
    body: bytes = b''
    complete: bool = False  # whether the response ended where its headers, or FIN, say
    extra: bytes = b''  # what came behind the end
    problem: str = ''  # what h11 says of a response that breaks the rules

    def values(self, name):
        """All values of the headers of that name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __str__(self):
        """What came, in a few words."""
        if not self.status:
            return f'no status line, {self.data[:40]!r}' if self.data else WORDS[self.end]
        return f'{self.status} with {self.body!r}' if len(self.body) < 40 else f'{self.status}'


def connect(server, seconds=kernel.LIMIT):
    """A connection to the server; every later wait on it is bounded by kernel.LIMIT."""
    try:
        return opened(server.client_socket(socket.AF_INET), ('127.0.0.1', server.port), seconds)
    except ConnectionRefusedError:
        return opened(server.client_socket(socket.AF_INET6), ('::1', server.port), seconds)


def opened(client, address, seconds):
    """The socket, connected within that time."""
    try:
        client.settimeout(seconds)
        client.connect(address)
    except OSError:
        client.close()
        raise
    client.settimeout(kernel.LIMIT)
    return client


def connected(server, seconds=kernel.LIMIT):
    """A connection that lasts as long as the server does, or until it is closed; within that time."""
    return server.until_end.enter_context(connect(server, seconds))


def try_to_connect(server):
    """A connection that lasts as long as the server, or None where it takes no more."""
    for _ in range(2):
        with suppress(TimeoutError, ConnectionError):
            return connected(server, SOON)
        server.let_rest()  # it takes from the backlog what it is going to take
    return None


def readable(client, seconds=0):
    """Whether recv() would return at once, now or within that time: bytes have come, or the end."""
    return bool(select.select([client], [], [], seconds)[0])


def comes(client, server):
    """Wait until recv() would return at once; return whether it will."""
    return readable(client, SOON) or server.wait_until(lambda: readable(client))


def ask(client, server):
    """Send a request; return the answer, b'' where none comes."""
    send(client, server, REQUEST)
    return answer(client, server).data


def answer(client, server):
    """The Reply to a request, to its end, or as far as the first one came: an end may come late or never."""
    reading = Reading()
    reply = read_on(client, server, reading, lambda: reading.complete or len(reading.data) >= server.whole)
    server.whole = min(len(reply.data), 65536) or server.whole
    return reply


def one_request(server, data=REQUEST):
    """Send a request when the server waits in recv() for it, its parent in accept(); wait for the end."""
    server.let_rest()
    with connect(server) as client:
        server.let_rest()
        client.sendall(data)
        read_reply(client, server)
    server.let_rest()


class Reading:
    """A reply to a request with that method, while its bytes come."""

    def __init__(self, method='GET'):
        self.parser, self.events, self.data, self.problem = h11.Connection(h11.CLIENT), [], bytearray(), ''
        self.parser.send(h11.Request(method=method, target='/', headers=[('Host', 'localhost')]))
        self.parser.send(h11.EndOfMessage())

    @property
    def complete(self):
        return any(isinstance(event, h11.EndOfMessage) for event in self.events)

    def receive(self, client):
        """Take what has come from a connection; return how that looks afterwards: OPEN, FIN or RST."""
        try:
            piece = client.recv(65536)
        except ConnectionError:
            return RST
        self.take(piece)
        return OPEN if piece else FIN

    def take(self, piece):
        """Take some bytes; none are the end."""
        self.data += piece
        if self.problem:
            return
        try:
            self.parser.receive_data(piece)
            while type(event := self.parser.next_event()) not in NO_EVENTS:
                self.events.append(event)
        except h11.RemoteProtocolError as error:
            self.problem = str(error)

    def reply(self, end):
        """All of it, as a Reply; end is how the connection looks."""
        head = next((event for event in self.events if isinstance(event, h11.Response)), None)
        if head is None:
            return Reply(bytes(self.data), end, problem=self.problem)
        headers = tuple((name.decode('latin-1'), text.decode('latin-1'))
                        for name, text in head.headers.raw_items())
        body = b''.join(event.data for event in self.events if isinstance(event, h11.Data))
        return Reply(bytes(self.data), end, head.status_code, headers, body,
                     self.complete, self.parser.trailing_data[0], self.problem)


def closes(reply):
    """Whether the connection ends with this reply, or the reply says so (RFC 9112, section 9.6)."""
    return reply.end != OPEN or 'close' in ', '.join(reply.values('Connection')).lower()


def read_reply(client, server, method='GET'):
    """Return the Reply to a request with that method: all that comes until the server ends it or rests."""
    return read_on(client, server, Reading(method))


def read_next(client, server, before=b'', method='GET'):
    """Return the Reply to one of several requests as soon as it is complete; before: `extra` of the last."""
    reading = Reading(method)
    if before:  # b'' would be the end
        reading.take(before)
    return read_on(client, server, reading, lambda: reading.complete or reading.problem)


def read_on(client, server, reading, is_enough=lambda: False):
    """Read until it is enough, the connection ends, or the server rests; return the Reply."""
    end = OPEN
    while end == OPEN and len(reading.data) < MOST and not is_enough() and comes(client, server):
        end = reading.receive(client)
    return reading.reply(end)


def rest_of(client, seconds):
    """Read to the end of a reply, or until nothing has come for so long; return the Reply."""
    reading, end = Reading(), OPEN
    while end == OPEN and not reading.complete and readable(client, seconds):
        end = reading.receive(client)
    return reading.reply(end)


def request(method, path, *headers, body=b''):
    """The bytes of a request; a Content-Length is added where there is a body."""
    headers = 'Host: localhost', 'Connection: close', *headers, *[f'Content-Length: {len(body)}'] * bool(body)
    return '\r\n'.join([f'{method} {path} HTTP/1.1', *headers, '', '']).encode('latin-1') + body


def asking(method, path, *headers, body=b''):
    """The bytes of a request that leaves the connection open."""
    return request(method, path, *headers, body=body).replace(b'Connection: close\r\n', b'')


GET, KEPT = request('GET', '/binary'), asking('GET', '/binary')  # the latter leaves the connection open


def send(client, server, data):
    """Send the bytes, or as many of them as the server takes: it may answer and close before the end."""
    def writable():
        return select.select([], [client], [], 0)[1]
    data = memoryview(data)
    with suppress(ConnectionError):  # the reply may have come before the reset
        while data and server.wait_until(lambda: writable() or readable(client)) and writable():
            data = data[client.send(data, socket.MSG_DONTWAIT):]


def fetch(server, *pieces):
    """Send a request in pieces, each after the server has read those before; return the Reply.

    Where none comes, FIN tells the server that there is no more; not before, as it may mean to it that
    the client has gone.
    """
    try:
        with connect(server) as client:
            for piece in pieces[:-1]:
                send(client, server, piece)
                server.let_rest()
            send(client, server, pieces[-1])
            method = 'HEAD' if pieces[0].startswith(b'HEAD ') else 'GET'
            reply = read_reply(client, server, method)
            if not reply.data and reply.end == OPEN:
                with suppress(OSError):  # it may have been reset just now
                    client.shutdown(socket.SHUT_WR)
                reply = read_reply(client, server, method)
    except (ConnectionRefusedError, TimeoutError):
        reply = Reply(end=REFUSED)
    server.last_exchange = b''.join(pieces), reply
    return reply


def get(server, path, *headers):
    return fetch(server, request('GET', path, *headers))


def narrow(client):
    """Have the kernel take few bytes for a connection that is not read: SO_RCVBUF, socket(7)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)


def reset(client):
    """Close the connection with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    client.close()


def reset_after(data):
    """What sends these bytes, and resets when an answer comes or the server rests."""
    def hang_up(server):
        client = connect(server)
        client.sendall(data)
        comes(client, server)
        reset(client)
    return hang_up


