"""A prefork WSGI server whose workers are event loops.

HTTP and WSGI are in protocol.py.
"""
import contextlib
import faulthandler
import importlib
import math
import os
import selectors
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
ACCEPT_PAUSE = 0.5  # seconds; when no descriptors are left, no client is accepted for so long
FOREVER = math.inf  # seconds
LONGEST = 1e6  # seconds; select() and poll() refuse much more


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
        self.listen_socket.setblocking(False)
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
        """Be a worker: an event loop, in which a client that waits is an entry in a table."""
        self.worker = os.getpid()
        self.selector = selectors.DefaultSelector()
        self.tasks = {}  # {socket: (generator, when its time has come)}
        self.start_task(self.listen_socket, self.accept_clients())
        self.run_loop()

    def run_loop(self):
        """Run each task when its socket is ready or its time has come."""
        while True:
            for sock in self.find_ready():
                signal.setitimer(signal.ITIMER_REAL, APP_TIMEOUT)  # SIGALRM ends this worker
                self.run_task(sock)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def find_ready(self):
        """Wait until there are sockets that are ready, or whose time has come; return them."""
        first = min(when for _, when in self.tasks.values())
        ready = self.selector.select(min(first - time.monotonic(), LONGEST))
        now = time.monotonic()
        due = [sock for sock, (_, when) in self.tasks.items() if when <= now]
        return {*due, *(key.fileobj for key, _ in ready)}

    def start_task(self, sock, task):
        self.tasks[sock] = task, 0

    def run_task(self, sock):
        """Run a task up to its next yield, which tells for what event it waits, and until when."""
        task, _ = self.tasks.pop(sock)
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        event, when = next(task, (None, None))
        self.leave_if_forked()
        if when is None:  # the task has ended
            sock.close()
            return
        if event:
            self.selector.register(sock, event)
        self.tasks[sock] = task, when

    def leave_if_forked(self):
        if os.getpid() != self.worker:
            os._exit(0)  # what the application has forked is no worker

    def accept_clients(self):
        while True:
            yield selectors.EVENT_READ, FOREVER
            try:
                client_fd, client_addr = self.listen_socket.accept()
            except ConnectionAbortedError:
                continue  # the client has gone
            except BlockingIOError:
                continue  # another worker has it
            except OSError as error:  # no descriptors are left
                report(f'cannot accept a client: {error}')
                yield None, time.monotonic() + ACCEPT_PAUSE
                continue
            client_fd.setblocking(False)
            connection = Connection(self, client_fd, client_addr)
            self.start_task(client_fd, connection.handle_client())


class Connection:
    """The connection of a client: what may have to wait for it is a generator, and yields instead."""

    def __init__(self, server, client_fd, client_addr):
        self.server = server
        self.client_fd, self.client_addr = client_fd, client_addr
        self.received, self.unsent = bytearray(), bytearray()
        self.requests = parse_requests(self.received)

    def handle_client(self):
        try:
            while (yield from self.handle_one_request()):
                pass
            yield from self.finish_connection()
        except HangUp:
            self.break_off()

    def break_off(self):
        if self.response.headers_sent and not self.response.finished:
            # RST instead of FIN, or half a response would look whole; see socket(7)
            with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    def handle_one_request(self):
        """Return whether another request may follow."""
        self.response = Response(None, self.unsent.extend)
        try:
            request = yield from self.read_request()
            self.response = Response(request, self.unsent.extend)
            yield from self.run_application(request)
        except RequestError as error:
            self.response.method = error.method
            yield from self.send(self.response.error(*error.args))
        except HangUp:
            raise
        except BaseException:  # sys.exit() is no Exception
            with contextlib.suppress(BaseException):  # not every error can be printed
                traceback.print_exc()
            if not self.response.finished:
                yield from self.send(self.response.error(
                    '500 Internal Server Error', 'the server or its application failed'))
        return self.response.keep_alive

    def read_request(self):
        begun = bool(self.received.strip())  # the client did not wait for the response before
        deadline = time.monotonic() + (REQUEST_TIMEOUT if begun else IDLE_TIMEOUT)
        for step in self.requests:
            if isinstance(step, Request):
                return step
            if step:
                yield from self.send(step)
            try:
                data = yield from self.when_ready(selectors.EVENT_READ, deadline, self.client_fd.recv, 16384)
            except TimeoutError:
                if not begun:
                    raise HangUp from None
                raise RequestError('408 Request Timeout', 'the request took too long') from None
            if not data:
                raise HangUp
            if not begun and data.strip():  # a blank line does not begin a request
                begun = True
                deadline = time.monotonic() + REQUEST_TIMEOUT
            self.received += data

    def run_application(self, request):
        env = get_environ(request, self.server.server_addr, self.client_addr, multithread=False)
        result = self.server.application(env, self.response.start_response)
        with contextlib.closing(self.response.finish_response(result)) as blocks:
            for data in blocks:
                yield from self.send(data)
        yield from self.send(b'')  # what is left of a write()

    def send(self, data):
        self.unsent += data
        while self.unsent:
            deadline = time.monotonic() + SEND_TIMEOUT
            try:
                size = yield from self.when_ready(
                    selectors.EVENT_WRITE, deadline, self.client_fd.send, self.unsent)
            except TimeoutError:
                raise HangUp from None
            del self.unsent[:size]

    def when_ready(self, event, deadline, call, argument):
        """Return what recv() or send() returns when the socket is ready; raises TimeoutError."""
        while True:
            yield event, deadline
            is_late = time.monotonic() >= deadline  # asked first: what has come by now is in time
            try:
                return call(argument)
            except BlockingIOError:
                if is_late:
                    raise TimeoutError from None
            except OSError as error:
                raise HangUp from error

    def finish_connection(self):
        """Close our half, then read on for a while: to close a socket with input unread would
        reset the connection, and the client could lose the response (RFC 9112, section 9.6)."""
        deadline = time.monotonic() + LINGER
        with contextlib.suppress(OSError):
            self.client_fd.shutdown(socket.SHUT_WR)
            while (yield from self.when_ready(selectors.EVENT_READ, deadline, self.client_fd.recv, 65536)):
                pass


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
