"""Starting a server as a process of its own, and ending it with everything that it started."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from common.stages import ROOT, python_path
from laboratory.instruments import kernel
from laboratory.instruments.endings import deferred, running
from laboratory.instruments.output import last_lines

APPS = 'laboratory/instruments/apps'  # the folder with the application that experiments run
A_WHILE = 3  # seconds in which a server has done what it does by a timer
MOST_OUTPUT = 100_000  # bytes that are looked at, the last ones
REST = 0.15  # seconds in which nothing moves, after which nothing more is awaited
CALM = 0.06  # the same, where the kernel tells that all wait for a client or a child
OTHER = 3  # seconds for the port that it was told, once it listens on another
SHORTEST = 0.005  # seconds between two looks, at first
NAP = 2  # seconds of sleep() after which a server may go on
SLEEP = 10  # seconds of sleep() at the most, where a server may well sleep
START = 12  # seconds in which it must listen, and print what is waited for
TRIES = 3  # how often START may pass, as long as a busy machine may be the reason
WORK = 1  # seconds of CPU that a server may use before what is awaited
PATIENCE = 5  # seconds in which a stage has reached the time limits that an experiment gives it


class ServerFailed(Exception):
    """The server ended, did not listen in time or broke its bounds (broken)."""

    def __init__(self, what, output, broken=False):
        super().__init__(what, output, broken)  # with which it is made again in another process
        self.what, self.printed, self.broken = what, last_lines(output), broken

    def __str__(self):
        return ('\n'.join([f'{self.what}; it printed:', *self.printed]) if self.printed
                else f'{self.what}, and printed nothing')


class Bounds(NamedTuple):
    processes: int  # at the same time
    seconds: float  # from its first client
    output: int  # bytes in all


class ServerProcess:
    """A running server: a context manager that ends it on leaving.

    command, env     what to run, a list of strings, and variables to add; it listens on PORT if that is there
    bounds           ends it when it breaks them
    pace, patience   the seconds that a reply takes, and those in which it reaches a time limit of its own
    own_port         where it listens whatever PORT says, if that is known

    pid, port        of the process that listens, and where; popen is the one that was started
    listened         the pids of all that listened there when it came to rest
    forked           {pid: parent's pid} of what those have forked that it had when it came to rest, as far
                     as seen: neither the helpers of its children, nor their children
    until_end        an ExitStack for what shall last as long as the server: connections, for example
    folder           where it and an experiment meet: a Path, in the variable PROBES of its environment
    last_exchange    the request that fetch() sent last, and its Reply; None for none
    whole            the bytes of a whole answer, as far as ask() has seen
    """

    def __init__(self, command, env=(), bounds=None, pace=0.0, patience=PATIENCE, own_port=None):
        self.command, self.env = command, {**os.environ, 'HOST': '127.0.0.1', 'PORT': '0', **dict(env)}
        self.env.pop('PYTHONUNBUFFERED', None)  # it would hide what a server forgets to flush
        self.bounds, self.broken, self.deadline = bounds, '', float('inf')
        self.guarding, self.stopped = None, threading.Event()
        self.pace, self.patience, self.own_port, self.work = pace, patience, own_port, WORK
        self.pid, self.port, self.listened, self.own, self.forked = None, None, set(), set(), {}
        self.last_exchange, self.whole = None, float('inf')
        self.until_end = ExitStack()

    def __enter__(self):
        with deferred():
            self.log = tempfile.TemporaryFile()
            self.temporary = tempfile.TemporaryDirectory()
            self.folder = Path(self.temporary.name)
            self.env['PROBES'] = self.temporary.name
            self.popen = subprocess.Popen(
                self.command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
            running.add(self)
        try:
            if self.bounds:  # the thread is made here: one that is made before a fork cannot start after it
                self.guarding = threading.Thread(target=self.guard, daemon=True)
                self.guarding.start()
            self.wait_for(self.find_listener, 'listen on a port')
            if self.bounds:
                known = int(self.env['PORT']), self.own_port
                kernel.eventually(lambda: self.find_listener() and self.port in known, OTHER)
                self.let_rest()  # its workers start
                kernel.eventually(lambda: self.find_listener() or self.is_gone(), OTHER)  # orphans come late
                self.deadline = time.monotonic() + self.bounds.seconds
            self.own, self.forked = set(self.family()), {}
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        output = self.output()
        self.stop()
        if self.broken:
            raise ServerFailed(self.broken, output, broken=True)

    def client_socket(self, family):
        """A socket with which to be a client of it."""
        return socket.socket(family)

    def find_listener(self):
        """Set pid, port and listened; the port that PORT names comes first. Return whether there is one."""
        found = [(pid, port) for pid in self.family() for port in kernel.ports(pid)]
        named = [(pid, port) for pid, port in found if str(port) == self.env['PORT']]
        if found:
            self.pid, self.port = (named or found)[0]
            self.listened = {pid for pid, port in found if port == self.port}
        return bool(found)

    def guard(self):
        """Kill it when it breaks its bounds."""
        while not self.stopped.wait(0.1):
            if sum(map(kernel.alive, self.relatives())) > self.bounds.processes:
                self.broken = f'started more than {self.bounds.processes} processes'
            elif time.monotonic() > self.deadline:
                self.broken = f'took longer than {self.bounds.seconds:.0f} seconds'
            if self.broken:
                self.kill()

    def relatives(self):
        """{pid: parent's pid} of everything that it started, zombies too, parents first."""
        found = {self.popen.pid: os.getpid()} | kernel.family(self.popen.pid)
        if self.popen.poll() is not None:  # a daemon is no descendant: the folder in its environment tells
            for pid in psutil.pids():
                if pid not in found and kernel.variable(pid, 'PROBES') == self.temporary.name:
                    found |= {pid: kernel.parent(pid)} | kernel.family(pid)
        return found

    def family(self):
        """The pids of its relatives, which are noted as forked if they are new."""
        found = self.relatives()
        for pid, parent in found.items():
            if pid not in self.own and parent in self.own:
                self.forked.setdefault(pid, parent)
        return list(found)

    def processes(self):
        """The pids of everything that it started and that runs."""
        return [pid for pid in self.family() if kernel.alive(pid)]

    def listeners(self):
        """The pids of those that listen on its port now."""
        return {pid for pid in self.processes() if self.port in kernel.ports(pid)}

    def is_gone(self):
        """Whether nothing of it runs; looks more than once, for what is just changing its parent."""
        return not any(self.processes() for _ in range(3))

    def has_ended(self):
        """Whether nobody serves any more: nobody that listened, and no worker that a living one forked."""
        if any(map(kernel.alive, self.listened)):
            return False
        family = self.processes()
        return not any(self.forked.get(pid) in family for pid in self.listeners())

    def returncode(self):
        """That of the command, None where it still runs; a shell around the server may end a bit later."""
        kernel.eventually(lambda: self.popen.poll() is not None, 1)
        return self.popen.returncode

    def exit_status(self):
        """', with exit status 1' or ', by SIGSEGV'; '' where it is not known."""
        status = self.returncode()
        if status is None:
            return ''
        if self.bounds and self.written() >= self.bounds.output:
            return f', after printing {self.bounds.output // 10**6} MB: more is not allowed here'
        number = -status if status < 0 else status - 128  # the shell's way to tell of a signal
        is_signal = number in list(signal.Signals)
        return f', by {signal.Signals(number).name}' if is_signal else f', with exit status {status}'

    def wait_for(self, condition, what):
        """Wait until condition() is true; raises ServerFailed."""
        for _ in range(TRIES):
            ready = kernel.eventually(lambda: condition() or self.is_gone(), START)
            asleep, used = kernel.activity(self.family())
            if ready or asleep or used > START / 4:  # it had its chance
                break
        if not condition():  # which may have come true just before its end
            ended = f', but ended{self.exit_status()}' if self.is_gone() else f' in {START} seconds'
            raise ServerFailed(self.broken or f'did not {what}{ended}', self.output(), bool(self.broken))

    def wait_until(self, condition, pause=kernel.LOOK_EVERY, most=kernel.LIMIT, nap=NAP):
        """Wait until condition() is true; return whether it became so.

        Gives up after `most` seconds, once the server has used WORK seconds of CPU, or once it has been at
        rest for REST seconds (CALM if it waits for others, `nap` if a thread is in sleep()). A slow server
        is given three times its pace for both. A busy machine makes the wait longer and not wrong.
        """
        now = calm_since = begin = time.monotonic()
        first, before, family = None, None, []
        while not condition():
            naps = nap and any(map(kernel.naps, family))  # first: what wakes up now is seen to run below
            family = self.family()
            asleep, used = kernel.activity(family)
            first, now = used if first is None else first, time.monotonic()
            if not asleep or (family, used) != before:
                before, calm_since = (family, used), now
            calm = now - calm_since
            at_rest = calm > max(REST, 3 * self.pace, naps and nap) or calm > CALM and self.waits_for_others()
            is_busy = used - first > max(self.work, 3 * self.pace)
            if at_rest or is_busy:  # one that is busy at each wait is so whatever it does
                self.work = WORK if at_rest else max(self.work / 2, WORK / 10)
            if at_rest or is_busy or now - begin > most:
                return bool(condition())  # it may have come to rest just because it has done so
            time.sleep(min(pause, max(now - begin, SHORTEST)))
        return True

    def waits_for_others(self, pids=()):
        """Whether its processes, or those named, wait for a client or a child, as far as the kernel tells."""
        return all(map(kernel.waits_for_others, filter(kernel.alive, pids) if pids else self.processes()))

    def comes_to(self, condition, seconds, pids=()):
        """Wait for so long, or until it only waits for others; return whether condition() has become true."""
        moved = time.monotonic()

        def is_in_vain():
            nonlocal moved
            if not self.waits_for_others(pids):
                moved = time.monotonic()
            return time.monotonic() - moved > REST  # it may just have been woken up
        kernel.eventually(lambda: condition() or is_in_vain(), seconds)
        return condition()

    def wakes_up(self, condition, pids):
        """Wait until condition() is true: A_WHILE longer than one of the processes sleeps, or SLEEP."""
        until = time.monotonic() + A_WHILE

        def is_in_vain():
            nonlocal until
            if any(map(kernel.naps, pids)):
                until = time.monotonic() + A_WHILE
            return time.monotonic() > until
        kernel.eventually(lambda: condition() or is_in_vain(), SLEEP)
        return condition()

    def let_rest(self, most=kernel.LIMIT):
        """Wait until the server is at rest, in sleep() too, or for so many seconds."""
        self.wait_until(lambda: False, most=most, nap=0)

    def written(self):
        """How many bytes it has printed until now."""
        return os.fstat(self.log.fileno()).st_size

    def output(self, since=0):
        """What it has printed after the first so many bytes, at most the last MOST_OUTPUT of it."""
        begin = max(since, self.written() - MOST_OUTPUT)
        return os.pread(self.log.fileno(), MOST_OUTPUT, begin).decode(errors='backslashreplace')

    def kill(self):
        """SIGKILL to every process group that it has; return whether one was alive."""
        kernel.unless_gone(lambda: os.killpg(self.popen.pid, signal.SIGKILL), None)
        alive = list(filter(kernel.alive, self.relatives()))
        for pid in alive:
            kernel.unless_gone(lambda p=pid: os.killpg(os.getpgid(p), signal.SIGKILL), None)
        return bool(alive)

    def stop(self):
        """End the server and everything that it started."""
        self.stopped.set()
        if self.guarding and self.guarding.is_alive():  # a signal may have come while it was started
            self.guarding.join()  # else it could kill by a pid that is free again
        self.until_end.close()
        kernel.eventually(lambda: not self.kill())
        self.popen.wait()
        self.log.close()
        self.temporary.cleanup()
        running.discard(self)


def stage_server(stage, app=None, pep475='on', env=()):
    """A ServerProcess that runs a stage, with an application or None; pep475 'off': Python 2's accept()."""
    env = {'PYTHONPATH': server_path(pep475), 'WORKERS': '2', **dict(env)}
    return ServerProcess([sys.executable, stage.server, *([app] if app else [])], env)


def server_path(pep475):
    """The PYTHONPATH for a server under experiment: with the applications of the experiments."""
    return f'{ROOT / APPS}{os.pathsep}{python_path(pep475)}'
