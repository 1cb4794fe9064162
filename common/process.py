"""Starting a server as a process of its own, and ending it with everything that it started."""
import os
import shlex
import signal
import subprocess
import sys
import tempfile

from common import kernel
from common.stages import ROOT, python_path

START = 20  # seconds within which a server listens
STOP = 5  # seconds after Ctrl-C within which it has ended


class ServerFailed(Exception):
    """The server ended or did not listen in time; the message holds what it printed."""


class ServerProcess:
    """A running server: a context manager that ends it on leaving.

    pid, port   of the process that listens; popen is the one that was started

    command     what to run, a list of strings; it is given PORT=0 and is expected to listen
    env         variables to add to the environment
    limit       the most descriptors it may have open, as `ulimit -n` sets it
    """

    def __init__(self, command, env=(), limit=None):
        self.command = command
        if limit:
            self.command = ['sh', '-c', f'ulimit -n {limit}; exec {shlex.join(command)}']
        self.env = {**os.environ, 'HOST': '127.0.0.1', 'PORT': '0', **dict(env)}
        self.env.pop('PYTHONUNBUFFERED', None)  # it would hide what a server forgets to flush

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.popen = subprocess.Popen(
            self.command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self.pid, self.port = self.wait_for(lambda: kernel.listener(self.popen.pid), 'listen', START)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def wait_for(self, condition, what, seconds=STOP):
        """Wait until condition() is true and return it; raises ServerFailed."""
        kernel.eventually(lambda: condition() or self.popen.poll() is not None, seconds)
        if not (result := condition()):
            raise ServerFailed(f'{shlex.join(self.command)} did not {what}:\n{self.output()}')
        return result

    def output(self):
        """What it has printed until now, standard output and error together."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors='backslashreplace')

    def wait_for_output(self, text):
        """Wait until it has printed that text; raises ServerFailed."""
        self.wait_for(lambda: text in self.output(), f'print {text!r}')

    def interrupt(self):
        """Press Ctrl-C: SIGINT to the server and its children. Return the exit status."""
        os.killpg(self.popen.pid, signal.SIGINT)
        return self.popen.wait(STOP)

    def stop(self):
        """End the server and all that is in its process group."""
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()
        self.log.close()


def stage_server(stage, app=None, pep475='on', limit=None):
    """A ServerProcess that runs a stage.

    app       the application of a part 2 stage, found in part2/apps or common
    pep475    'off' for the accept() of Python 2
    limit     the most descriptors it may have open
    """
    command = [sys.executable, stage.server, *([app] if app else [])]
    return ServerProcess(command, env={'PYTHONPATH': python_path(pep475)}, limit=limit)
