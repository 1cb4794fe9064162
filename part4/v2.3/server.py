"""A prefork WSGI server that runs the application in the thread of the loop, unless it takes long.

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
THREADS = int(os.environ.get('THREADS') or 8)  # of each worker, for the application
IDLE_TIMEOUT = float(os.environ.get('IDLE_TIMEOUT') or 5)  # seconds in which a request must begin
REQUEST_TIMEOUT = float(os.environ.get('REQUEST_TIMEOUT') or 10)  # seconds in which it must be whole
SEND_TIMEOUT = float(os.environ.get('SEND_TIMEOUT') or 10)  # seconds in which a client must take some bytes
APP_TIMEOUT = float(os.environ.get('APP_TIMEOUT') or 30)  # seconds for the application, to return or yield
STOP_TIMEOUT = float(os.environ.get('STOP_TIMEOUT') or 10)  # seconds to finish what has begun, after SIGTERM
LINGER = 0.5  # seconds in which a client may still send, once it has its response or the worker stops
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than SEND_TIMEOUT to make room in
RESTART_PAUSE = 0.5  # seconds; a worker that has lived no longer is not replaced at once
ACCEPT_PAUSE = 0.5  # seconds; when no descriptors are left, no client is accepted for so long
FOREVER = math.inf  # seconds
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD
TAKE_OVER = 0.005  # seconds between two looks at the leader; if both see the same call, it loses the loop
SLOW = 0.0002  # seconds; after an application that takes longer, the next one begins without the loop
LEADER = object()  # the event of a task that only the leader may resume


class WSGIServer:
    request_queue_size = 1024

    def __init__(self, server_address, app_path):
        self.app_path = app_path
        self.listen_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # clients inherit it
        self.listen_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a chunk waits for ACK
        self.listen_socket.bind(server_address)
        self.listen_socket.listen(self.request_queue_size)
        self.listen_socket.setblocking(False)
        self.server_addr = self.listen_socket.getsockname()

    def serve_forever(self):
        """Be the supervisor: keep WORKERS workers running, until Ctrl-C or SIGTERM; SIGHUP replaces them."""
        self.lifeline, self.supervisor_end = os.pipe()
        self.signals = signal_socket(signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
        os.register_at_fork(
            before=hold_signals, after_in_parent=release_signals, after_in_child=default_signals)
        has_terminal = os.isatty(0)
        self.workers = {}  # {pid: when it was forked}
        self.outdated = []  # pids of those that have to be replaced, one after the other
        try:
            numbers = b''  # of the signals that have come
            while signal.SIGTERM not in numbers:
                if signal.SIGHUP in numbers:
                    if has_terminal and not os.isatty(0):
                        break  # the terminal has been closed
                    self.outdated = list(self.workers)
                    for pid in self.outdated[WORKERS:]:
                        os.kill(pid, signal.SIGTERM)  # it may have hung while it loaded the application
                numbers = self.next_signals(None if self.fork_workers() else RESTART_PAUSE)
                if self.reap_workers():
                    time.sleep(RESTART_PAUSE)
            self.listen_socket.close()
            for pid in self.workers:
                os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + STOP_TIMEOUT + 1
            while self.workers and (left := end - time.monotonic()) > 0:
                self.next_signals(left)
                self.reap_workers()
        finally:
            for pid in self.workers:
                with contextlib.suppress(ProcessLookupError):  # Ctrl-C came between waitpid() and pop()
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def next_signals(self, seconds):
        """Return the numbers of the signals that come next, none if nothing comes in so many seconds."""
        self.signals.settimeout(seconds)
        try:
            return self.signals.recv(4096)
        except TimeoutError:
            return b''

    def fork_workers(self):
        """Fork those that are missing, and one more if one is outdated; return whether that works."""
        try:
            while len(self.workers) < WORKERS + bool(self.outdated):
                self.workers[self.fork_worker()] = time.monotonic()
        except OSError as error:  # there are too many processes, or too little memory
            report(f'cannot fork a worker: {error}')
            return False
        return True

    def reap_workers(self):
        """Return whether one of those that have ended has lived only for a moment."""
        was_short = False
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            report(f'worker {pid} has ended: {os.waitstatus_to_exitcode(status)}')
            was_short |= time.monotonic() - self.workers.pop(pid) < RESTART_PAUSE
            if pid in self.outdated:
                self.outdated.remove(pid)
        return was_short

    def fork_worker(self):
        pid = os.fork()
        if pid == 0:  # child
            try:
                faulthandler.register(signal.SIGVTALRM, file=2, chain=True)  # prints where it was
                os.close(self.supervisor_end)
                self.signals.close()
                threading.Thread(target=self.end_with_supervisor, daemon=True).start()
                self.application = load_application(self.app_path)
                self.signals = signal_socket(signal.SIGTERM, signal.SIGHUP)
                if self.outdated:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.outdated[0], signal.SIGTERM)
                self.serve_clients()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        return pid

    def end_with_supervisor(self):
        os.read(self.lifeline, 1)  # returns when the supervisor is gone, even by SIGKILL
        os._exit(0)

    def serve_clients(self):
        """Be a worker: one thread leads, which runs the event loop and the application; the others follow."""
        self.worker = os.getpid()
        self.selector = selectors.DefaultSelector()
        self.wake_up_socket, self.woken_socket = socket.socketpair()
        self.wake_up_socket.setblocking(False)
        self.ready = collections.deque()  # sockets whose tasks shall run
        self.tasks = {  # {socket: (generator, its time)}
            self.listen_socket: (self.accept_clients(), 0),
            self.woken_socket: (self.take_wake_ups(), 0),
            self.wake_up_socket: (self.watch_applications(), 0),
            self.signals: (self.stop_at_sigterm(), 0),
        }
        self.is_stopping, self.has_stopped = False, threading.Event()
        self.connections = set()
        self.running = {}  # {connection: when the time of its application is over}
        self.waiting = collections.deque()  # sockets of requests for which there is no thread
        self.next_in_line, self.change = threading.Lock(), threading.Condition()
        self.leader, self.followers = None, 0
        self.is_calling, self.began = False, 0  # whether the leader is in the application, and since when
        self.is_watched = False  # whether the next in line looks how long that takes
        self.app_is_slow = False  # whether it took long the last time
        for _ in range(THREADS + 1):
            self.start_thread()
        self.has_stopped.wait()

    def start_thread(self):
        threading.Thread(target=self.follow_and_lead, daemon=True).start()

    def follow_and_lead(self):
        """Be one of the threads, as long as there are not too many."""
        try:
            while self.become_leader():
                self.run_loop()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def become_leader(self):
        """Wait until the leader leaves, or is away for TAKE_OVER seconds. False if enough others wait."""
        with self.change:
            if self.followers + bool(self.leader) > THREADS:
                return False
            self.followers += 1
            if self.waiting:
                self.wake_up()
        with self.next_in_line, self.change:
            while self.leader:
                began = self.began
                if not self.change.wait(TAKE_OVER if self.is_watched else None) and began == self.began:
                    if self.is_calling:
                        break
                    self.is_watched = False  # until the next call
            self.leader, self.is_calling = threading.get_ident(), False
            self.followers -= 1
        return True

    def leave_loop(self):
        """Have the next in line lead, if this thread does."""
        with self.change:
            if self.leader == threading.get_ident():
                self.leader = None
                self.change.notify()

    def begin_call(self, connection):
        """Return whether the application may run now: whether another thread could run the loop meanwhile."""
        with self.change:
            if not self.followers:
                self.waiting.append(connection.client_fd)
                return False
            self.is_calling, self.began = True, time.monotonic()
            self.running[connection] = self.began + APP_TIMEOUT
            if self.app_is_slow:
                self.leave_loop()
            elif not self.is_watched:
                self.is_watched = True
                self.change.notify()
        return True

    def end_call(self, connection):
        """Return whether this thread still leads."""
        self.running.pop(connection, None)
        with self.change:
            if self.leader != threading.get_ident():
                return False
            self.is_calling = False
        return True

    def run_loop(self):
        """Run each task when its socket is ready or its time has come, until another thread leads."""
        while self.connections or not self.is_stopping:
            while queue := self.waiting if self.waiting and self.followers else self.ready:
                if not self.run_task(queue.popleft()):
                    return
            self.find_ready()
        self.has_stopped.set()

    def find_ready(self):
        """Wait until there is a socket that is ready, or whose time has come."""
        first = min(when for _, when in self.tasks.values())
        ready = self.selector.select(max(first - time.monotonic(), 0) if first < FOREVER else None)
        now = time.monotonic()
        due = [sock for sock, (_, when) in self.tasks.items() if when <= now]
        self.ready.extend({*due, *(key.fileobj for key, _ in ready)})

    def run_task(self, sock):
        """Run a task up to its next yield, which tells for what event it waits, and until when.

        Returns False if another thread leads by now.
        """
        if sock not in self.tasks or self.tasks[sock][0].gi_running:
            return True  # it has ended, or another thread runs it
        task, _ = self.tasks[sock]
        self.tasks[sock] = task, FOREVER
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        event, when = next(task, (None, None))
        if event is LEADER:
            self.ready.append(sock)
            self.wake_up()
            return False
        if when is None:  # the task has ended
            del self.tasks[sock]
            sock.close()
            return True
        if event:
            self.selector.register(sock, event)
        self.tasks[sock] = task, when
        return True

    def take_wake_ups(self):
        while True:
            yield selectors.EVENT_READ, FOREVER
            self.woken_socket.recv(4096)

    def wake_up(self):
        """Have the leader look for tasks that can run now; called in any thread."""
        with contextlib.suppress(BlockingIOError):  # so many bytes are there that one more is not needed
            self.wake_up_socket.send(b'\0')

    def watch_applications(self):
        """End this worker, by SIGVTALRM, when an application does not return in time."""
        while True:
            if min(list(self.running.values()), default=FOREVER) < time.monotonic():
                signal.raise_signal(signal.SIGVTALRM)
            signal.setitimer(signal.ITIMER_VIRTUAL, APP_TIMEOUT)  # for one that lets no other thread run
            yield None, time.monotonic() + APP_TIMEOUT / 2 / (THREADS + 1)  # it counts for each thread

    def stop_at_sigterm(self):
        """Accept no more clients, and finish what has begun."""
        numbers = b''
        while signal.SIGTERM not in numbers:
            yield selectors.EVENT_READ, FOREVER
            numbers = self.signals.recv(4096)
        self.is_stopping = True
        self.ready.append(self.listen_socket)
        for connection in list(self.connections):
            if connection.is_idle:
                connection.deadline = time.monotonic() + LINGER
                self.ready.append(connection.client_fd)
        end = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < end:
            yield None, end
        report(f'worker {os.getpid()} ends; clients not served to the end: {len(self.connections)}')
        os._exit(1)

    def accept_clients(self):
        while True:
            try:
                client_fd, client_addr = self.listen_socket.accept()
            except ConnectionAbortedError:
                continue  # the client has gone
            except BlockingIOError:
                if self.is_stopping:
                    return
                yield selectors.EVENT_READ, FOREVER
            except OSError as error:  # no descriptors are left
                report(f'cannot accept a client: {error}')
                if self.is_stopping:
                    return
                yield None, time.monotonic() + ACCEPT_PAUSE
            else:
                client_fd.setblocking(False)
                connection = Connection(self, client_fd, client_addr)
                self.connections.add(connection)
                self.tasks[client_fd] = connection.handle_client(), 0


class Connection:
    """The connection of a client: what may have to wait for it is a generator, and yields instead."""

    def __init__(self, server, client_fd, client_addr):
        self.server = server
        self.client_fd, self.client_addr = client_fd, client_addr
        self.received, self.unsent = bytearray(), bytearray()
        self.requests = parse_requests(self.received)
        self.is_idle = True

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
        finally:
            self.server.connections.discard(self)

    def handle_one_request(self):
        """Return whether another request may follow."""
        self.response = Response(None, self.write)
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
            with contextlib.suppress(OSError, ValueError):  # standard error may be full or closed
                traceback.print_exc()
            if not self.response.finished:
                yield from self.send(self.response.error(
                    '500 Internal Server Error', 'the server or its application failed'))
        yield from self.send(b'')  # what is still unsent
        return self.response.keep_alive

    def read_request(self):
        self.is_idle = not self.received.strip()  # or the client did not wait for the response before
        idle_timeout = LINGER if self.server.is_stopping else IDLE_TIMEOUT
        deadline = time.monotonic() + (idle_timeout if self.is_idle else REQUEST_TIMEOUT)
        for step in self.requests:
            if isinstance(step, Request):
                return step
            if step:
                yield from self.send(step)
            try:
                data = yield from self.when_ready(selectors.EVENT_READ, deadline, self.client_fd.recv, 65536)
            except TimeoutError:
                if self.is_idle:
                    raise HangUp from None
                raise RequestError('408 Request Timeout', 'the request took too long') from None
            if not data:
                raise HangUp
            if self.is_idle and data.strip():  # a blank line does not begin a request
                self.is_idle = False
                deadline = time.monotonic() + REQUEST_TIMEOUT
            self.received += data

    def run_application(self, request):
        """Run the application, and send what it returns."""
        while not self.server.begin_call(self):
            yield None, FOREVER
        began = time.monotonic()
        try:
            self.call_application(request)
        finally:
            self.leave_if_forked()
            self.server.app_is_slow = time.monotonic() - began > SLOW
            if not self.server.end_call(self):
                yield LEADER, FOREVER

    def call_application(self, request):
        self.has_waited = self.hung_up = False
        env = get_environ(request, self.server.server_addr, self.client_addr, multithread=True)
        result = self.server.application(env, self.response.start_response)
        if self.server.is_stopping:
            self.response.keep_alive = False
        is_whole = isinstance(result, list | tuple)  # then the application has nothing more to do
        with contextlib.closing(self.response.finish_response(result)) as blocks:
            for data in blocks:
                if is_whole:
                    self.unsent += data
                else:
                    self.write(data)
        if self.hung_up:
            raise HangUp

    def write(self, data):
        """Send what the application has written, before it goes on (PEP 3333, Buffering and Streaming)."""
        self.leave_if_forked()
        if self.hung_up:
            raise HangUp
        self.unsent += data
        self.send_some()
        while self.unsent:
            self.wait_for_client()
            if not self.send_some():
                self.hung_up = True
                raise HangUp
        self.server.running[self] = time.monotonic() + APP_TIMEOUT

    def send_some(self):
        """Return whether the client takes some bytes now."""
        try:
            del self.unsent[:self.client_fd.send(self.unsent)]
        except BlockingIOError:
            return False
        except OSError as error:
            self.hung_up = True
            raise HangUp from error
        return True

    def wait_for_client(self):
        """Wait until the client takes some bytes, in a thread whose place another one takes."""
        self.server.running.pop(self, None)  # it is not the application that may be slow now
        self.server.leave_loop()
        if not self.has_waited:
            self.has_waited = True
            self.server.start_thread()
        poll = select.poll()
        poll.register(self.client_fd, select.POLLOUT)
        poll.poll(SEND_TIMEOUT * 1000)
        self.server.running[self] = time.monotonic() + APP_TIMEOUT

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
        self.deadline = deadline
        while True:
            is_late = time.monotonic() >= self.deadline  # asked first: what has come by now is in time
            try:
                return call(argument)
            except BlockingIOError:
                if is_late:
                    raise TimeoutError from None
            except OSError as error:
                raise HangUp from error
            yield event, self.deadline

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


def signal_socket(*numbers):
    """Return a socket from which the numbers of those signals come, a byte for each; see signal(3py)."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach())
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reading


def hold_signals():
    """Hold signals back: a new child has the socket of its parent, and would write its own signals there."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release_signals():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def default_signals():
    """Have signals do what they do by default: a child has nothing to do with those of its parent."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    release_signals()


def check_application(path):
    """Load the application in a child, so that each new worker loads it anew; exits where it cannot."""
    if os.fork() == 0:
        load_application(path)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)


def main():
    if sys.stdout:
        sys.stdout.reconfigure(line_buffering=True)  # os._exit() would lose what the application prints
    app_path = sys.argv[1] if len(sys.argv) > 1 else ''
    check_application(app_path)
    httpd = WSGIServer((HOST, PORT), app_path)
    report(f'Serving HTTP on port {httpd.server_addr[1]} ...')
    try:
        httpd.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C is the way to end this server


if __name__ == '__main__':
    main()
