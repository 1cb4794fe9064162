"""A prefork WSGI server with an event loop for the clients and threads for the application.

HTTP and WSGI are in protocol.py.
"""
import collections
import contextlib
import faulthandler
import importlib
import math
import os
import queue
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
THREADS = int(os.environ.get('THREADS') or 8)  # of each worker, for the application
IDLE_TIMEOUT = float(os.environ.get('IDLE_TIMEOUT') or 5)  # seconds in which a request must begin
REQUEST_TIMEOUT = float(os.environ.get('REQUEST_TIMEOUT') or 10)  # seconds in which it must be whole
SEND_TIMEOUT = float(os.environ.get('SEND_TIMEOUT') or 10)  # seconds in which a client must take some bytes
APP_TIMEOUT = float(os.environ.get('APP_TIMEOUT') or 30)  # seconds for the application, to return or yield
LINGER = 1  # seconds in which a client may still send once it has its response
OUTPUT_BUFFER = 64 * 1024  # bytes; an application that has written more waits for its client
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than SEND_TIMEOUT to make room in
RESTART_PAUSE = 0.5  # seconds; a worker that has lived no longer is not replaced at once
ACCEPT_PAUSE = 0.5  # seconds; when no descriptors are left, no client is accepted for so long
FOREVER = math.inf  # seconds


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
                report(f'worker {pid} has ended: {os.waitstatus_to_exitcode(status)}')
                if time.monotonic() - workers.pop(pid, 0) < RESTART_PAUSE:
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
                faulthandler.register(signal.SIGVTALRM, file=2, chain=True)  # prints where it was
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
        """Be the event loop: run each task when its socket is ready or its time has come."""
        self.worker = os.getpid()
        self.selector = selectors.DefaultSelector()
        self.wake_up_socket, self.woken_socket = socket.socketpair()
        self.wake_up_socket.setblocking(False)
        self.woken = collections.deque()  # sockets whose tasks shall run
        self.tasks = {  # {socket: (generator, its time)}
            self.listen_socket: (self.accept_clients(), 0),
            self.woken_socket: (self.run_woken_tasks(), 0),
            self.wake_up_socket: (self.watch_applications(), 0),
        }
        self.jobs = queue.SimpleQueue()  # of connections and their requests, for the threads
        self.running = {}  # {connection: when the time of its application is over}
        for _ in range(THREADS):
            self.start_thread()
        while True:
            first = min(when for _, when in self.tasks.values())
            ready = self.selector.select(max(first - time.monotonic(), 0) if first < FOREVER else None)
            now = time.monotonic()
            due = [sock for sock, (_, when) in self.tasks.items() if when <= now]
            for sock in {*due, *(key.fileobj for key, _ in ready)}:
                self.run_task(sock)

    def run_task(self, sock):
        """Run a task up to its next yield, which tells for what event it waits, and until when."""
        if sock not in self.tasks:
            return  # it has ended
        task, _ = self.tasks.pop(sock)
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        event, when = next(task, (None, None))
        if when is None:  # the task has ended
            sock.close()
            return
        if event:
            self.selector.register(sock, event)
        self.tasks[sock] = task, when

    def run_woken_tasks(self):
        while True:
            yield selectors.EVENT_READ, FOREVER
            self.woken_socket.recv(4096)
            for _ in range(len(self.woken)):  # those that come meanwhile have another turn
                self.run_task(self.woken.popleft())

    def wake_up(self, sock):
        """Have the loop run the task of that socket, soon; called in a thread."""
        self.woken.append(sock)
        with contextlib.suppress(BlockingIOError):  # so many bytes are there that one more is not needed
            self.wake_up_socket.send(b'\0')

    def watch_applications(self):
        """End this worker, by SIGVTALRM, when an application does not return in time."""
        while True:
            if min(list(self.running.values()), default=FOREVER) < time.monotonic():
                signal.raise_signal(signal.SIGVTALRM)
            signal.setitimer(signal.ITIMER_VIRTUAL, APP_TIMEOUT)  # for one that lets no other thread run
            yield None, time.monotonic() + APP_TIMEOUT / 2 / (THREADS + 1)  # it counts for each thread

    def start_thread(self):
        threading.Thread(target=self.run_applications, daemon=True).start()

    def run_applications(self):
        while True:
            connection, request = self.jobs.get()
            if connection.call_application(request):
                break

    def accept_clients(self):
        while True:
            try:
                client_fd, client_addr = self.listen_socket.accept()
            except ConnectionAbortedError:
                continue  # the client has gone
            except BlockingIOError:
                yield selectors.EVENT_READ, FOREVER
            except OSError as error:  # no descriptors are left
                report(f'cannot accept a client: {error}')
                yield None, time.monotonic() + ACCEPT_PAUSE
            else:
                client_fd.setblocking(False)
                connection = Connection(self, client_fd, client_addr)
                self.tasks[client_fd] = connection.handle_client(), 0


class Connection:
    """The connection of a client: what may have to wait for it is a generator, and yields instead."""

    def __init__(self, server, client_fd, client_addr):
        self.server = server
        self.client_fd, self.client_addr = client_fd, client_addr
        self.received, self.unsent = bytearray(), bytearray()
        self.requests = parse_requests(self.received)
        self.output, self.output_taken = bytearray(), threading.Condition()  # what a thread hands over
        self.hung_up = False

    def handle_client(self):
        try:
            while (yield from self.handle_one_request()):
                pass
            yield from self.finish_connection()
        except HangUp:
            if self.unsent or self.response.headers_sent and not self.response.finished:
                # RST instead of FIN, or half a response would look whole; see socket(7)
                with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                    self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    def handle_one_request(self):
        """Return whether another request may follow."""
        self.response = Response(None, self.hand_over)
        try:
            request = yield from self.read_request()
            self.response = Response(request, self.hand_over)
            yield from self.run_application(request)
        except RequestError as error:
            self.response.method = error.method
            yield from self.send(self.response.error(*error.args))
        except HangUp:
            raise
        except BaseException:  # sys.exit() is no Exception
            with contextlib.suppress(OSError, ValueError):  # standard error may be full or closed
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
                data = yield from self.when_ready(selectors.EVENT_READ, deadline, self.client_fd.recv, 65536)
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
        """Have a thread run the application, and send what it hands over."""
        self.app_is_done, self.app_error = False, None
        self.server.jobs.put((self, request))
        try:
            while True:
                is_done = self.app_is_done  # asked first: then the output is complete
                with self.output_taken:
                    data, self.output = self.output, bytearray()
                    self.output_taken.notify()
                yield from self.send(data)
                if is_done:
                    break
                yield None, (0 if data else FOREVER)  # the others have a turn now
        except HangUp:
            with self.output_taken:
                self.hung_up = True
                self.output_taken.notify()
            raise
        if self.app_error:
            raise self.app_error

    def call_application(self, request):
        """Run the application, in a thread; return whether another thread was started in its place."""
        self.has_waited = False
        self.server.running[self] = time.monotonic() + APP_TIMEOUT
        try:
            env = get_environ(request, self.server.server_addr, self.client_addr, multithread=True)
            result = self.server.application(env, self.response.start_response)
            with contextlib.closing(self.response.finish_response(result)) as blocks:
                for data in blocks:
                    self.hand_over(data)
        except BaseException as error:
            self.app_error = error
        self.leave_if_forked()
        self.server.running.pop(self, None)
        has_waited = self.has_waited  # read before the next request can change it
        self.app_is_done = True
        self.server.wake_up(self.client_fd)
        return has_waited

    def hand_over(self, data):
        """Give the loop what is to be sent; called in a thread, which waits where its client is slow."""
        self.leave_if_forked()
        with self.output_taken:
            if len(self.output) > OUTPUT_BUFFER and not self.hung_up:
                if not self.has_waited:
                    self.server.start_thread()  # it takes the place of this one
                    self.has_waited = True
                self.server.running.pop(self, None)  # it is the client that may be slow now
                self.output_taken.wait_for(lambda: self.hung_up or not self.output)
                self.server.running[self] = time.monotonic() + APP_TIMEOUT
            if self.hung_up:
                raise HangUp
            was_empty = not self.output
            self.output += data
        self.server.running[self] = time.monotonic() + APP_TIMEOUT
        if was_empty:
            self.server.wake_up(self.client_fd)

    def leave_if_forked(self):
        if os.getpid() != self.server.worker:
            os._exit(0)  # what the application has forked is no worker

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
        """Return what recv() or send() returns once it need not wait; raises TimeoutError."""
        while True:
            is_late = time.monotonic() >= deadline  # asked first: what has come by now is in time
            try:
                return call(argument)
            except BlockingIOError:
                if is_late:
                    raise TimeoutError from None
            except OSError as error:
                raise HangUp from error
            yield event, deadline

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
    application = load_application(sys.argv[1] if len(sys.argv) > 1 else '')
    httpd = WSGIServer((HOST, PORT), application)
    report(f'Serving HTTP on port {httpd.server_addr[1]} ...')
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
