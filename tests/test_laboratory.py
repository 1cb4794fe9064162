"""The commands that show: scenes, watch, trace, matrix, pictures."""
import os
import re
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest

from common import stages
from common.stages import ROOT
from laboratory import scenes
from laboratory.grade import free_port
from laboratory.instruments import kernel
from laboratory.instruments.client import connect, exchange

SCENES = {  # what is marked on the screen, and the verdict
    'silent-client': ('<-- in the backlog, not accepted', 'a second client waits for as long as the first'),
    'fd-leak': ('CLOSE_WAIT  server  <-- not closed on this side', '24 descriptors more after 24 clients'),
    'zombie': ('<-- ended, not waited for', 'the child has answered and is a zombie'),
    'eintr': ('InterruptedError: [Errno 4] Interrupted system call  <-- EINTR', 'the first SIGCHLD ends'),
    'lost-signal': ('<-- 23 children, 23 of them zombies', '23 zombies after 24 children ended at once'),
    'stopped-child': ('<-- stopped, not ended', 'the next client waits for as long as a child is stopped'),
}


def run_command(module, *arguments, **env):
    command = [sys.executable, '-m', f'laboratory.{module}', *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# the keys of a terminal become signals for the session that it controls alone, see tty_ioctl(4)
TAKE_THE_TERMINAL = '''
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
'''


class Terminal:
    """A command on a terminal of its own, 80 columns wide: keys go in, a screen comes out."""

    def __init__(self, module, *arguments, **env):
        self.descriptor, its_own = os.openpty()
        command = [sys.executable, '-c', TAKE_THE_TERMINAL, '-m', f'laboratory.{module}', *arguments]
        size = {'EXPERIMENTS': '80', 'LINES': '24', 'TERM': 'xterm'}
        self.popen = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **size, **env},
                                      stdin=its_own, stdout=its_own, stderr=its_own, start_new_session=True)
        os.close(its_own)
        self.pid, self.shown = self.popen.pid, ''

    def wait_for(self, text, seconds=kernel.LIMIT):
        """Read until the text is shown; colours are left out."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    data = os.read(self.descriptor, 65536)
                except OSError:  # the other end is closed
                    data = b''
                assert data, self.shown
                self.shown += re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', data.decode(errors='replace'))

    def press(self, key):
        os.write(self.descriptor, key.encode())

    def end(self):
        """The exit status; reads on, so that the command can write."""
        while self.popen.poll() is None:
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    os.read(self.descriptor, 65536)
                except OSError:
                    pass
        return self.popen.returncode


@pytest.fixture
def terminal():
    """terminal('watch', ...) starts a command on a terminal; it is ended with the test."""
    terminals = []

    def start(*arguments, **env):
        terminals.append(Terminal(*arguments, **env))
        return terminals[-1]

    yield start
    for each in terminals:
        each.popen.terminate()  # so that it cleans up
        each.end()
        os.close(each.descriptor)


def servers():
    """The stages that run as children of this process's children."""
    return [process for process in psutil.Process().children(recursive=True)
            if 'server.py' in ' '.join(kernel.seen(process.cmdline, []))]


@pytest.mark.parametrize('name', SCENES)
def test_a_scene_shows_the_bug_the_cure_and_the_diff(name):
    run = run_command('scenes', name)
    telling, bug = SCENES[name]
    first, second, step = re.split(r'^part3-\S+: |^The step: ', run.stdout, flags=re.MULTILINE)[1:]
    assert telling in first
    assert f'bug: {bug}' in first
    assert 'holds: ' in second
    assert telling not in second or name == 'stopped-child'
    assert f'+++ {stages.find_stage(scenes.SCENES[name].stage).server}' in step
    assert '\x1b' not in run.stdout
    assert run.returncode == 0


def test_there_is_a_target_for_every_scene():
    assert list(scenes.SCENES) == list(SCENES)
    targets = subprocess.run(['make', '-pRrq', 'help'], cwd=ROOT, text=True, stdout=subprocess.PIPE).stdout
    assert [name for name in SCENES if f'\nbug-{name}:' not in targets] == []


def test_a_scene_on_a_terminal_asks_for_a_prediction(terminal):
    scene = terminal('scenes', 'lost-signal')
    scene.wait_for('24 children end at once. How many zombies stay?')
    scene.wait_for('Your prediction (Enter skips): ')
    scene.press('none at all\n')
    scene.wait_for('You predicted: none at all. What happened: 23 zombies after 24 children')
    assert scene.end() == 0


def test_a_scene_does_not_ask_with_guess_no(terminal):
    scene = terminal('scenes', 'zombie', GUESS='no')
    scene.wait_for('bug: the child has answered and is a zombie')
    assert 'Your prediction' not in scene.shown
    assert scene.end() == 0


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_a_scene_that_is_interrupted_leaves_nothing(terminal, sent):
    scene = terminal('scenes', 'lost-signal', GUESS='no')
    scene.wait_for('24 children have ended meanwhile')
    assert servers()
    os.kill(scene.pid, sent)
    assert scene.end() == 130
    assert kernel.eventually(lambda: not servers())


def test_watch_shows_what_happens_to_the_server(serve, terminal):
    server = serve('part3-v1.1')
    watch = terminal('watch', '--port', str(server.port))
    watch.wait_for(f'Watching process {server.pid} on port {server.port}')
    with connect(server) as client:
        port = client.getsockname()[1]
        watch.wait_for(f'connection :{port} opened')
        (child,) = kernel.children(server.pid)
        watch.wait_for(f'child {child} forked')
        client.sendall(b'mick')
        watch.wait_for(f'child {child} has ended')
        watch.wait_for(f'connection :{port} half-closed: the server has closed')
    watch.wait_for(f'connection :{port} gone')
    watch.wait_for('zombie')
    server.stop()
    watch.wait_for(f'The server, process {server.pid}, has ended.')
    assert watch.end() == 0


@pytest.mark.parametrize('key', ['q', '\x03'])
def test_watch_waits_for_a_server_and_ends_with_a_key(terminal, key):
    port = free_port()
    watch = terminal('watch', '--port', str(port))
    watch.wait_for(f'Nothing listens on port {port} yet')
    watch.press(key)
    assert watch.end() == 0


def test_watch_in_a_pipe_prints_what_happened(serve):
    server = serve('part3-final')
    command = [sys.executable, '-m', 'laboratory.watch', '--port', str(server.port)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stdin=subprocess.DEVNULL) as watch:
        with connect(server):
            assert 'forked' in watch.stdout.readline()
        server.stop()
        assert watch.stdout.read().endswith(f'The server, process {server.pid}, has ended.\n')
    assert watch.returncode == 0


def test_the_trace_of_v1_2_shows_eintr_and_the_retry(tool):
    tool('strace')
    run = run_command('trace', 'part3-v1.2')
    child = re.search(r'fork → child (\d+)', run.stdout)[1]
    in_this_order = [
        'accept4 … waiting', 'accept4 → a client', f'fork → child {child}',
        f'SIGCHLD: child {child} has exited', 'accept4 interrupted: EINTR', f'wait4 → reaped {child}',
        'accept4 again (Python retries, PEP 475)',
    ]
    places = [run.stdout.index(words) for words in in_this_order]
    assert places == sorted(places)
    assert run.stdout.count('close(4) ') == 2
    assert f'{child}: send → 33 bytes of reply' in run.stdout
    assert run.returncode == 0


def test_the_trace_of_the_leak_has_no_fin(tool):
    tool('strace')
    leak, cured = run_command('trace', 'part3-v1.1-fd-leak').stdout, run_command('trace', 'part3-v1.1').stdout
    assert 'the last copy: FIN' not in leak
    assert 'the last copy: FIN' in cured
    assert 'the kernel restarts it' in leak
    assert 'EINTR' not in leak


def test_a_server_of_ones_own_is_traced(tool):
    tool('strace')
    run = run_command('trace', SERVER=f'{sys.executable} part3/v1.0/server.py')
    assert 'close(4) the last copy: FIN' in run.stdout


def test_a_trace_waits_for_the_requests_of_the_reader(tool, terminal):
    tool('strace')
    port = free_port()
    trace = terminal('trace', 'part3-v1.3', REQUEST='no', PORT=str(port))
    trace.wait_for(f'Send requests to port {port}; Ctrl-C shows what happened.')
    exchange(trace.pid, port)
    trace.press('\x03')
    trace.wait_for('fork → child')
    assert trace.end() == 0


@pytest.mark.parametrize(('env', 'told'), [
    ({'PATH': '/nowhere', 'SERVER': 'x'}, 'This needs Linux and strace'),
    ({'SERVER': ''}, "name a server: make trace SERVER='python3 my_server.py'"),
    ({'SERVER': 'x', 'REQUEST': 'no', 'PORT': 'abc'}, 'PORT=abc is no port'),
    ({'SERVER': 'nosuch'}, 'nosuch: not found'),
])
def test_a_trace_that_cannot_be_is_told(env, told):
    run = run_command('trace', **env)
    assert told in run.stdout.splitlines()[-1]
    assert run.returncode != 0


def test_the_matrix_has_every_cell():
    run = run_command('matrix')
    table = run.stdout
    assert run.returncode == 0
    for part in 'part2', 'part3':
        outcomes = [outcome for row in stages.expected(part).values() for outcome in row.values()]
        for outcome in set(outcomes) - {'bug', 'holds'}:
            assert table.count(outcome) == outcomes.count(outcome)
    both = [o for part in ('part2', 'part3') for row in stages.expected(part).values() for o in row.values()]
    assert len(re.findall(r'│ bug ', table)) == both.count('bug')
    assert len(re.findall(r'│ holds ', table)) == both.count('holds')
    assert '\x1b' not in table


@pytest.mark.parametrize('module', ['scenes', 'watch', 'trace', 'grade', 'matrix', 'pictures'])
def test_every_command_has_help(module):
    run = run_command(module, '--help')
    assert run.stdout.startswith('usage: make ')
    assert run.returncode == 0


@pytest.mark.parametrize('name', ['matrix', 'bug-lost-signal', 'watch', 'trace'])
def test_the_readme_shows_every_picture(name):
    assert f'(pictures/{name}.svg)' in (ROOT / 'README.md').read_text()
    assert (ROOT / f'pictures/{name}.svg').read_text().startswith('<svg ')
