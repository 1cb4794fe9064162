"""A WSGI server that bad clients and apps cannot kill.

Article: https://ruslanspivak.com/lsbaws-part2/
"""
import email.utils
import importlib
import io
import os
import re
import socket
import sys
import time
import traceback
import urllib.parse
import wsgiref.util

HOST = os.environ.get('HOST', '127.0.0.1')
PORT = int(os.environ.get('PORT', '8888'))
MAX_HEAD = 16 * 1024  # bytes
MAX_BODY = 1024 * 1024  # bytes
TIMEOUT = 10  # seconds that one recv() or sendall() may take

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf'({TOKEN}) ([^\x00-\x20\x7f]+) (HTTP/[0-9]\.[0-9])')
HEADER_LINE = re.compile(rf'({TOKEN}):([^\x00-\x08\x0a-\x1f\x7f]*)')


class RequestError(Exception):
    """A request that gets an error status: RequestError('400 Bad Request', 'the reason')."""


class ClientGone(Exception):
    """The client closed or reset the connection, or is silent for too long."""


class WSGIServer:
    request_queue_size = 5

    def __init__(self, server_address):
        self.listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listen_socket.bind(server_address)
        self.listen_socket.listen(self.request_queue_size)
        self.server_name, self.server_port = self.listen_socket.getsockname()

    def set_app(self, application):
        self.application = application

    def serve_forever(self):
        while True:
            self.client_fd, self.client_addr = self.listen_socket.accept()
            self.client_fd.settimeout(TIMEOUT)
            self.handle_one_request()

    def handle_one_request(self):
        try:
            self.answer_request()
            self.finish_connection()
        except (ClientGone, OSError):
            pass
        finally:
            self.client_fd.close()

    def answer_request(self):
        self.request_method, self.headers_set, self.headers_sent = None, [], False
        try:
            self.read_request()
            result = self.application(self.get_environ(), self.start_response)
            self.finish_response(result)
        except RequestError as error:
            self.send_error(*error.args)
        except (ClientGone, KeyboardInterrupt):
            raise
        except BaseException:  # sys.exit() is no Exception
            traceback.print_exc()
            if not self.headers_sent:
                self.send_error('500 Internal Server Error', 'the application failed')

    def read_request(self):
        try:
            with self.client_fd.makefile('rb') as stream:
                head = self.read_head(stream)
                echo('< ', head)
                self.parse_request(head)
                self.body = self.read_body(stream)
        except OSError as error:
            raise ClientGone from error

    def read_head(self, stream):
        """Return the request line and the headers, up to the blank line (RFC 9112, section 2.1)."""
        head = line = b''
        while not head.strip() or line not in (b'\r\n', b'\n'):
            line = stream.readline(MAX_HEAD)
            head += line
            if not head:
                raise ClientGone
            if not line:
                raise RequestError('400 Bad Request', 'the request ends before its blank line')
            if len(head) > MAX_HEAD:
                if b'\n' not in head[:MAX_HEAD]:
                    raise RequestError('414 URI Too Long', f'over {MAX_HEAD} bytes')
                raise RequestError('431 Request Header Fields Too Large', f'over {MAX_HEAD} bytes')
        return head.lstrip()  # blank lines before the request are ignored (section 2.2)

    def parse_request(self, head):
        """Take the head apart (RFC 9112, sections 3 and 5); raises RequestError."""
        lines = [line.removesuffix('\r') for line in head.decode('latin-1').split('\n')]
        match = REQUEST_LINE.fullmatch(lines[0])
        if not match:
            raise RequestError('400 Bad Request', 'the request line is not METHOD TARGET VERSION')
        self.request_method, self.path, self.request_version = match.groups()
        if not self.request_version.startswith('HTTP/1.'):
            raise RequestError('505 HTTP Version Not Supported', 'this server speaks HTTP/1.1')
        absolute = re.match('(?i)http://([^/?]+)', self.path)
        if absolute:  # as sent to a proxy (section 3.2.2)
            self.path = '/' + self.path[absolute.end():].removeprefix('/')
        if not self.path.startswith('/'):
            raise RequestError('400 Bad Request', 'the target does not start with /')
        self.headers = {}
        for line in lines[1:-2]:
            match = HEADER_LINE.fullmatch(line)
            if not match:
                raise RequestError('400 Bad Request', 'a header line is not NAME: VALUE')
            name, value = match[1].lower(), match[2].strip(' \t')
            if name in self.headers:  # a repeated header is a list (RFC 9110, section 5.2)
                value = self.headers[name] + ', ' + value
            self.headers[name] = value
        host = self.headers.get('host', '' if self.request_version == 'HTTP/1.0' else ',')
        if not re.fullmatch(r'[^\s,/?#@]*', host):
            raise RequestError('400 Bad Request', 'there must be one Host header (section 3.2)')
        if absolute:
            self.headers['host'] = absolute[1]

    def read_body(self, stream):
        """Return as many bytes as Content-Length says (RFC 9112, section 6); raises RequestError."""
        if 'transfer-encoding' in self.headers:
            raise RequestError('501 Not Implemented', 'this server knows no Transfer-Encoding')
        length = self.headers.get('content-length', '0')
        if not re.fullmatch('[0-9]+', length):
            raise RequestError('400 Bad Request', 'Content-Length is not one number')
        if len(length) > 10 or int(length) > MAX_BODY:  # int() refuses thousands of digits
            raise RequestError('413 Content Too Large', f'the body is over {MAX_BODY} bytes')
        expected = self.headers.get('expect', '').lower()
        if expected == '100-continue' and self.request_version != 'HTTP/1.0':
            self.client_fd.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
        body = stream.read(int(length))
        if len(body) < int(length):
            raise RequestError('400 Bad Request', 'the body is shorter than Content-Length')
        return body

    def get_environ(self):
        """Return what PEP 3333 calls the environ; its text is bytes decoded as latin-1."""
        path, _, query = self.path.partition('?')
        env = {
            'wsgi.version': (1, 0),
            'wsgi.url_scheme': 'http',
            'wsgi.input': io.BytesIO(self.body),
            'wsgi.errors': sys.stderr,
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
        if not re.fullmatch(r'[2-5][0-9]{2} [^\r\n]*', status):
            raise ValueError(f'no status: {status!r}')
        for name, value in response_headers:
            if wsgiref.util.is_hop_by_hop(name) or not HEADER_LINE.fullmatch(f'{name}: {value}'):
                raise ValueError(f'no header of an application: {name}: {value!r}')
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
        if self.request_method == 'HEAD' or self.headers_set[0][:3] in ('204', '304'):
            data = b''  # these end at the blank line (RFC 9112, section 6.3)
        if not self.headers_sent:
            data = self.response_head() + data
            self.headers_sent = True
        echo('> ', data)
        try:
            self.client_fd.sendall(data)
        except OSError as error:
            raise ClientGone from error

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
        finally:
            if hasattr(result, 'close'):
                result.close()

    def send_error(self, status, reason):
        self.headers_set = []
        self.start_response(status, [('Content-Type', 'text/plain')])
        self.write(f'{reason}\n'.encode())

    def finish_connection(self):
        """Close our half, then read on for a while: to close a socket with input unread would
        reset the connection, and the client lose the response (RFC 9112, section 9.6)."""
        deadline = time.monotonic() + TIMEOUT
        self.client_fd.shutdown(socket.SHUT_WR)
        while self.client_fd.recv(65536) and time.monotonic() < deadline:
            pass


def echo(prefix, data):
    """Print bytes the way `curl -v` does: each line behind the prefix."""
    for line in data.splitlines():
        print(prefix + line.decode('ascii', 'backslashreplace'))
    print(flush=True)


def make_server(server_address, application):
    server = WSGIServer(server_address)
    server.set_app(application)
    return server


def load_application(path):
    """Return the callable that module:callable names; exits with one line where there is none."""
    module, _, attribute = path.partition(':')
    if not all(name.isidentifier() for name in [*module.split('.'), attribute]):
        sys.exit('Provide a WSGI application object as module:callable')
    try:
        module = importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f'{error} for {sys.executable}: check the name, '
                 f'or install it: {sys.executable} -m pip install {error.name}')
    application = getattr(module, attribute, None)
    if not callable(application):
        found = 'is not callable' if hasattr(module, attribute) else 'does not exist'
        sys.exit(f'{path} {found}')
    return application


def main():
    sys.path.insert(0, os.getcwd())
    httpd = make_server((HOST, PORT), load_application(sys.argv[1] if len(sys.argv) > 1 else ''))
    print(f'Serving HTTP on port {httpd.server_port} ...\n', flush=True)
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
