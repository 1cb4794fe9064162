"""HTTP/1.1 and WSGI without a socket: bytes come in, bytes go out, and nothing here waits.

Sources: RFC 9110 (HTTP), RFC 9112 (HTTP/1.1), PEP 3333 (WSGI).
"""
import email.utils
import functools
import io
import math
import re
import sys
import time
import urllib.parse
import wsgiref.util
from typing import NamedTuple

MAX_HEAD = 16 * 1024  # bytes
MAX_BODY = 1024 * 1024  # bytes

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf'({TOKEN}) ([^\x00-\x20\x7f]+) (HTTP/[0-9]\.[0-9])')
FIELD_VALUE = r'[\t\x20-\x7e\x80-\xff]*'  # no control characters
HEAD_END = re.compile(rb'\n\r?\n')
VISIBLE = bytes([*b'\t', *range(0x20, 0x7f), *range(0x80, 0x100)])  # all but control characters
AUTHORITY = r'(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.~!$&()*+;=%_-]+)(?::[0-9]*)?'  # host:port
HOST = re.compile(rf'({AUTHORITY})?')
ABSOLUTE_PATH = re.compile(rf'(?i)http://({AUTHORITY})(?=[/?]|$)')
STATUS = re.compile('[2-5][0-9]{2} ')
CHUNK_LINE = re.compile(rf'([0-9A-Fa-f]{{1,8}})((?:[ \t]*;{FIELD_VALUE})?)\r\n')  # size and extensions

NEED_DATA = b''  # nothing is to be sent, but more bytes have to come
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'


class RequestError(Exception):
    """A request that gets an error status: RequestError('400 Bad Request', 'the reason')."""
    method = ''  # of the request, once it is known


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
        if 'connection' not in self.headers:
            return self.version != 'HTTP/1.0'
        options = [option.strip(' \t') for option in self.headers['connection'].lower().split(',')]
        return 'close' not in options and (self.version != 'HTTP/1.0' or 'keep-alive' in options)


def parse_requests(buffer):
    """Take the requests of a client off a bytearray, to which the caller adds what the client sends.

    Yields a Request when it is whole. Where more bytes have to come, yields what to send before:
    NEED_DATA or CONTINUE. Raises RequestError; after that nothing more can be parsed.
    """
    while True:
        yield (yield from take_request(buffer))


def take_line(buffer, limit, status):
    """Return a line with its line end; raises RequestError with that status beyond the limit in bytes."""
    while (end := buffer.find(b'\n', 0, limit)) < 0:
        if len(buffer) >= limit:
            raise RequestError(status, 'a line is too long, or too many lines come')
        yield NEED_DATA
    return (yield from take(buffer, end + 1)).decode('latin-1')


def take(buffer, size):
    """Return so many bytes."""
    while len(buffer) < size:
        yield NEED_DATA
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def take_request(buffer):
    """Return a Request (RFC 9112, section 2.1)."""
    head = yield from take_head(buffer)
    line, *lines = head.split('\n')
    method, path, version = parse_request_line(line)
    try:
        headers = parse_fields(lines)
        path = check_target(path, version, headers)
        body = yield from take_body(buffer, headers, version)
    except RequestError as error:
        error.method = method
        raise
    return Request(method, path, version, headers, body)


def take_head(buffer):
    """Return the lines in front of the blank line; a bad request line is refused before more is read."""
    while not (end := HEAD_END.search(buffer, 0, MAX_HEAD)):
        line, newline, _ = lines_of(buffer).partition('\n')
        if newline:
            parse_request_line(line)
        if len(buffer) >= MAX_HEAD:
            status = '431 Request Header Fields Too Large' if newline else '414 URI Too Long'
            raise RequestError(status, 'a line is too long, or too many lines come')
        yield NEED_DATA
    head = lines_of(buffer[:end.start() + 1])[:-1]
    del buffer[:end.end()]
    return head


def lines_of(data):
    """Return bytes as text; each line ends with LF, and a blank line in front is ignored (section 2.2)."""
    return data.replace(b'\r\n', b'\n').removeprefix(b'\n').decode('latin-1')


def check_target(path, version, headers):
    """Return the path of the target, whose host is in the headers afterwards (RFC 9112, section 3.2)."""
    if 'host' not in headers and version != 'HTTP/1.0':
        raise RequestError('400 Bad Request', 'there is no Host header (RFC 9112, section 3.2)')
    if not HOST.fullmatch(headers.get('host', '')):
        raise RequestError('400 Bad Request', 'Host is not one host (RFC 9112, section 3.2)')
    if path.startswith('/'):
        return path
    absolute = ABSOLUTE_PATH.match(path)  # as sent to a proxy (section 3.2.2)
    if not absolute:
        raise RequestError('400 Bad Request', 'this server does not serve such a target')
    headers['host'] = absolute[1]
    return '/' + path[absolute.end():].removeprefix('/')


def parse_request_line(line):
    """Return method, target and version (RFC 9112, section 3)."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise RequestError('400 Bad Request', 'the request line is not METHOD TARGET VERSION')
    if not match[3].startswith('HTTP/1.'):
        raise RequestError('505 HTTP Version Not Supported', 'this server speaks HTTP/1.1')
    return match.groups()


def parse_fields(lines):
    """Return header or trailer lines as a dict (RFC 9112, section 5)."""
    if ''.join(lines).encode('latin-1').translate(None, VISIBLE):
        raise RequestError('400 Bad Request', 'there is a control character in a header line')
    fields = {}
    for line in lines:
        name, colon, value = line.partition(':')
        name, value = field_name(name if colon else ''), value.strip(' \t')
        if name in fields:  # a repeated header is a list (RFC 9110, section 5.2)
            value = fields[name] + ', ' + value
        fields[name] = value
    return fields


@functools.lru_cache(maxsize=256)
def field_name(name):
    """Return the name of a header in lower case; raises RequestError for what is no name."""
    if not re.fullmatch(TOKEN, name):
        raise RequestError('400 Bad Request', 'a header line is not NAME: VALUE')
    return name.lower()


@functools.lru_cache(maxsize=256)
def environ_key(name):
    """Return the key of a header in the environ, or None if there is none."""
    if '_' in name:
        return None  # X_Y would pass for X-Y
    key = name.upper().replace('-', '_')
    return key if key in ('CONTENT_TYPE', 'CONTENT_LENGTH') else f'HTTP_{key}'


def take_body(buffer, headers, version):
    """Return the body, whose length the headers tell (RFC 9112, section 6)."""
    coding, length = headers.pop('transfer-encoding', None), content_length(headers)
    if coding is not None:
        check_transfer_coding(coding, headers, version)
    asks = headers.get('expect', '').lower() == '100-continue' and version != 'HTTP/1.0'
    if asks and not buffer and (coding or length):
        yield CONTINUE
    if coding is None:
        return (yield from take(buffer, length)) if length else b''
    body = yield from take_chunks(buffer)
    headers['content-length'] = str(len(body))  # the application gets it as if it had come in one piece
    return body


def content_length(headers):
    """Return Content-Length as a number, 0 without one."""
    length = headers.get('content-length')
    if length is None:
        return 0
    if not re.fullmatch('[0-9]+', length):
        raise RequestError('400 Bad Request', 'Content-Length is not one number')
    length = length.lstrip('0') or '0'
    if len(length) > 10 or int(length) > MAX_BODY:  # int() refuses thousands of digits
        raise RequestError('413 Content Too Large', 'the body is too long')
    return int(length)


def check_transfer_coding(coding, headers, version):
    """Refuse what another server could read in another way (RFC 9112, sections 6.1 and 6.3)."""
    codings = [name.strip(' \t') for name in coding.lower().split(',')]
    if 'content-length' in headers or version == 'HTTP/1.0':
        raise RequestError('400 Bad Request', 'Transfer-Encoding cannot go with Content-Length or HTTP/1.0')
    if codings[-1] != 'chunked' or codings.count('chunked') > 1:
        raise RequestError('400 Bad Request', 'chunked is not the last transfer coding, or is there twice')
    if codings != ['chunked']:
        raise RequestError('501 Not Implemented', 'this server knows no transfer coding but chunked')


def take_chunks(buffer):
    """Return the body that comes in chunks (RFC 9112, section 7.1)."""
    body, room = bytearray(), MAX_HEAD  # for all extensions together
    while True:
        line = yield from take_line(buffer, room + len('ffffffff\r\n'), '400 Bad Request')
        match = CHUNK_LINE.fullmatch(line)
        if not match:
            raise RequestError('400 Bad Request', 'a chunk does not begin with a line that tells its size')
        size = int(match[1], 16)
        room -= len(match[2])
        if size == 0:
            yield from take_trailers(buffer)
            return bytes(body)
        if len(body) + size > MAX_BODY:
            raise RequestError('413 Content Too Large', 'the body is too long')
        chunk = yield from take(buffer, size + 2)
        if not chunk.endswith(b'\r\n'):
            raise RequestError('400 Bad Request', 'a chunk is not as long as its size says')
        body += chunk[:-2]


def take_trailers(buffer):
    """Take the fields behind the last chunk, which nobody asks for here (RFC 9112, section 7.1.2)."""
    room = MAX_HEAD
    status = '431 Request Header Fields Too Large'
    while line := (yield from take_line(buffer, room, status)).removesuffix('\n').removesuffix('\r'):
        room -= len(line) + len('\r\n')
        parse_fields([line])


def base_environ(server_addr, multithread):
    """Return what the environ of every request has in common."""
    return {
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': 'http',
        'wsgi.errors': sys.stderr,
        'wsgi.multithread': multithread,
        'wsgi.multiprocess': True,
        'wsgi.run_once': False,
        'SCRIPT_NAME': '',
        'SERVER_NAME': server_addr[0],
        'SERVER_PORT': str(server_addr[1]),
    }


def get_environ(base, request, client_addr):
    """Return what PEP 3333 calls the environ."""
    path, _, query = request.path.partition('?')
    if '%' in path:
        path = urllib.parse.unquote_to_bytes(path.encode('latin-1')).decode('latin-1')
    env = {
        **base,
        'wsgi.input': io.BytesIO(request.body),
        'REQUEST_METHOD': request.method,
        'PATH_INFO': path,
        'QUERY_STRING': query,
        'SERVER_PROTOCOL': request.version,
        'REMOTE_ADDR': client_addr[0],
    }
    for name, value in request.headers.items():
        if key := environ_key(name):
            env[key] = value
    return env


class Response:
    """A response, as the bytes to be sent; request is None if the error came before there was one.

    send    is called with the bytes of each write() of the application
    """

    def __init__(self, request, send):
        self.send, self.method = send, request.method if request else ''
        self.version = request.version if request else 'HTTP/1.1'
        self.keep_alive = request.keep_alive if request else False
        self.body_length = None  # nobody knows it yet
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
        length = check_promises(status, response_headers)
        self.has_body = self.method != 'HEAD' and status[:3] not in ('204', '205', '304')
        self.length_left = length if self.has_body else math.inf
        self.chunked = False
        self.headers_set = [status, response_headers]
        return self.write

    def write(self, data):
        self.send(self.framed(data))

    def framed(self, data):
        """Return what is to be sent for some body bytes: for the first ones, the headers come before."""
        if not self.headers_set:
            raise AssertionError('start_response() was not called')
        if not self.has_body:
            data = b''
        if len(data) > self.length_left:
            raise ValueError('the body is longer than its Content-Length')
        self.length_left -= len(data)
        head = b'' if self.headers_sent else self.response_head()
        if self.chunked and data:
            data = b'%x\r\n%b\r\n' % (len(data), data)
        self.headers_sent = True
        return head + data

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
            ('Date', http_date(int(time.time()))),
            ('Server', 'WSGIServer 0.2'),
            ('Connection', 'keep-alive' if self.keep_alive else 'close'),  # RFC 9112, section 9.6
            *framing,
        ]
        headers = headers + [header for header in ours if header[0].lower() not in given]
        lines = [f'HTTP/1.1 {status}', *(f'{name}: {value}' for name, value in headers)]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')

    def finish_response(self, result):
        """Yield what is to be sent for what the application has returned."""
        try:
            for data in result:
                if hasattr(result, '__len__') and len(result) == 1:
                    self.body_length = len(data)  # as PEP 3333 suggests
                if data:
                    yield self.framed(data)
                if self.headers_sent and not self.has_body:
                    break  # the rest is not for this client
            if 0 < self.length_left < math.inf:
                raise ValueError('the body is shorter than its Content-Length')
            if not self.headers_sent:
                self.body_length = 0
                yield self.framed(b'')
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


@functools.lru_cache(maxsize=1)
def http_date(seconds):
    return email.utils.formatdate(seconds, usegmt=True)


def check_promises(status, response_headers):
    """Return the Content-Length, or infinity; raise ValueError for what must not be sent (PEP 3333)."""
    lengths = [value for name, value in response_headers if sendable_name(name) == 'content-length']
    text = ''.join([status, *(value for name, value in response_headers)])
    if not STATUS.match(status) or text.encode('latin-1').translate(None, VISIBLE):
        raise ValueError(f'not a status and headers that may be sent: {status!r}, {response_headers}')
    if not lengths:
        return math.inf
    if len(lengths) > 1 or not re.fullmatch('[0-9]{1,18}', lengths[0]):
        raise ValueError(f'not a Content-Length: {", ".join(lengths)}')
    return int(lengths[0])


@functools.lru_cache(maxsize=256)
def sendable_name(name):
    """Return a header's name in lower case; raises ValueError for one that an application may not send."""
    if not re.fullmatch(TOKEN, name) or wsgiref.util.is_hop_by_hop(name):
        raise ValueError(f'not a header that an application may send: {name}')
    return name.lower()
