"""A WSGI server that outlives its clients and its application.

Article: https://ruslanspivak.com/lsbaws-part2/
"""
import contextlib
import email.utils
import importlib
import io
import os
import socket
import struct
import sys
import time
import traceback
import urllib.parse

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
LINGER = 0.5  # seconds in which a client that should go may still send
TIMEOUT = 10  # seconds in which it must send some bytes, or take some
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than TIMEOUT to make room in


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
        head = b''
        for line in stream:
            head += line
            if line in (b'\r\n', b'\n'):
                return head
        raise HangUp

    def parse_request(self, head):
        request_line, *header_lines = [line.decode('latin-1') for line in head.splitlines()]
        self.request_method, self.path, self.request_version = request_line.split(' ')
        self.headers = {}
        for line in header_lines[:-1]:
            name, _, value = line.partition(':')
            name, value = name.lower(), value.strip(' \t')
            if name in self.headers:  # a repeated header is a list (RFC 9110, section 5.2)
                value = self.headers[name] + ('; ' if name == 'cookie' else ', ') + value
            self.headers[name] = value

    def read_body(self, stream):
        """Return as many bytes as Content-Length says (RFC 9112, section 6.2)."""
        expected = self.headers.get('expect', '').lower()
        if '100-continue' in expected and self.request_version != 'HTTP/1.0':
            self.client_fd.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
        length = int(self.headers.get('content-length', '0'))
        body = stream.read(length)
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
        server_headers = [
            ('Date', email.utils.formatdate(usegmt=True)),
            ('Server', 'WSGIServer 0.2'),
            ('Connection', 'close'),  # RFC 9112, section 9.6
        ]
        given = {name.lower() for name, value in response_headers}
        server_headers = [header for header in server_headers if header[0].lower() not in given]
        self.headers_set = [status, response_headers + server_headers]
        return self.write

    def write(self, data):
        """Send body bytes; the first call sends the status and the headers before them."""
        if not self.headers_set:
            raise AssertionError('start_response() was not called')
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

    def response_head(self):
        status, response_headers = self.headers_set
        lines = [f'HTTP/1.1 {status}', *(f'{name}: {value}' for name, value in response_headers)]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')

    def finish_response(self, result):
        try:
            for data in result:
                if data:
                    self.write(data)
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
