"""A server whose processes run in turns, one line of Python at a time, while strace writes down what they do.

Where several processes run at once, their order is chance. Here it is always the same: a line is begun when
all others rest, and the oldest process goes on until it waits. The clients act between two lines.
"""
import ctypes
import re
import signal
import socket
import tempfile
import time
from itertools import count

from laboratory.instruments import kernel
from laboratory.instruments.client import NO_LINGER
from laboratory.instruments.looks import look, tasks_of
from laboratory.instruments.process import A_WHILE, NAP, ServerProcess
from laboratory.instruments.shown import SHOWN
from laboratory.instruments.timeline import CALLS

MORE_CALLS = ['access', 'connect', '?epoll_create', 'epoll_create1', 'exit_group', 'kill', '?pipe', 'pipe2',
              'rt_sigaction', 'setsockopt', 'socket', 'socketpair']
NO_CALLS = {'rt_sigtimedwait'}  # in which lines wait for their turn
STRACE = ['strace', '-f', '-q', '--seccomp-bpf', '-s', '300',
          '-e', f'trace={",".join({*CALLS, *MORE_CALLS} - NO_CALLS)}']
AT_A_STRETCH = 200  # lines of one process, then another has a turn
MOST_TURNS = 2000
WORK = 3  # seconds of CPU after which a server that does not rest is not waited for
SURE = 0.02  # seconds after which nothing comes that was on its way
PAUSE = 0.0005  # seconds between two looks at what may move
RESTS = 'StTZX'  # states in which nothing moves while strace sleeps, see proc(5)
BEGUN = re.compile(r'(\d+) +(?:<\.\.\. )?(\w+)')  # the process and the call of a line
MARK = re.compile(r'\d+ +access\(')
LIBC = ctypes.CDLL(None)


class StagedServer(ServerProcess):
    """A server under strace, whose lines take turns: a context manager.

    file     whose lines these are, '' for a server that is not in Python
    goes_on  whether it was seen not to rest: then the story has ended
    story    what has happened, as strace writes it; '0 client 1 …' is what a client has done,
             and '0 look 3' stands where all rested: looks[3] is what the kernel said then
    """

    def __init__(self, command, env, file='', bounds=None):
        self.trace = tempfile.NamedTemporaryFile('r', errors='replace', newline='\n')
        super().__init__([*STRACE, '-o', self.trace.name, *command], {**env, 'REPLAY': file}, bounds)
        self.story, self.looks, self.clients = [], [], count(1)
        self.order, self.last, self.stretch, self.turns, self.goes_on = [], None, 0, 0, False
        self.seen, self.begun, self.tasks, self.is_over = 0, None, None, False

    def __enter__(self):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])  # what is started inherits that
        try:
            return super().__enter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def stop(self):
        self.is_over = True
        super().stop()
        self.trace.close()

    def client_socket(self, family):
        return Client(self, family)

    def find_listener(self):
        self.play()
        return super().find_listener()

    def let_rest(self, most=kernel.LIMIT):
        self.play()

    def wait_until(self, condition, **limits):
        """Let it go on until condition() is true, or until all rest; return whether it became so."""
        self.play(condition)
        if not condition() and not self.goes_on:
            self.note('all rest')
        return condition()

    def play(self, until=lambda: False):
        """Give turns until that is true, or all rest: for good, as far as can be seen."""
        while True:
            waiting = self.settle()
            if until() or self.goes_on or self.is_over:
                break
            if waiting and self.turns == MOST_TURNS:
                self.give_up(f' {MOST_TURNS} lines')
            elif waiting:
                self.give_turn(waiting)
            elif not self.stirs() and not self.naps_end(until):
                break

    def stirs(self):
        """Whether something goes on by itself: on a busy machine bytes may be on their way for a moment."""
        time.sleep(SURE)
        return tasks_of(self.relatives()) != self.tasks

    def comes_to(self, condition, seconds, pids=()):
        return self.wait_until(condition)

    def wakes_up(self, condition, pids):
        return self.wait_until(condition)

    def naps_end(self, until):
        """Wait for what is in sleep(); return whether there was something, and it has gone on."""
        def naps():
            return any(map(kernel.naps, self.processes()))
        return naps() and kernel.eventually(lambda: until() or not naps(), NAP)

    def settle(self):
        """Wait until nothing moves, and look; return the tasks that wait for their turn.

        Two looks that find all asleep, none of which had a CPU in between: then all were asleep at one time.
        """
        self.tasks, begin, used = None, time.monotonic(), None
        while not self.goes_on and not self.is_over:
            before, self.tasks = self.tasks, tasks_of(self.relatives())
            if self.tasks == before and all(task.state in RESTS for task in self.tasks):
                self.read_trace()
                return self.looked_at(self.tasks)
            seconds = time.monotonic() - begin
            if used is None and seconds > SURE:
                used = self.cpu()
            elif seconds > A_WHILE and self.cpu() - used > WORK:
                self.give_up(f' {WORK} seconds')
            elif seconds > kernel.LIMIT:
                self.give_up()
            time.sleep(PAUSE)
        return []

    def cpu(self):
        """The seconds of CPU that it has used."""
        return kernel.activity(self.relatives())[1]

    def give_up(self, why=''):
        """It does not rest: the story ends here, as what comes now is not seen in order."""
        self.read_trace()
        self.note(f'goes on{why}')
        self.goes_on = True

    def looked_at(self, tasks):
        """Note what the kernel says where something has happened since; return those that wait for a turn."""
        if self.port and not all(map(MARK.match, self.story[self.seen:])):
            self.note(f'look {len(self.looks)}')
            self.looks.append(look(tasks, self.port))
            self.seen = len(self.story)
        self.order += sorted(task.tid for task in tasks if task.tid not in self.order)
        return sorted((task for task in tasks if task.is_at_a_line()), key=lambda t: self.order.index(t.tid))

    def give_turn(self, waiting):
        """Let the oldest of them begin its line; where it has had many, another one."""
        task = waiting[0]
        self.stretch = self.stretch + 1 if task.tid == self.last else 1
        if self.stretch > AT_A_STRETCH:
            task, self.stretch = waiting[-1], 0
        self.turns, self.last = self.turns + 1, task.tid
        LIBC.tgkill(task.pid, task.tid, signal.SIGRTMAX)

    def read_trace(self):
        """Add to the story what strace has written; the last call may go on in the next piece."""
        for line in self.trace.read().splitlines(keepends=True):
            text = line.rstrip()
            if self.begun and text.strip() == '<unfinished ...>':  # another process has done something since
                text = ''
            elif self.begun:
                text = f'{self.begun[1]} <... {self.begun[2]} resumed>{text}'
            self.begun = None if line.endswith('\n') else BEGUN.match(text)
            self.story += [f'{text} <unfinished ...>' if self.begun else text] * bool(text)

    def note(self, words):
        self.story.append(f'0 {words}')


class Client(socket.socket):
    """A client of such a server: acts when the server rests, and notes in the story what it does."""

    def __init__(self, server, family):
        super().__init__(family)
        self.server, self.number, self.resets = server, 0, False

    def act(self, call, *arguments):
        """Do it when all rest: what comes of it stands behind it in the story."""
        self.server.settle()
        try:
            return call(*arguments)
        except ConnectionError:
            self.tell('is reset')
            raise

    def tell(self, words, data=None):
        if self.number and not (self.server.is_over or self.server.goes_on):
            self.server.note(f'client {self.number} {words}' + (f' {bytes(data[:SHOWN])}' if data else ''))

    def connect(self, address):
        self.act(super().connect, address)
        self.number = next(self.server.clients)
        self.tell(f'connects from {self.getsockname()[1]}')

    def sendall(self, data, flags=0):
        self.act(super().sendall, data, flags)
        self.tell(f'sends {len(data)}', data)

    def send(self, data, flags=0):
        size = self.act(super().send, data, flags)
        self.tell(f'sends {size}', data[:size])
        return size

    def recv(self, size, flags=0):
        data = self.act(super().recv, size, flags)
        self.tell(f'receives {len(data)}', data)
        return data

    def shutdown(self, how):
        self.act(super().shutdown, how)
        self.tell('shuts down')

    def setsockopt(self, *option):
        super().setsockopt(*option)
        self.resets |= option[1:] == (socket.SO_LINGER, NO_LINGER)

    def close(self):
        if self.fileno() != -1:
            self.act(super().close)
            self.tell('resets' if self.resets else 'closes')
