"""A prefork WSGI server whose threads take turns with the event loop.

HTTP and WSGI are in protocol.py.
"""
import collections
import contextlib
import faulthandler
import importlib
import math
import os
import select
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
THREADS = max(int(os.environ.get('THREADS') or 64), 1)  # of each worker that may be in the application
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
TAKE_OVER = 0.001  # seconds; a call that is not back after them loses the loop
LOOKS = 10  # at the applications that run, in APP_TIMEOUT
HAND_OVER = object()  # the event of a task that waits for the thread that has the loop now


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
                self.serve_clients()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        return pid

    def end_with_supervisor(self):
        """End this worker when the supervisor is gone, or when an application does not return."""
        while True:
            signal.setitimer(signal.ITIMER_REAL, min(APP_TIMEOUT, LONGEST))  # for one that lets no thread run
            if select.select([self.lifeline], [], [], min(APP_TIMEOUT / LOOKS, LONGEST))[0]:
                os._exit(0)  # the lifeline ends with the supervisor, even by SIGKILL
            self.looks += 1
            if self.looks - min(list(self.running.values()), default=self.looks) > LOOKS:
                signal.raise_signal(signal.SIGALRM)
                os._exit(1)  # where the application has a handler of its own

    def serve_clients(self):
        """Be a worker: one thread has the loop, others are in the application, the main thread watches."""
        self.worker = os.getpid()
        # only the thread that holds the turn may use the loop, which is:
        self.turn = threading.Lock()
        self.selector = selectors.DefaultSelector()
        self.tasks = {}  # {socket: (generator, when its time has come)}
        # the thread that holds the turn writes this, before it lets go of it; any thread may read it:
        self.calls = 0  # how many calls of the application have begun
        # any thread may use these at any time, since each use is one step that no other thread can divide:
        self.called = threading.Event()  # the main thread waits for it
        self.running = {}  # {connection: number of the look after which its application began}
        self.looks = 0  # only end_with_supervisor() writes it
        self.app_is_slow = False  # whether the last call that came back took long
        self.handed_over = collections.deque()  # sockets and their tasks
        self.wake_up_socket, self.woken_socket = socket.socketpair()
        self.wake_up_socket.setblocking(False)
        self.woken_socket.setblocking(False)
        threading.Thread(target=self.end_with_supervisor, daemon=True).start()
        self.start_task(self.listen_socket, self.accept_clients())
        self.start_task(self.woken_socket, self.take_handed_over())
        self.next_turn(self.calls)
        self.watch_calls()

    def watch_calls(self):
        """Give the loop to a new thread, when the same call still runs a moment later."""
        while True:
            self.called.wait()
            self.called.clear()
            call = self.calls
            time.sleep(TAKE_OVER)
            self.next_turn(call)

    def next_turn(self, call):
        """Start a thread that takes the loop, if that is free because of this call."""
        if call == self.calls and len(self.running) < THREADS and not self.turn.locked():
            try:
                threading.Thread(target=self.run_loop, daemon=True).start()
            except RuntimeError:  # the system has no thread for us now: the main thread tries again
                self.called.set()

    def begin_call(self, connection):
        """Let go of the loop while the application runs."""
        self.calls = call = self.calls + 1
        self.running[connection] = self.looks
        self.turn.release()
        if self.app_is_slow:
            self.next_turn(call)
        elif not self.called.is_set():
            self.called.set()

    def end_call(self, connection):
        """Return whether this thread has the loop again."""
        self.leave_if_forked()
        self.running.pop(connection, None)
        return self.turn.acquire(blocking=False)

    def run_loop(self):
        """Run each task when its socket is ready or its time has come, until another thread has the loop."""
        if not self.turn.acquire(blocking=False):
            return  # the application came back, or another thread was faster
        try:
            while True:
                for sock in self.find_ready():
                    if sock in self.tasks and not self.run_task(sock):
                        return
        except BaseException:
            self.running[self] = self.looks  # to print it can take too long, too
            try:
                traceback.print_exc()
            finally:
                os._exit(1)

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
        """Run a task up to its next yield, which tells for what event it waits, and until when.

        Returns whether this thread still has the loop.
        """
        task, _ = self.tasks.pop(sock)
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        event, when = next(task, (None, None))
        if event is HAND_OVER:
            self.handed_over.append((sock, task))
            self.wake_up()
            return False
        if when is None:  # the task has ended
            sock.close()
            return True
        if event:
            self.selector.register(sock, event)
        self.tasks[sock] = task, when
        return True

    def take_handed_over(self):
        while True:
            yield selectors.EVENT_READ, FOREVER
            with contextlib.suppress(BlockingIOError):  # all bytes have been taken already
                self.woken_socket.recv(4096)
            while self.handed_over:
                self.start_task(*self.handed_over.popleft())

    def wake_up(self):
        """Have the loop look what is handed over; called in any thread."""
        with contextlib.suppress(BlockingIOError):  # so many bytes are there that one more is not needed
            self.wake_up_socket.send(b'\0')

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
        self.received, self.unsent = bytearray(), b''
        self.requests = parse_requests(self.received)
        self.response = None

    def handle_client(self):
        try:
            while (yield from self.handle_one_request()):
                pass
            yield from self.finish_connection()
        except HangUp:
            self.break_off()
        finally:
            self.response = None  # it has a method of this connection: a cycle, which is not freed at once

    def break_off(self):
        if self.unsent or self.response.headers_sent and not self.response.finished:
            # RST instead of FIN, or half a response would look whole; see socket(7)
            with contextlib.suppress(OSError):  # on macOS, where the client has reset it
                self.client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    def handle_one_request(self):
        """Return whether another request may follow."""
        self.response, self.unsent = Response(None, self.write), b''
        try:
            request = yield from self.read_request()
            self.response = Response(request, self.write)
            yield from self.run_application(request)
        except RequestError as error:
            self.response.method = error.method
            yield from self.send(self.response.error(*error.args))
        except HangUp:
            raise
        except BaseException:  # sys.exit() is no Exception
            yield from self.send(self.failure())
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

    def failure(self):
        """Print an error, and return what tells the client of it."""
        with contextlib.suppress(BaseException):  # not every error can be printed
            traceback.print_exc()
        if self.response.finished:
            return b''
        return self.response.error('500 Internal Server Error', 'the server or its application failed')

    def run_application(self, request):
        self.server.begin_call(self)
        began = time.monotonic()
        try:
            blocks = self.call_application(request)
        finally:
            self.server.app_is_slow = time.monotonic() - began > TAKE_OVER
            if not self.server.end_call(self):
                yield HAND_OVER, 0
        if self.unsent:  # the application has gone on as if nothing had happened
            raise HangUp
        for data in blocks:
            yield from self.send(data)

    def call_application(self, request):
        """Run the application; return the blocks that the loop has to send."""
        try:
            env = get_environ(request, self.server.server_addr, self.client_addr, multithread=True)
            result = self.server.application(env, self.response.start_response)
            blocks = self.response.finish_response(result)
            if type(result) in (list, tuple):  # then the application has nothing more to do
                return list(blocks)
            with contextlib.closing(blocks):
                for data in blocks:
                    self.write(data)
            return []
        except HangUp:
            raise
        except BaseException:  # sys.exit() is no Exception
            return [self.failure()]

    def write(self, data):
        """Send what the application has written, before it goes on (PEP 3333, Buffering and Streaming)."""
        self.server.leave_if_forked()
        if self.unsent:  # the client is gone or too slow
            raise HangUp
        self.unsent = memoryview(data)  # whose slices are no copies
        try:
            while self.unsent:
                try:
                    self.unsent = self.unsent[self.client_fd.send(self.unsent):]
                except BlockingIOError:
                    self.wait_for_client()
        except OSError as error:
            raise HangUp from error
        finally:
            self.server.running[self] = self.server.looks

    def wait_for_client(self):
        """Wait until the client takes some bytes; raises TimeoutError."""
        self.server.running.pop(self, None)  # it is not the application that may be slow now
        self.server.called.set()  # there is room for another thread now
        poll = select.poll()
        poll.register(self.client_fd, select.POLLOUT)
        if not poll.poll(min(SEND_TIMEOUT, LONGEST) * 1000):
            raise TimeoutError

    def send(self, data):
        self.unsent = memoryview(data)
        while self.unsent:
            deadline = time.monotonic() + SEND_TIMEOUT
            try:
                size = yield from self.when_ready(
                    selectors.EVENT_WRITE, deadline, self.client_fd.send, self.unsent)
            except TimeoutError:
                raise HangUp from None
            self.unsent = self.unsent[size:]

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
