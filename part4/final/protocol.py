"""HTTP/1.1 and WSGI without a socket: bytes come in, bytes go out, and nothing here waits.

Sources: RFC 9110 (HTTP), RFC 9112 (HTTP/1.1), PEP 3333 (WSGI).
"""
import email.utils
import functools
import io
import ipaddress
import math
import re
import sys
import time
import urllib.parse
import wsgiref.util
from typing import NamedTuple

MAX_LINE = 8 * 1024  # bytes of the request line
MAX_HEAD = 16 * 1024  # bytes of it and the headers
MAX_BODY = 1024 * 1024  # bytes
LARGE = 64 * 1024  # bytes; so many are not copied

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
URI = r"-._~0-9A-Za-z!$&'()*+,;="  # what stands for itself in any part of a URI (RFC 3986, section 2)
REQUEST_LINE = re.compile(rf'({TOKEN}) ([{URI}:@/?%[\]]+) (HTTP/[0-9]\.[0-9])')
FIELD_VALUE = r'[\t\x20-\x7e\x80-\xff]*'  # no control characters
FIELDS = re.compile(rf'(?:{TOKEN}:{FIELD_VALUE}\n)*')
HEAD_END = re.compile(rb'\n\r?\n')
STATUS = re.compile('[2-5][0-9]{2} ')
VISIBLE = bytes([*b'\t', *range(0x20, 0x7f), *range(0x80, 0x100)])  # all but control characters
AUTHORITY = re.compile(  # IPv6, something of the future or a name, and a port (RFC 3986, section 3.2.2)
    rf'(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|\[[vV][0-9A-Fa-f]+\.[{URI}:]+\]|(?:[{URI}]|%[0-9A-Fa-f]{{2}})+)(?::[0-9]*)?')
CHUNK_LINE = re.compile(rf'([0-9A-Fa-f]+)(?:[ \t]*;{FIELD_VALUE})?\r\n')  # size and extensions

NEED_DATA = b''  # nothing is to be sent, but more bytes have to come
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
http_date = functools.lru_cache(maxsize=1)(email.utils.formatdate)  # it is the same for a second


class RequestError(Exception):
    """A request that gets an error status: RequestError('400 Bad Request', 'the reason')."""
    method = ''  # of the request, if it is known: HEAD gets no body


class HangUp(BaseException):  # the "except Exception" of an application must not catch it
    """The connection cannot go on: the client is gone or too slow, or its response cannot be finished."""


class Request(NamedTuple):
    method: str
    path: str
    version: str
    headers: dict  # names are in lower case; text is bytes decoded as latin-1
    body: bytes

    @property
    def keep_alive(self):
        """Whether the client wants to send another request (RFC 9112, section 9.3)."""
        options = elements(self.headers['connection']) if 'connection' in self.headers else []
        return 'close' not in options and (self.version != 'HTTP/1.0' or 'keep-alive' in options)


def parse_requests(buffer):
    """Take the requests of a client off a bytearray, to which the caller adds what the client sends.

    Yields a Request when it is whole. Where more bytes have to come, yields what to send before:
    NEED_DATA or CONTINUE. Raises RequestError; after that nothing more can be parsed.
    """
    while True:
        yield (yield from take_request(buffer))


def take_line(buffer, limit):
    """Return a line with its line end, or without one if there is none in so many bytes."""
    while (end := buffer.find(b'\n', 0, limit)) < 0 and len(buffer) < limit:
        yield NEED_DATA
    return (yield from take(buffer, end + 1 or limit)).decode('latin-1')


def take(buffer, size):
    """Return so many bytes."""
    while len(buffer) < size:
        yield NEED_DATA
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def take_request(buffer):
    """Return a Request (RFC 9112, section 2.1); a bad request line is refused before more is read."""
    try:
        while True:
            end = HEAD_END.search(buffer, 0, MAX_HEAD)
            head = buffer[:end.end() if end else MAX_HEAD].replace(b'\r\n', b'\n').decode('latin-1')
            line, newline, lines = head.removeprefix('\n').partition('\n')  # a blank line in front is ignored
            if newline or len(line) >= MAX_LINE:
                method, path, version = parse_request_line(line)
            if end:
                break
            if len(buffer) >= MAX_HEAD:
                raise RequestError('431 Request Header Fields Too Large', 'the head is too long')
            yield NEED_DATA
        del buffer[:end.end()]
        headers = parse_fields(lines.removesuffix('\n'))
        path = check_target(method, path, version, headers)
        body = yield from take_body(buffer, headers, version)
    except RequestError as error:
        error.method = line.split(' ')[0]
        raise
    return Request(method, path, version, headers, body)


def check_target(method, path, version, headers):
    """Return the path of the target, whose host is in the headers afterwards (RFC 9112, section 3.2)."""
    if 'host' not in headers and version != 'HTTP/1.0':
        raise RequestError('400 Bad Request', 'there is no Host header (RFC 9112, section 3.2)')
    check_host(headers.get('host') or 'localhost')
    absolute = None if path.startswith('/') else re.match('(?i)http://([^/?]+)', path)
    if absolute:  # as sent to a proxy (section 3.2.2)
        check_host(absolute[1])
        path, headers['host'] = '/' + path[absolute.end():].removeprefix('/'), absolute[1]
    if not path.startswith('/') and (method, path) != ('OPTIONS', '*'):
        raise RequestError('400 Bad Request', 'this server does not serve such a target')
    return path


@functools.lru_cache(maxsize=256)
def check_host(text):
    """Refuse what is not host or host:port."""
    match = AUTHORITY.fullmatch(text)
    try:
        ipaddress.IPv6Address(match['ipv6'] or '::')
    except (TypeError, ValueError):  # there is no match, or no such address
        raise RequestError('400 Bad Request', 'Host is not one host (RFC 9112, section 3.2)') from None


def parse_request_line(line):
    """Return method, target and version (RFC 9112, section 3)."""
    if len(line) >= MAX_LINE:
        status = '414 URI Too Long' if ' ' in line else '501 Not Implemented'  # for a long method
        raise RequestError(status, 'the request line is too long')
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise RequestError('400 Bad Request', 'the request line is not METHOD TARGET VERSION')
    if not match[3].startswith('HTTP/1.'):
        raise RequestError('505 HTTP Version Not Supported', 'this server speaks HTTP/1.1')
    if match[1] == 'CONNECT':  # to where, is all the same (RFC 9110, section 9.3.6)
        raise RequestError('501 Not Implemented', 'this server is not a proxy')
    return match.groups()


def parse_fields(lines):
    """Return header lines as a dict (RFC 9112, section 5)."""
    if not FIELDS.fullmatch(lines):
        raise RequestError('400 Bad Request', 'a header line is not NAME: VALUE')
    fields = {}
    for line in lines.split('\n')[:-1]:
        name, _, value = line.partition(':')
        name, value = name.lower(), value.strip(' \t')
        if name in fields:  # a repeated header is a list (RFC 9110, section 5.2)
            value = fields[name] + ('; ' if name == 'cookie' else ', ') + value
        fields[name] = value
    return fields


def take_body(buffer, headers, version):
    """Return the body, whose length the headers tell (RFC 9112, section 6)."""
    coding, length = headers.pop('transfer-encoding', None), content_length(headers)
    if coding is not None:
        check_transfer_coding(coding, headers, version)
    expected = elements(headers['expect']) if 'expect' in headers and version != 'HTTP/1.0' else []
    if expected and set(expected) != {'100-continue'}:
        raise RequestError('417 Expectation Failed', 'this server knows no expectation but 100-continue')
    if expected and not buffer and (coding or length):
        yield CONTINUE
    if coding is None:
        return (yield from take(buffer, length)) if length else b''
    body = yield from take_chunks(buffer)
    headers['content-length'] = str(len(body))  # the application gets it as if it had come in one piece
    return body


def elements(value):
    """Return the elements of a list in lower case, without empty ones (RFC 9110, section 5.6.1)."""
    return [word for text in value.lower().split(',') if (word := text.strip(' \t'))]


def content_length(headers):
    """Return Content-Length as a number, 0 without one."""
    length = headers.get('content-length')
    if length is None:
        return 0
    if not re.fullmatch('[0-9]+', length):
        raise RequestError('400 Bad Request', 'Content-Length is not one number')
    if float(length) > MAX_BODY:  # int() refuses thousands of digits
        raise RequestError('413 Content Too Large', 'the body is too long')
    return int(float(length))


def check_transfer_coding(coding, headers, version):
    """Refuse what another server could read in another way (RFC 9112, sections 6.1 and 6.3)."""
    codings = elements(coding)
    if 'content-length' in headers or version == 'HTTP/1.0':
        raise RequestError('400 Bad Request', 'Transfer-Encoding cannot go with Content-Length or HTTP/1.0')
    if codings[-1:] != ['chunked'] or codings.count('chunked') > 1:
        raise RequestError('400 Bad Request', 'chunked is not the last transfer coding, or is there twice')
    if codings != ['chunked']:
        raise RequestError('501 Not Implemented', 'this server knows no transfer coding but chunked')


def take_chunks(buffer):
    """Return the body that comes in chunks, without the trailers behind it (RFC 9112, section 7.1)."""
    body, room = bytearray(), MAX_HEAD  # for all that is no part of the body: extensions, zeros, trailers
    while True:
        line = yield from take_line(buffer, room)
        match = CHUNK_LINE.fullmatch(line)
        if not match:
            raise RequestError('400 Bad Request', 'a chunk does not begin with a line that tells its size')
        size = int(match[1], 16)
        room -= len(line) - len(f'{size:x}\r\n')
        if size == 0:
            break
        if len(body) + size > MAX_BODY:
            raise RequestError('413 Content Too Large', 'the body is too long')
        chunk = yield from take(buffer, size + 2)
        if not chunk.endswith(b'\r\n'):
            raise RequestError('400 Bad Request', 'a chunk is not as long as its size says')
        body += chunk[:-2]
    while (line := (yield from take_line(buffer, room))) != '\r\n':
        room -= len(line)
        if not FIELDS.fullmatch(line.replace('\r\n', '\n')) or not line.endswith('\r\n'):
            raise RequestError('400 Bad Request', 'a trailer is not NAME: VALUE, or there are too many')
    return bytes(body)


def base_environ(server_addr):
    """Return what the environ of every request has in common."""
    return {
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': 'http',
        'wsgi.multithread': True,
        'wsgi.multiprocess': True,
        'wsgi.run_once': False,
        'SCRIPT_NAME': '',
        'SERVER_NAME': server_addr[0],
        'SERVER_PORT': str(server_addr[1]),
    }


def get_environ(base, request, client_addr):
    """Return what PEP 3333 calls the environ."""
    path, _, query = request.path.partition('?')
    env = {
        **base,
        'wsgi.input': io.BytesIO(request.body),
        'wsgi.errors': sys.stderr or io.StringIO(),  # standard error may be closed
        'REQUEST_METHOD': request.method,
        'PATH_INFO': urllib.parse.unquote(path, 'latin-1'),
        'QUERY_STRING': query,
        'SERVER_PROTOCOL': request.version,
        'REMOTE_ADDR': client_addr[0],
    }
    for name, value in request.headers.items():
        if '_' not in name:  # X_Y would pass for X-Y
            env[environ_key(name)] = value
    return env


@functools.lru_cache(maxsize=256)
def environ_key(name):
    key = name.upper().replace('-', '_')
    return key if key in ('CONTENT_TYPE', 'CONTENT_LENGTH') else f'HTTP_{key}'


class Response:
    """A response as bytes: send() gets those that the application writes; request is None if none came."""

    def __init__(self, request, send):
        self.send, self.method = send, request.method if request else ''
        self.version = request.version if request else 'HTTP/1.1'
        self.keep_alive = request.keep_alive if request else False
        self.body_length, self.length_left, self.chunked = None, math.inf, False  # until they are known
        self.headers_set, self.headers_sent, self.finished = [], False, False

    def start_response(self, status, response_headers, exc_info=None):
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: leave no reference cycle
        elif self.headers_set:
            raise AssertionError('start_response() was called before, and no exc_info is given')
        response_headers = [(name, value) for name, value in response_headers]  # it may change its own list
        length = check_promises(status, response_headers)
        self.has_body = self.method != 'HEAD' and status[:3] not in ('204', '205', '304')
        self.length_left = length if self.has_body else math.inf
        self.headers_set = [status, response_headers]
        return self.write

    def write(self, data):
        for piece in self.framed(data):
            self.send(piece)

    def framed(self, data):
        """Yield what is to be sent for some body bytes: for the first ones, the headers come before."""
        if not self.headers_set:
            raise AssertionError('start_response() was not called')
        if not isinstance(data, bytes):
            raise TypeError(f'the body is {type(data)} instead of bytes')
        if not self.has_body:
            data = b''
        is_too_long = len(data) > self.length_left
        if is_too_long:
            data = data[:self.length_left]
        self.length_left -= len(data)
        head, end = b'' if self.headers_sent else self.response_head(), b''
        if self.chunked and data:
            head, end = head + b'%x\r\n' % len(data), b'\r\n'
        self.headers_sent = True
        yield from [head + data + end] if len(data) < LARGE else filter(None, [head, data, end])
        if is_too_long:
            self.finished = True  # the client has all that was announced
            raise ValueError('the body is longer than its Content-Length')

    def response_head(self):
        """Return the status and the headers."""
        status, headers = self.headers_set
        if status[:3] in ('204', '205'):  # they have no content (RFC 9110, sections 8.6 and 15.3.6)
            headers = [header for header in headers if header[0].lower() != 'content-length']
        given = {name.lower() for name, value in headers}
        framing = []  # how the client finds the end of the body (RFC 9112, section 6.3)
        if status[:3] == '205':
            framing = [('Content-Length', '0')]
        elif self.has_body and 'content-length' not in given:
            if self.body_length is not None:
                framing = [('Content-Length', str(self.body_length))]
            elif self.version != 'HTTP/1.0':
                framing, self.chunked = [('Transfer-Encoding', 'chunked')], True
            else:
                self.keep_alive = False  # it ends where the connection ends
        ours = [
            ('Date', http_date(int(time.time()), usegmt=True)),
            ('Server', 'WSGIServer 0.2'),
            ('Connection', 'keep-alive' if self.keep_alive else 'close'),  # RFC 9112, section 9.6
            *framing,
        ]
        headers = headers + [header for header in ours if header[0].lower() not in given]
        lines = [f'HTTP/1.1 {status}', *[f'{name}: {value}' for name, value in headers], '\r\n']
        return '\r\n'.join(lines).encode('latin-1')

    def finish_response(self, result):
        """Yield what is to be sent for what the application has returned."""
        try:
            if type(result) in (list, tuple):
                self.body_length = len(b''.join(result))
                if self.body_length < self.length_left < math.inf:  # before any of it is sent
                    raise ValueError('the body is shorter than its Content-Length')
            for data in result:
                if data:
                    yield from self.framed(data)
                if self.headers_sent and not self.has_body:
                    break  # the rest is not for this client
            if 0 < self.length_left < math.inf:
                raise ValueError('the body is shorter than its Content-Length')
            if not self.headers_sent:
                self.body_length = 0
                yield from self.framed(b'')
            if self.chunked:
                yield b'0\r\n\r\n'
            self.finished = True
        finally:
            if hasattr(result, 'close'):
                result.close()

    def error(self, status, reason):
        """Return a whole response with an error status, as the bytes to be sent."""
        if self.headers_sent:
            raise HangUp
        self.headers_set = []
        self.start_response(status, [('Content-Type', 'text/plain')])
        return b''.join(self.finish_response([f'{reason}\n'.encode()]))


def check_promises(status, response_headers):
    """Return the Content-Length, or infinity; raise ValueError for what must not be sent (PEP 3333)."""
    lengths = [value for name, value in response_headers if sendable_name(name) == 'content-length']
    text = ''.join([status, *[value for name, value in response_headers]])
    if not STATUS.match(status) or text.encode('latin-1').translate(None, VISIBLE):
        raise ValueError(f'not a status and headers that may be sent: {status!r}, {response_headers}')
    if len(lengths) > 1 or lengths and not re.fullmatch('[0-9]{1,18}', lengths[0]):
        raise ValueError(f'not one Content-Length: {lengths}')
    return int(lengths[0]) if lengths else math.inf


@functools.lru_cache(maxsize=256)
def sendable_name(name):
    """Return a header's name in lower case; raises ValueError for one that an application may not send."""
    if not re.fullmatch(TOKEN, name) or wsgiref.util.is_hop_by_hop(name):
        raise ValueError(f'not a header that an application may send: {name!r}')
    return name.lower()
