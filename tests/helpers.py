"""What several test modules share: which stages have a property, and looks at what runs."""
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile

import pexpect
import psutil
import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.bugs import known_stages
from laboratory.instruments import kernel
from laboratory.instruments.client import connect, request
from laboratory.instruments.wsgi import noted

PYTHON = shlex.quote(sys.executable)
ON_PATH = {'PYTHON': 'python3', 'PATH': f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'}
GET = request('GET', '/')


def sending(server, data):
    """A connection over which these bytes have been sent."""
    client = connect(server)
    client.sendall(data)
    return client


def wait_for_output(server, text):
    """Wait until the server has printed that text; raises ServerFailed."""
    server.wait_for(lambda: text in server.output(), f'print {text!r}')


def wait_for_the_application(server):
    """Wait until an application of the experiments waits for its FIFO."""
    assert kernel.eventually(lambda: noted(server, 'waiting'))


def press_ctrl_c(server):
    """SIGINT to the server and its children, as a terminal sends it; wait for the end."""
    os.killpg(server.popen.pid, signal.SIGINT)
    server.popen.wait(kernel.LIMIT)


def end_of(command):
    """Read a command on a terminal to its end; return its exit status."""
    command.expect(pexpect.EOF)
    return command.wait()


def names(part):
    return [stage.name for stage in known_stages(part)]


def ends(stages):
    """The first and the last of the stages that have a property: see STEPS in test_stages.py."""
    return [stages[0], stages[-1]]


LINUX = pytest.mark.skipif(not kernel.LINUX, reason='asks what only Linux tells or does')
PREFORK, SUPERVISED, LIMITED, KEEPING, LOOPS, TURNS, STOPPING, RELOADING = (  # properties of part 4
    ends(names('part4')[number:]) for number in range(2, 10))


def protocols():
    """Of the stages with the same protocol.py the first one: {its name: its path}; v1.0 has none."""
    texts = {}
    for stage in known_stages('part4'):
        path = ROOT / stage.folder / 'protocol.py'
        texts.setdefault(path.read_text() if path.exists() else '', (stage.name, path))
    return dict(texts.values())


def protocol_in(path):
    """The module protocol.py in that file."""
    spec = importlib.util.spec_from_file_location('protocol', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {stage: protocol_in(path) for stage, path in protocols().items() if stage != 'part4-v1.0'}


def workers(server):
    """The pids of its children, once they have come to rest."""
    server.let_rest()
    return kernel.children(server.pid)


def run_in_shell(command, env):
    """What a command prints; it is ended after 60 seconds, with all that it has started.

    It prints into a file: the end of a pipe would not come while anything of it lives.
    """
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        shell = subprocess.Popen(['sh', '-c', command], cwd=ROOT, env=env, start_new_session=True,
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            shell.wait(60)
        finally:
            kernel.unless_gone(lambda: os.killpg(shell.pid, signal.SIGKILL), None)
            shell.wait()
        output.seek(0)
        return output.read()


def altered(stage, folder, *changes):
    """A copy of a stage in that folder, in which each (pattern, replacement) has changed one place."""
    stage = find_stage(stage)
    texts = {name: (ROOT / stage.folder / name).read_text() for name in stage.files}
    for pattern, replacement in changes:
        made = {name: re.subn(pattern, replacement, text) for name, text in texts.items()}
        assert sum(count for _, count in made.values()) == 1
        texts = {name: text for name, (text, _) in made.items()}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return Stage('a copy', str(folder))


def left(temporary):
    """The processes that run with that folder for their temporary files, and what is in it."""
    running = [pid for pid in psutil.pids()
               if kernel.variable(pid, 'TMPDIR') == str(temporary) and kernel.alive(pid)]
    return [*running, *temporary.iterdir()]
