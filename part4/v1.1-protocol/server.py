"""The forking WSGI server in two files: HTTP and WSGI are in protocol.py.

It no longer prints what it receives and sends. A client sees no difference.
"""
import contextlib
import importlib
import os
import signal
import socket
import struct
import sys
import time
import traceback

from protocol import HangUp, Request, RequestError, Response, get_environ, parse_requests

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
TIMEOUT = 10  # seconds in which a client must send some bytes, or take some
LINGER = 0.5  # seconds in which a client that should go may still send
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than TIMEOUT to make room in


def handle_exit(signum, frame):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # no child is left
        if pid == 0:
            return  # the children that are left still run


class WSGIServer:
    request_queue_size = 1024

    def __init__(self, server_address, application):
        self.application = application
        self.listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # clients inherit it
        self.listen_socket.bind(server_address)
        self.listen_socket.listen(self.request_queue_size)
        self.server_addr = self.listen_socket.getsockname()

    def serve_forever(self):
        signal.signal(signal.SIGCHLD, handle_exit)
        while True:
            try:
                self.client_fd, self.client_addr = self.listen_socket.accept()
            except InterruptedError:  # EINTR
                continue
            self.client_fd.settimeout(TIMEOUT)
            pid = os.fork()
            if pid == 0:  # child
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the application waits for its own children
                self.listen_socket.close()
                self.handle_client()
                os._exit(0)
            self.client_fd.close()  # the parent's copy

    def handle_client(self):
        try:
            self.handle_one_request()
            self.finish_connection()
        except HangUp:
            if self.response.headers_sent and not self.response.finished:
                # RST instead of FIN, or half a response would look whole; see socket(7)
                with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                    self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        finally:
            self.client_fd.close()

    def handle_one_request(self):
        self.response = Response(None, self.send)
        try:
            request = self.read_request()
            self.response = Response(request, self.send)
            self.run_application(request)
        except RequestError as error:
            self.response.method = error.method
            self.send(self.response.error(*error.args))
        except (HangUp, KeyboardInterrupt):
            raise
        except BaseException:  # sys.exit() is no Exception
            with contextlib.suppress(OSError, ValueError):  # standard error may be full or closed
                traceback.print_exc()
            if not self.response.finished:
                self.send(self.response.error(
                    '500 Internal Server Error', 'the server or its application failed'))

    def read_request(self):
        received = bytearray()
        for step in parse_requests(received):
            if isinstance(step, Request):
                return step
            if step:
                self.send(step)
            try:
                data = self.client_fd.recv(65536)
            except OSError as error:
                raise HangUp from error
            if not data:
                raise HangUp
            received += data

    def run_application(self, request):
        env = get_environ(request, self.server_addr, self.client_addr, multithread=False)
        result = self.application(env, self.response.start_response)
        with contextlib.closing(self.response.finish_response(result)) as blocks:
            for data in blocks:
                self.send(data)

    def send(self, data):
        data = memoryview(data)
        try:
            while data:  # sendall() would have one TIMEOUT for all of it
                data = data[self.client_fd.send(data):]
        except OSError as error:
            raise HangUp from error

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


def report(words):
    with contextlib.suppress(OSError, ValueError):  # standard output may be full or closed
        print(words, flush=True)


def main():
    if sys.stdout:
        sys.stdout.reconfigure(line_buffering=True)  # os._exit() would lose what the application prints
    application = load_application(sys.argv[1] if len(sys.argv) > 1 else '')
    httpd = WSGIServer((HOST, PORT), application)
    report(f'Serving HTTP on port {httpd.server_addr[1]} ...')
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
