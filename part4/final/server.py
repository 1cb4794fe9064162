"""A prefork WSGI server that was measured, and made faster where it was slow.

HTTP and WSGI are in protocol.py.
"""
import _thread
import collections
import contextlib
import faulthandler
import fcntl
import importlib
import math
import mmap
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

from protocol import HangUp, Request, RequestError, Response, base_environ, get_environ, parse_requests

HOST = os.environ.get('HOST') or '127.0.0.1'
PORT = int(os.environ.get('PORT', '8888'))
WORKERS = int(os.environ.get('WORKERS') or os.cpu_count())
THREADS = max(int(os.environ.get('THREADS') or 64), 1)  # of each worker that may be in the application
IDLE_TIMEOUT = float(os.environ.get('IDLE_TIMEOUT') or 5)  # seconds in which a request must begin
REQUEST_TIMEOUT = float(os.environ.get('REQUEST_TIMEOUT') or 10)  # seconds in which it must be whole
SEND_TIMEOUT = float(os.environ.get('SEND_TIMEOUT') or 10)  # seconds in which a client must take some bytes
APP_TIMEOUT = float(os.environ.get('APP_TIMEOUT') or 30)  # seconds for the application, to return or yield
STOP_TIMEOUT = float(os.environ.get('STOP_TIMEOUT') or 10)  # seconds to finish what has begun, after SIGTERM
LINGER = 0.5  # seconds in which a client that should go may still send
SEND_BUFFER = 64 * 1024  # bytes; a larger buffer takes a slow client longer than SEND_TIMEOUT to make room in
RESTART_PAUSE = 0.5  # seconds; a worker that has lived no longer is not replaced at once
ACCEPT_PAUSE = 0.5  # seconds; when no descriptors are left, no client is accepted for so long
PAUSE = 0.01  # seconds; most clients have closed after them, and to ask the selector costs more
FOREVER = math.inf  # seconds
LONGEST = 1e6  # seconds; select() and poll() refuse much more
TAKE_OVER = 0.001  # seconds; a call that is not back after them loses the loop
LOOKS = 10  # at the applications that run, in APP_TIMEOUT
NOBODY = None, None, FOREVER  # where a socket has no task
HAND_OVER = object()  # the event of a task that waits for the thread that has the loop now
TICK = 0.5  # seconds between two looks at the workers
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM


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
        self.environ = base_environ(self.server_addr)

    def serve_forever(self):
        """Be the supervisor: keep WORKERS workers running, until Ctrl-C or SIGTERM; SIGHUP replaces them."""
        self.lifeline, self.supervisor_end = os.pipe()
        self.supervisor, self.has_started = os.getpid(), False
        self.workers = {}  # {pid: Worker}
        has_terminal = os.isatty(0)
        self.pause_end = 0
        signal.signal(signal.SIGCHLD, lambda *_: None)  # one that is ignored would not wait for sigwait()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)  # SIGALRM comes twice a second
        try:
            number = None
            while number not in (signal.SIGINT, signal.SIGTERM):
                self.fork_workers()
                number = self.next_signal()
                if number == signal.SIGHUP:
                    if has_terminal and not os.isatty(0):
                        break  # the terminal has been closed
                    self.reload()
                self.replace_worker()
            if number != signal.SIGINT:
                self.listen_socket.close()
                for pid in self.workers:
                    self.stop_worker(pid)
                while self.workers and self.next_signal() != signal.SIGINT:
                    pass
        finally:
            for pid in self.workers:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def next_signal(self):
        """Wait for a signal, see to the workers, and return its number."""
        number = signal.sigwait(SIGNALS)
        with contextlib.suppress(ChildProcessError):  # it has no child now
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self.forget_child(*ended)
        if number == signal.SIGALRM:
            for pid, worker in self.workers.items():
                self.watch_worker(pid, worker)
        return number

    def forget_child(self, pid, status):
        worker = self.workers.pop(pid, None)
        if not worker:
            return  # the shell that has become this server by exec has forked it, or it is an orphan
        if not self.has_started and worker.end == FOREVER:
            sys.exit(1)  # the application cannot be loaded
        report(f'worker {pid} has ended: {os.waitstatus_to_exitcode(status)}')
        self.pause_end = max(self.pause_end, worker.began + RESTART_PAUSE)

    def watch_worker(self, pid, worker):
        """End a worker that does not stop in time, or in which an application lets no thread run."""
        worker.silence = 0 if worker.sign[0] else worker.silence + TICK
        worker.sign[0] = 0
        if worker.silence > APP_TIMEOUT + 2 or time.monotonic() > worker.end:
            os.kill(pid, signal.SIGKILL)
        elif worker.silence > APP_TIMEOUT + 1:
            os.kill(pid, signal.SIGALRM)  # prints where it is, if it can

    def fork_workers(self):
        """Fork the workers that are missing, and one more where some are outdated."""
        wanted = WORKERS + any(worker.is_outdated for worker in self.staying().values())
        if not self.has_started:
            wanted = 1  # which shows whether the application can be loaded
        try:
            while len(self.staying()) < wanted and time.monotonic() >= self.pause_end:
                self.fork_worker()
        except OSError as error:  # there are too many processes, or too little memory
            report(f'cannot fork a worker: {error}')

    def staying(self):
        """Return those workers that have not been asked to stop."""
        return {pid: worker for pid, worker in self.workers.items() if worker.end == FOREVER}

    def reload(self):
        """Have all workers replaced."""
        for pid, worker in self.staying().items():
            worker.is_outdated = True
            if not worker.sign[1]:
                self.stop_worker(pid)  # it may hang while it loads the application

    def replace_worker(self):
        """Stop an outdated worker if there are enough others; report when the first one serves."""
        ready = {pid: worker for pid, worker in self.staying().items() if worker.sign[1]}
        outdated = [pid for pid, worker in ready.items() if worker.is_outdated]
        if outdated and len(ready) > WORKERS:
            self.stop_worker(outdated[0])
        if ready and not self.has_started:
            self.has_started = True
            report(f'Serving HTTP on port {self.server_addr[1]} ...')

    def fork_worker(self):
        worker = Worker()
        pid = os.fork()
        if pid == 0:  # child
            try:
                let_signals_act()
                faulthandler.register(signal.SIGALRM, file=2, chain=True)  # prints where it was
                os.close(self.supervisor_end)
                self.sign = worker.sign
                self.serve_clients()
            except SystemExit as error:
                print(error, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self.workers[pid] = worker

    def stop_worker(self, pid):
        """Ask a worker to finish what it has begun, and to end."""
        os.kill(pid, signal.SIGTERM)
        self.workers[pid].end = time.monotonic() + STOP_TIMEOUT + 1  # a worker that can ends before

    def end_with_supervisor(self):
        """End this worker when the supervisor is gone, or when an application does not return."""
        with contextlib.suppress(OSError):  # Linux ends this worker by SIGIO, even where no thread can run
            lifeline = os.open(f'/dev/fd/{self.lifeline}', os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        while True:
            self.sign[0] = 1  # tells the supervisor that an application lets this thread run
            if select.select([self.lifeline], [], [], min(APP_TIMEOUT / LOOKS, LONGEST))[0]:
                os._exit(0)  # the lifeline ends with the supervisor, even by SIGKILL
            self.looks += 1
            if self.looks - min(list(self.running.values()), default=self.looks) > LOOKS:
                for connection in list(self.connections):
                    connection.break_off()
                signal.raise_signal(signal.SIGALRM)
                os._exit(1)  # where the application has a handler of its own

    def serve_clients(self):
        """Be a worker: one thread has the loop, others are in the application, the main thread watches."""
        self.worker = os.getpid()
        # only the thread that holds the turn may use the loop, which is:
        self.turn = threading.Lock()
        self.selector = selectors.DefaultSelector()
        self.tasks = {}  # {socket: (generator, the event for which it waits, when its time has come)}
        self.ready = collections.deque()  # sockets whose tasks shall run
        self.registered = {}  # {socket: the event that the selector looks for}
        self.alarm = FOREVER  # no task has its time before this
        self.connections = set()
        # the thread that holds the turn writes this, before it lets go of it; any thread may read it:
        self.calls = 0  # how many calls of the application have begun
        # any thread may use these at any time, since each use is one step that no other thread can divide:
        self.called = threading.Event()  # the main thread waits for it
        self.running = {}  # {connection: number of the look after which its application began}
        self.looks = 0  # only end_with_supervisor() writes it
        self.app_is_slow = False  # whether the last call that came back took long
        self.is_stopping = False  # only handle_sigterm() writes it
        self.handed_over = collections.deque()  # sockets and their tasks
        self.wake_up_socket, self.woken_socket = socket.socketpair()
        self.wake_up_socket.setblocking(False)
        self.woken_socket.setblocking(False)
        threading.Thread(target=self.end_with_supervisor, daemon=True).start()
        self.application = load_application(self.app_path)
        signal.signal(signal.SIGTERM, self.handle_sigterm)
        signal.signal(signal.SIGHUP, lambda *_: None)  # it is for the supervisor
        os.register_at_fork(after_in_child=let_signals_act)  # a child of the application is no worker
        self.start_task(self.listen_socket, self.accept_clients())
        self.start_task(self.woken_socket, self.take_handed_over())
        self.next_turn(self.calls)
        self.sign[1] = 1
        os.kill(self.supervisor, signal.SIGCHLD)  # has the supervisor look at once
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
                _thread.start_new_thread(self.run_loop, ())
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
            while self.connections or self.listen_socket in self.tasks:
                if not self.ready:
                    self.find_ready()
                elif not self.run_task(self.ready.popleft()):
                    return
            os._exit(0)
        except BaseException:
            self.running[self] = self.looks  # to print it can take too long, too
            try:
                traceback.print_exc()
            finally:
                os._exit(1)

    def find_ready(self):
        """Wait until there are sockets that are ready, or whose time has come."""
        for key, _ in self.selector.select(min(self.alarm - time.monotonic(), LONGEST)):
            if self.tasks.get(key.fileobj, NOBODY)[1]:
                self.ready.append(key.fileobj)
            else:  # nobody waits for its event now
                self.selector.unregister(key.fileobj)
                del self.registered[key.fileobj]
        now = time.monotonic()
        if self.alarm <= now:
            self.ready.extend(sock for sock, (_, _, when) in self.tasks.items() if when <= now)
            self.alarm = min((when for _, _, when in self.tasks.values() if when > now), default=FOREVER)

    def start_task(self, sock, task):
        self.tasks[sock] = task, None, FOREVER
        self.ready.append(sock)

    def run_task(self, sock):
        """Run a task up to its next yield, which tells for what event it waits, and until when.

        Returns whether this thread still has the loop.
        """
        task, _, _ = self.tasks.pop(sock, NOBODY)
        if not task:
            return True  # it has ended, or another thread runs it
        event, when = next(task, (None, None))
        if event is HAND_OVER:
            self.handed_over.append((sock, task))
            self.wake_up()
            return False
        if when is None:  # the task has ended
            if self.registered.pop(sock, None):
                self.selector.unregister(sock)
            sock.close()
            return True
        if event and event != self.registered.get(sock):
            change = self.selector.modify if sock in self.registered else self.selector.register
            change(sock, event)
            self.registered[sock] = event
        self.tasks[sock] = task, event, when
        self.alarm = min(self.alarm, when)
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

    def handle_sigterm(self, *_):
        """Have the loop stop this worker; called in the main thread."""
        self.is_stopping = True
        self.handed_over.append((self.wake_up_socket, self.stop_clients()))  # a socket that has no task
        self.wake_up()

    def stop_clients(self):
        """Accept no more clients, and finish what has begun."""
        now = time.monotonic()
        for connection in self.connections:
            if connection.is_idle:
                connection.deadline = now + LINGER
        for sock, (task, event, _) in self.tasks.items():
            self.tasks[sock] = task, event, now  # it looks anew how long it may wait
        self.alarm = now
        while time.monotonic() < now + STOP_TIMEOUT:
            yield None, now + STOP_TIMEOUT
        report(f'worker {os.getpid()} ends; clients not served to the end: {len(self.connections)}')
        for connection in self.connections:
            connection.break_off()
        os._exit(1)

    def leave_if_forked(self):
        if os.getpid() != self.worker:
            os._exit(0)  # what the application has forked is no worker

    def accept_clients(self):
        while True:
            yield selectors.EVENT_READ, 0 if self.is_stopping else FOREVER
            try:
                client_fd, client_addr = self.listen_socket.accept()
            except ConnectionAbortedError:
                continue  # the client has gone
            except BlockingIOError:
                if self.is_stopping:
                    return
                continue  # another worker has it
            except OSError as error:  # no descriptors are left
                report(f'cannot accept a client: {error}')
                yield None, time.monotonic() + ACCEPT_PAUSE
                continue
            client_fd.setblocking(False)
            connection = Connection(self, client_fd, client_addr)
            self.connections.add(connection)
            self.start_task(client_fd, connection.handle_client())


class Worker:
    """What the supervisor knows of a worker."""

    def __init__(self):
        self.began, self.end = time.monotonic(), FOREVER  # when it was forked, and when it is killed
        self.sign = mmap.mmap(-1, 2)  # memory that both share: whether the worker lives, and serves
        self.silence = 0  # seconds for which it has given none
        self.is_outdated = False  # whether it has the application as it was before SIGHUP


class Connection:
    """The connection of a client: what may have to wait for it is a generator, and yields instead."""

    def __init__(self, server, client_fd, client_addr):
        self.server = server
        self.client_fd, self.client_addr = client_fd, client_addr
        self.received, self.unsent = bytearray(), b''
        self.requests = parse_requests(self.received)
        self.response, self.is_idle = None, True
        self.is_likely = True  # that the next recv() or send() need not wait

    def handle_client(self):
        try:
            while (yield from self.handle_one_request()):
                pass
            yield from self.finish_connection()
        except HangUp:
            self.break_off()
        finally:
            self.response = None  # it has a method of this connection: a cycle, which is not freed at once
            self.server.connections.discard(self)

    def break_off(self):
        response = self.response  # the loop's thread may forget it while another one breaks off
        if self.unsent or response and response.headers_sent and not response.finished:
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
        self.is_idle = not self.received.strip()  # or the client did not wait for the response before
        idle_timeout = LINGER if self.server.is_stopping else IDLE_TIMEOUT
        deadline = time.monotonic() + (idle_timeout if self.is_idle else REQUEST_TIMEOUT)
        for step in self.requests:
            if isinstance(step, Request):
                return step
            if step:
                yield from self.send(step)
            try:
                data = yield from self.when_ready(selectors.EVENT_READ, deadline, self.client_fd.recv, 16384)
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
        self.is_likely = True
        for data in blocks:
            yield from self.send(data)

    def call_application(self, request):
        """Run the application; return the blocks that the loop has to send."""
        try:
            env = get_environ(self.server.environ, request, self.client_addr)
            result = self.server.application(env, self.response.start_response)
            if self.server.is_stopping and not self.response.headers_sent:  # which would have promised more
                self.response.keep_alive = False
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
        self.deadline = deadline
        if not self.is_likely:
            yield event, self.deadline
        self.is_likely = False
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
            yield None, (time.monotonic() // PAUSE + 2) * PAUSE  # many come back at once
            self.is_likely = True
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
    with contextlib.suppress(OSError, ValueError):  # standard output may be closed
        if select.select([], [1], [], 0)[1]:  # or a pipe that nobody reads
            print(words, flush=True)


def let_signals_act():
    """Have signals do what they do by default."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def main():
    if sys.stdout:
        sys.stdout.reconfigure(line_buffering=True)  # os._exit() would lose what the application prints
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # where 0, 1 or 2 is closed, a client would get that number, and what is printed there
    os.close(fd)
    httpd = WSGIServer((HOST, PORT), sys.argv[1] if len(sys.argv) > 1 else '')
    httpd.serve_forever()


if __name__ == '__main__':
    main()
