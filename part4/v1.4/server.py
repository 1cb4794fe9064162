"""A prefork WSGI server that keeps connections open for the next request.

RFC 9112, section 9. HTTP and WSGI are in protocol.py.
"""
import contextlib
import faulthandler
import importlib
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback

from protocol import HangUp, Request, RequestError, Response, get_environ, parse_requests

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
WORKERS = int(os.environ.get('WORKERS') or os.cpu_count())
IDLE_TIMEOUT = float(os.environ.get('IDLE_TIMEOUT') or 5)  # seconds in which a request must begin
REQUEST_TIMEOUT = float(os.environ.get('REQUEST_TIMEOUT') or 10)  # seconds in which it must be whole
SEND_TIMEOUT = float(os.environ.get('SEND_TIMEOUT') or 10)  # seconds in which a client must take some bytes
APP_TIMEOUT = float(os.environ.get('APP_TIMEOUT') or 30)  # seconds for the application, to return or yield
LINGER = 0.5  # seconds in which a client that should go may still send
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than SEND_TIMEOUT to make room in
RESTART_PAUSE = 0.5  # seconds; a worker that has lived no longer is not replaced at once


class WSGIServer:
    request_queue_size = 1024

    def __init__(self, server_address, application):
        self.application = application
        self.listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # clients inherit it
        self.listen_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a chunk waits for ACK
        self.listen_socket.bind(server_address)
        self.listen_socket.listen(self.request_queue_size)
        self.server_addr = self.listen_socket.getsockname()

    def serve_forever(self):
        """Be the supervisor: keep WORKERS workers running, until Ctrl-C or SIGTERM."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, wait() learns nothing
        self.lifeline, self.supervisor_end = os.pipe()
        workers = {}  # {pid: when it was forked}
        try:
            while True:
                while len(workers) < WORKERS:
                    try:
                        workers[self.fork_worker()] = time.monotonic()
                    except OSError as error:  # there are too many processes, or too little memory
                        report(f'cannot fork a worker: {error}')
                        time.sleep(RESTART_PAUSE)
                pid, status = os.wait()
                if pid not in workers:
                    continue  # a child of the shell that has become this server by exec
                report(f'worker {pid} has ended: {os.waitstatus_to_exitcode(status)}')
                if time.monotonic() - workers.pop(pid) < RESTART_PAUSE:
                    time.sleep(RESTART_PAUSE)
        finally:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):  # Ctrl-C came between wait() and pop()
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def fork_worker(self):
        pid = os.fork()
        if pid == 0:  # child
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                faulthandler.register(signal.SIGALRM, file=2, chain=True)  # prints where it was
                os.close(self.supervisor_end)
                threading.Thread(target=self.end_with_supervisor, daemon=True).start()
                self.serve_clients()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        return pid

    def end_with_supervisor(self):
        os.read(self.lifeline, 1)  # returns when the supervisor is gone, even by SIGKILL
        os._exit(0)

    def serve_clients(self):
        worker = os.getpid()
        while os.getpid() == worker:  # what the application has forked is no worker
            self.client_fd, self.client_addr = self.listen_socket.accept()
            self.handle_client()

    def handle_client(self):
        self.received = bytearray()
        self.requests = parse_requests(self.received)
        try:
            while self.handle_one_request():
                pass
            self.finish_connection()
        except HangUp:
            if self.response.headers_sent and not self.response.finished:
                # RST instead of FIN, or half a response would look whole; see socket(7)
                with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                    self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        finally:
            self.client_fd.close()

    def handle_one_request(self):
        """Return whether another request may follow."""
        self.response = Response(None, self.send)
        try:
            request = self.read_request()
            self.response = Response(request, self.send)
            self.run_application(request)
        except RequestError as error:
            self.response.method = error.method
            self.send(self.response.error(*error.args))
        except HangUp:
            raise
        except BaseException:  # sys.exit() is no Exception
            with contextlib.suppress(BaseException):  # not every error can be printed
                traceback.print_exc()
            if not self.response.finished:
                self.send(self.response.error(
                    '500 Internal Server Error', 'the server or its application failed'))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return self.response.keep_alive

    def read_request(self):
        begun = bool(self.received.strip())  # the client did not wait for the response before
        left = REQUEST_TIMEOUT if begun else IDLE_TIMEOUT
        deadline = time.monotonic() + left
        for step in self.requests:
            if isinstance(step, Request):
                return step
            if left <= 0:
                raise RequestError('408 Request Timeout', 'the request took too long')
            if step:
                self.send(step)
            left = deadline - time.monotonic()
            self.client_fd.settimeout(max(left, 0.001))  # what has come already is in time
            try:
                data = self.client_fd.recv(65536)
            except TimeoutError:
                if not begun:
                    raise HangUp from None
                continue
            except OSError as error:
                raise HangUp from error
            if not data:
                raise HangUp
            if not begun and data.strip():  # a blank line does not begin a request
                begun, left = True, REQUEST_TIMEOUT
                deadline = time.monotonic() + left
            self.received += data

    def run_application(self, request):
        signal.setitimer(signal.ITIMER_REAL, APP_TIMEOUT)  # SIGALRM ends this worker
        env = get_environ(request, self.server_addr, self.client_addr, multithread=False)
        result = self.application(env, self.response.start_response)
        with contextlib.closing(self.response.finish_response(result)) as blocks:
            for data in blocks:
                self.send(data)

    def send(self, data):
        app_is_timed, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # it is the client that may be slow now
        data = memoryview(data)
        self.client_fd.settimeout(SEND_TIMEOUT)
        try:
            while data:  # sendall() would have one SEND_TIMEOUT for all of it
                data = data[self.client_fd.send(data):]
        except OSError as error:
            self.response.keep_alive = False  # even if the application goes on as if nothing had happened
            raise HangUp from error
        finally:
            if app_is_timed:
                signal.setitimer(signal.ITIMER_REAL, APP_TIMEOUT)

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
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # where 0, 1 or 2 is closed, a client would get that number, and what is printed there
    os.close(fd)
    application = load_application(sys.argv[1] if len(sys.argv) > 1 else '')
    httpd = WSGIServer((HOST, PORT), application)
    report(f'Serving HTTP on port {httpd.server_addr[1]} ...')
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
