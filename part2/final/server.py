"""A WSGI server that holds its application to its promises.

Article: https://ruslanspivak.com/lsbaws-part2/
"""
import contextlib
import email.utils
import importlib
import io
import ipaddress
import math
import os
import re
import socket
import struct
import sys
import time
import traceback
import urllib.parse
import wsgiref.util

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
LINGER = 0.5  # seconds in which a client that should go may still send
TIMEOUT = 10  # seconds in which it must send some bytes, or take some
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than TIMEOUT to make room in
MAX_LINE = 8 * 1024  # bytes of the request line
MAX_HEAD = 16 * 1024  # bytes of it and the headers
MAX_BODY = 1024 * 1024  # bytes

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
URI = r"-._~0-9A-Za-z!$&'()*+,;="  # what stands for itself in any part of a URI (RFC 3986, section 2)
REQUEST_LINE = re.compile(rf'({TOKEN}) ([{URI}:@/?%[\]]+) (HTTP/[0-9]\.[0-9])\r?\n')
FIELD_VALUE = r'[\t\x20-\x7e\x80-\xff]*'  # no control characters
HEADER_LINE = re.compile(rf'({TOKEN}):({FIELD_VALUE})')
AUTHORITY = re.compile(  # IPv6, something of the future or a name, and a port (RFC 3986, section 3.2.2)
    rf'(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|\[[vV][0-9A-Fa-f]+\.[{URI}:]+\]|(?:[{URI}]|%[0-9A-Fa-f]{{2}})+)(?::[0-9]*)?')


class RequestError(Exception):
    """A request that gets an error status: RequestError('400 Bad Request', 'the reason')."""


class HangUp(BaseException):  # the "except Exception" of an application must not catch it
    """The connection cannot go on: the client is gone or too slow, or its response cannot be finished."""


class WSGIServer:
    request_queue_size = 5

    def __init__(self, server_address):
        self.listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # clients inherit it
        self.listen_socket.bind(server_address)
        self.listen_socket.listen(self.request_queue_size)
        self.server_name, self.server_port = self.listen_socket.getsockname()

    def set_app(self, application):
        self.application = application

    def serve_forever(self):
        server = os.getpid()
        while os.getpid() == server:  # what the application has forked is no server
            self.client_fd, self.client_addr = self.listen_socket.accept()
            self.client_fd.settimeout(TIMEOUT)
            self.handle_one_request()

    def handle_one_request(self):
        self.headers_set, self.headers_sent, self.finished = [], False, False
        self.request_method, self.length_left = None, math.inf
        try:
            self.answer_request()
            self.finish_connection()
        except HangUp:
            if self.headers_sent:  # RST instead of FIN, or half a response would look whole; see socket(7)
                with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                    self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        finally:
            self.client_fd.close()

    def answer_request(self):
        try:
            self.read_request()
            result = self.application(self.get_environ(), self.start_response)
            self.finish_response(result)
        except RequestError as error:
            self.send_error(*error.args)
        except (HangUp, KeyboardInterrupt):
            raise
        except BaseException:  # sys.exit() is no Exception
            with contextlib.suppress(OSError, ValueError):  # standard error may be full or closed
                traceback.print_exc()
            if not self.finished:
                self.send_error('500 Internal Server Error', 'the server or its application failed')

    def read_request(self):
        try:
            with self.client_fd.makefile('rb') as stream:
                head = self.read_head(stream)
                echo('< ', head)
                self.parse_request(head)
                self.body = self.read_body(stream)
        except OSError as error:
            raise HangUp from error

    def read_head(self, stream):
        """Return the request line and the headers, up to the blank line (RFC 9112, section 2.1)."""
        head = line = stream.readline(MAX_LINE)
        if line in (b'\r\n', b'\n'):
            head = line = stream.readline(MAX_LINE)  # a blank line in front is ignored (section 2.2)
        self.request_method = head.split(b' ')[0].decode('latin-1')  # HEAD gets no body, even with an error
        if len(head) == MAX_LINE:
            status = '414 URI Too Long' if b' ' in head else '501 Not Implemented'  # for a long method
            raise RequestError(status, 'the request line is too long')
        well_formed = REQUEST_LINE.match(head.decode('latin-1'))  # if not, parse_request() refuses it
        while well_formed and line not in (b'\r\n', b'\n', b''):
            line = stream.readline(MAX_HEAD)
            head += line
            if len(head) > MAX_HEAD:
                raise RequestError('431 Request Header Fields Too Large', 'the head is too long')
        if not line.endswith(b'\n'):
            raise HangUp
        return head

    def parse_request(self, head):
        """Take the head apart (RFC 9112, sections 3 and 5); raises RequestError."""
        head = head.decode('latin-1')
        match = REQUEST_LINE.match(head)
        if not match:
            raise RequestError('400 Bad Request', 'the request line is not METHOD TARGET VERSION')
        self.request_method, self.path, self.request_version = match.groups()
        if not self.request_version.startswith('HTTP/1.'):
            raise RequestError('505 HTTP Version Not Supported', 'this server speaks HTTP/1.1')
        if self.request_method == 'CONNECT':  # to where, is all the same (RFC 9110, section 9.3.6)
            raise RequestError('501 Not Implemented', 'this server is not a proxy')
        absolute = re.match('(?i)http://([^/?]+)', self.path)
        if absolute:  # as sent to a proxy (section 3.2.2)
            self.path = '/' + self.path[absolute.end():].removeprefix('/')
        if not self.path.startswith('/') and (self.request_method, self.path) != ('OPTIONS', '*'):
            raise RequestError('400 Bad Request', 'this server does not serve such a target')
        self.headers = {}
        for line in head[match.end():].split('\n')[:-2]:
            field = HEADER_LINE.fullmatch(line.removesuffix('\r'))
            if not field:
                raise RequestError('400 Bad Request', 'a header line is not NAME: VALUE')
            name, value = field[1].lower(), field[2].strip(' \t')
            if name in self.headers:  # a repeated header is a list (RFC 9110, section 5.2)
                value = self.headers[name] + ('; ' if name == 'cookie' else ', ') + value
            self.headers[name] = value
        if 'host' not in self.headers and self.request_version != 'HTTP/1.0':
            raise RequestError('400 Bad Request', 'there is no Host header (RFC 9112, section 3.2)')
        check_host(self.headers.get('host') or 'localhost')
        if absolute:
            check_host(absolute[1])
            self.headers['host'] = absolute[1]

    def read_body(self, stream):
        """Return as many bytes as Content-Length says (RFC 9112, section 6); raises RequestError."""
        if 'transfer-encoding' in self.headers:
            if elements(self.headers['transfer-encoding'])[-1:] != ['chunked']:
                raise RequestError('400 Bad Request', 'chunked is not the last transfer coding')
            raise RequestError('501 Not Implemented', 'this server does not know Transfer-Encoding')
        length = self.headers.get('content-length', '0')
        if not re.fullmatch('[0-9]+', length):
            raise RequestError('400 Bad Request', 'Content-Length is not one number')
        length = float(length)  # int() refuses thousands of digits
        if length > MAX_BODY:
            raise RequestError('413 Content Too Large', 'the body is too long')
        expected = elements(self.headers.get('expect', '')) if self.request_version != 'HTTP/1.0' else []
        if set(expected) - {'100-continue'}:
            raise RequestError('417 Expectation Failed', 'this server knows no expectation but 100-continue')
        if expected:
            self.client_fd.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
        body = stream.read(int(length))
        if len(body) < length:
            raise HangUp
        return body

    def get_environ(self):
        """Return what PEP 3333 calls the environ; its text is bytes decoded as latin-1."""
        path, _, query = self.path.partition('?')
        env = {
            'wsgi.version': (1, 0),
            'wsgi.url_scheme': 'http',
            'wsgi.input': io.BytesIO(self.body),
            'wsgi.errors': sys.stderr or io.StringIO(),  # standard error may be closed
            'wsgi.multithread': False,
            'wsgi.multiprocess': False,
            'wsgi.run_once': False,
            'REQUEST_METHOD': self.request_method,
            'SCRIPT_NAME': '',
            'PATH_INFO': urllib.parse.unquote_to_bytes(path.encode('latin-1')).decode('latin-1'),
            'QUERY_STRING': query,
            'SERVER_NAME': self.server_name,
            'SERVER_PORT': str(self.server_port),
            'SERVER_PROTOCOL': self.request_version,
            'REMOTE_ADDR': self.client_addr[0],
        }
        for name, value in self.headers.items():
            if '_' in name:
                continue  # X_Y would pass for X-Y
            key = name.upper().replace('-', '_')
            env[key if key in ('CONTENT_TYPE', 'CONTENT_LENGTH') else f'HTTP_{key}'] = value
        return env

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
        length = self.check_promises(status, response_headers)
        server_headers = [
            ('Date', email.utils.formatdate(usegmt=True)),
            ('Server', 'WSGIServer 0.2'),
            ('Connection', 'close'),  # RFC 9112, section 9.6
        ]
        given = {name.lower() for name, value in response_headers}
        server_headers = [header for header in server_headers if header[0].lower() not in given]
        self.has_body = self.request_method != 'HEAD' and status[:3] not in ('204', '205', '304')
        self.length_left = length if self.has_body else math.inf
        if status[:3] in ('204', '205'):  # they have no content (RFC 9110, sections 8.6 and 15.3.6)
            response_headers = [header for header in response_headers
                                if header[0].lower() != 'content-length']
        self.headers_set = [status, response_headers + server_headers]
        return self.write

    def check_promises(self, status, response_headers):
        """Return the Content-Length, or infinity; raise ValueError for what must not be sent (PEP 3333)."""
        if not re.fullmatch(rf'[2-5][0-9]{{2}} {FIELD_VALUE}', status):
            raise ValueError(f'not a status: {status!r}')
        for name, value in response_headers:
            well_formed = re.fullmatch(TOKEN, name) and re.fullmatch(FIELD_VALUE, value)
            if not well_formed or wsgiref.util.is_hop_by_hop(name):
                raise ValueError(f'not a header that an application may send: {name!r}: {value!r}')
        lengths = [value for name, value in response_headers if name.lower() == 'content-length']
        if len(lengths) > 1 or not all(re.fullmatch('[0-9]{1,18}', value) for value in lengths):
            raise ValueError(f'not one Content-Length: {lengths}')
        return int(lengths[0]) if lengths else math.inf

    def write(self, data):
        """Send body bytes; the first call sends the status and the headers before them."""
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
        if not self.headers_sent:
            data = self.response_head() + data
            self.headers_sent = True
        echo('> ', data)
        data = memoryview(data)
        try:
            while data:  # sendall() would have one TIMEOUT for all of it
                data = data[self.client_fd.send(data):]
        except OSError as error:
            raise HangUp from error
        if is_too_long:
            self.finished = True  # the client has all that was announced
            raise ValueError('the body is longer than its Content-Length')

    def response_head(self):
        status, response_headers = self.headers_set
        lines = [f'HTTP/1.1 {status}', *(f'{name}: {value}' for name, value in response_headers)]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')

    def finish_response(self, result):
        try:
            if type(result) in (list, tuple) and len(b''.join(result)) < self.length_left < math.inf:
                raise ValueError('the body is shorter than its Content-Length')  # before any of it is sent
            for data in result:
                if data:
                    self.write(data)
                if self.headers_sent and not self.has_body:
                    break  # the rest is not for this client
            if 0 < self.length_left < math.inf:
                raise ValueError('the body is shorter than its Content-Length')
            if not self.headers_sent:
                self.write(b'')
            self.finished = True
        finally:
            if hasattr(result, 'close'):
                result.close()

    def send_error(self, status, reason):
        if self.headers_sent:
            raise HangUp
        self.headers_set = []
        self.start_response(status, [('Content-Type', 'text/plain')])
        self.write(f'{reason}\n'.encode())

    def finish_connection(self):
        """Close our half, then read on for a while: to close a socket with input unread would
        reset the connection, and the client could lose the response (RFC 9112, section 9.6)."""
        deadline = time.monotonic() + LINGER
        with contextlib.suppress(OSError):
            self.client_fd.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.client_fd.settimeout(left)
                if not self.client_fd.recv(65536):
                    break


def echo(prefix, data):
    """Print bytes the way `curl -v` does: each line behind the prefix, control characters escaped."""
    lines = [line.decode('latin-1').encode('unicode_escape').decode() for line in data.splitlines()]
    with contextlib.suppress(OSError, ValueError):  # standard output may be full or closed
        print(*[prefix + line for line in lines], '', sep='\n', flush=True)


def check_host(text):
    """Refuse what is not host or host:port."""
    match = AUTHORITY.fullmatch(text)
    try:
        ipaddress.IPv6Address(match['ipv6'] or '::')
    except (TypeError, ValueError):  # there is no match, or no such address
        raise RequestError('400 Bad Request', 'Host is not one host (RFC 9112, section 3.2)') from None


def elements(value):
    """Return the elements of a list in lower case, without empty ones (RFC 9110, section 5.6.1)."""
    return [word for text in value.lower().split(',') if (word := text.strip(' 	'))]


def make_server(server_address, application):
    server = WSGIServer(server_address)
    server.set_app(application)
    return server


def load_application(path):
    """Return the callable that module:callable names; exits with one line where there is none."""
    module, _, name = path.partition(':')
    if not all(word.isidentifier() for word in [*module.split('.'), name]):
        sys.exit('Provide a WSGI application object as module:callable')
    sys.path.insert(0, os.getcwd())
    try:
        application = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name in (module, module.split('.')[0]):
            sys.exit(f'{error} in {os.getcwd()}. Those of this repository are in part2/apps')
        sys.exit(f'{error}. Install it in a virtual environment such as .venv, and use its Python')
    return application if callable(application) else sys.exit(f'{path} is not a callable')


def main():
    application = load_application(sys.argv[1] if len(sys.argv) > 1 else '')
    httpd = make_server((HOST, PORT), application)
    with contextlib.suppress(OSError):
        print(f'Serving HTTP on port {httpd.server_port} ...\n', flush=True)
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
