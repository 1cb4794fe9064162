"""Starting a server as a process of its own, and ending it with everything that it started."""
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from common import kernel
from common.stages import ROOT, python_path

GUARD_EVERY = 0.05  # seconds
MOST_OUTPUT = 100_000  # bytes that are looked at, the last ones
SET_CHILD_SUBREAPER = 36  # prctl(2): be to orphans what init is


class ServerFailed(Exception):
    """The server ended, did not listen in time or broke its bounds; the message holds what it printed."""


class Bounds(NamedTuple):
    processes: int  # at the same time
    deadline: float  # of time.monotonic()


class ServerProcess:
    """A running server: a context manager that ends it on leaving.

    pid, port   of the process that listens; popen is the one that was started

    command     what to run, a list of strings; it is expected to listen
    env         variables to add to the environment
    limit       the most descriptors it may have open, as `ulimit -n` sets it
    bounds      ends it when it breaks them; on Linux, adopts what it orphans (a daemon) as well
    """

    def __init__(self, command, env=(), limit=None, bounds=None):
        self.command = command
        if limit:
            self.command = ['sh', '-c', f'ulimit -n {limit}; exec {shlex.join(command)}']
        self.env = {**os.environ, 'HOST': '127.0.0.1', 'PORT': '0', **dict(env)}
        self.env.pop('PYTHONUNBUFFERED', None)  # it would hide what a server forgets to flush
        self.bounds, self.broken, self.stopped = bounds, None, threading.Event()

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.strangers = kernel.children(os.getpid())
        if self.bounds and sys.platform == 'linux':
            ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
        self.popen = subprocess.Popen(
            self.command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if self.bounds:
                self.guarding = threading.Thread(target=self.guard, daemon=True)
                self.guarding.start()
            self.pid, self.port = self.wait_for(lambda: kernel.listener(self.processes()), 'listen')
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        output = self.output()
        self.stop()
        if self.broken:
            raise ServerFailed(complaint(self.broken, output))

    def guard(self):
        """Kill it when it breaks its bounds."""
        while not self.stopped.wait(GUARD_EVERY):
            if len(self.processes()) > self.bounds.processes:
                self.broken = f'started more than {self.bounds.processes} processes'
            elif time.monotonic() > self.bounds.deadline:
                self.broken = 'took too long: it is never at rest'
            if self.broken:
                self.kill()

    def orphans(self):
        """The pids that it orphaned and that came to us; those that have ended are reaped."""
        if not self.bounds:
            return set()
        ours = os.getpgrp()
        children = kernel.children(os.getpid()) - self.strangers - {self.popen.pid}
        for pid in children & kernel.zombies(os.getpid()):
            kernel.seen(lambda pid=pid: os.waitpid(pid, os.WNOHANG), None)
        return {pid for pid in children if kernel.seen(lambda p=pid: os.getpgid(p), ours) != ours}

    def processes(self):
        """Everything that it started and that runs."""
        pids = [self.popen.pid, *self.orphans()]
        return [process for pid in pids for process in kernel.family(pid)]

    def has_ended(self):
        """Whether nothing of it runs; looks more than once, for what is just changing its parent."""
        return not any(self.processes() for _ in range(3))

    def wait_for(self, condition, what):
        """Wait until condition() is true and return it; raises ServerFailed."""
        kernel.eventually(lambda: condition() or self.has_ended())
        if not (result := condition()):
            raise ServerFailed(complaint(self.broken or f'did not {what}', self.output()))
        return result

    def output(self):
        """What it has printed until now (the last of it), standard output and error together."""
        size = os.fstat(self.log.fileno()).st_size
        begin = max(0, size - MOST_OUTPUT)
        return os.pread(self.log.fileno(), MOST_OUTPUT, begin).decode(errors='backslashreplace')

    def wait_for_output(self, text):
        """Wait until it has printed that text; raises ServerFailed."""
        self.wait_for(lambda: text in self.output(), f'print {text!r}')

    def interrupt(self):
        """Press Ctrl-C: SIGINT to the server and its children. Return the exit status."""
        os.killpg(self.popen.pid, signal.SIGINT)
        return self.popen.wait(kernel.LIMIT)

    def kill(self):
        """SIGKILL to every process group that it has."""
        kernel.seen(lambda: os.killpg(self.popen.pid, signal.SIGKILL), None)
        for process in self.processes():
            kernel.seen(lambda p=process: os.killpg(os.getpgid(p.pid), signal.SIGKILL), None)

    def stop(self):
        """End the server and everything that it started."""
        self.stopped.set()
        kernel.eventually(lambda: self.kill() or not self.processes())
        self.popen.wait()
        self.log.close()
        if self.bounds:
            self.guarding.join()  # or it would take the next server's processes for orphans of this one
            if sys.platform == 'linux':
                ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0)


def complaint(what, output):
    """What is wrong, and the last that the server said."""
    lines = [line[:200] for line in output.splitlines()[-10:]]
    return '\n'.join([f'{what}; it printed:', *lines] if lines else [f'{what}, and printed nothing'])


def stage_server(stage, app=None, pep475='on', limit=None):
    """A ServerProcess that runs a stage.

    app       the application of a part 2 stage, found in part2/apps
    pep475    'off' for the accept() of Python 2
    limit     the most descriptors it may have open
    """
    command = [sys.executable, stage.server, *([app] if app else [])]
    return ServerProcess(command, env={'PYTHONPATH': python_path(pep475)}, limit=limit)
