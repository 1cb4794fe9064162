"""The commands that show: bug, watch, trace, matrix, pictures; grade has tests of its own."""
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pexpect
import psutil
import pytest
from pexpect.popen_spawn import PopenSpawn

from common import environment, stages
from common.stages import ROOT
from laboratory import bug, grade, matrix, trace, watch
from laboratory.experiments.tables import EXPERIMENTS, expected
from laboratory.instruments import kernel
from laboratory.instruments.client import connect
from laboratory.instruments.process import ServerProcess, free_port, printable

BUGS = {  # what is marked on the screen, and the verdict
    'silent-client': ('<-- in the backlog, not accepted', 'a second client waits while another one'),
    'fd-leak': ('CLOSE_WAIT  server  <-- not closed on this side', '24 more descriptors after 24 clients'),
    'zombie': ('<-- ended, not waited for', 'the child has answered and is a zombie'),
    'eintr': ('InterruptedError: [Errno 4] Interrupted system call  <-- EINTR', 'the first SIGCHLD ends'),
    'lost-signal': ('<-- 23 children, 23 of them zombies', '23 zombies after 24 children ended together'),
    'stopped-child': ('<-- stopped, not ended', 'the next client waits while a child is stopped'),
}


def run_command(module, *arguments, **env):
    """Run a command in a pipe; return what it printed and its exit status."""
    command = [sys.executable, '-m', f'laboratory.{module}', *arguments]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, text=True, timeout=60,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert '\x1b' not in run.stdout
    return run.stdout, run.returncode


@pytest.fixture
def terminal(tmp_path):
    """terminal('watch', PORT='8888') starts a command on a terminal of its own; it is ended with the test."""
    started = []

    def start(module, *arguments, **env):
        env = {**os.environ, 'TERM': 'xterm', 'NO_COLOR': '1', 'TMPDIR': str(tmp_path), **env}
        command = ['-m', f'laboratory.{module}', *arguments]
        started.append(pexpect.spawn(sys.executable, command, cwd=ROOT, env=env, dimensions=(50, 160),
                                     encoding='utf-8', codec_errors='replace', timeout=kernel.LIMIT))
        return started[-1]

    yield start
    for command in started:
        if command.isalive():
            command.kill(signal.SIGTERM)  # so that it cleans up
            end_of(command)


def end_of(command):
    """Read a command on a terminal to its end; return its exit status."""
    command.expect(pexpect.EOF)
    return command.wait()


def left(tmp_path):
    """The processes that run with that folder for their temporary files."""
    return [process for process in psutil.process_iter()
            if kernel.seen(process.environ, {}).get('TMPDIR') == str(tmp_path)
            and kernel.alive(process.pid)]


@pytest.mark.parametrize('name', BUGS)
def test_a_scene_shows_the_bug_the_cure_and_the_diff(name):
    output, status = run_command('bug', name)
    telling, verdict = BUGS[name]
    first, second, step = re.split(r'^part3-\S+: |^The step: ', output, flags=re.MULTILINE)[1:]
    assert telling in first
    assert f'bug: {verdict}' in first
    assert 'pass: ' in second
    assert telling not in second or name == 'stopped-child'
    cured = stages.find_stage(bug.SCENES[name].stage)
    assert f'+++ {cured.server}' in step
    assert step.endswith(f'\nRead on: {cured.folder}/README.md\n')
    assert status == 0


def test_a_scene_shows_a_bug_of_the_readers_own_server_and_not_its_cure():
    output, status = run_command('bug', 'zombie', SERVER=f'{sys.executable} part3/v1.1/server.py')
    assert '<-- ended, not waited for' in output
    assert output.endswith('bug: the child has answered and is a zombie\n\n')
    assert status == 0


def test_a_scene_on_a_terminal_asks_for_a_prediction(terminal):
    scene = terminal('bug', 'lost-signal')
    scene.expect_exact('24 children end at the same moment. How many zombies are left?')
    scene.expect_exact('Your prediction (Enter skips): ')
    scene.sendline('none at all')
    scene.expect_exact('You predicted: none at all. What happened: 23 zombies after 24 children')
    assert end_of(scene) == 0


def test_ctrl_d_skips_the_prediction(terminal):
    scene = terminal('bug', 'silent-client')
    scene.expect_exact('Your prediction (Enter skips): ')
    scene.sendeof()
    scene.expect_exact('a second client waits')
    assert end_of(scene) == 0


SERVER = f'{sys.executable} part3/v1.1/server.py'
COMMANDS = {  # each command, with what it shows when it is in the midst of it
    'bug': ('stuck-worker', {'GUESS': 'no'}, 'held up by'),
    'trace': (None, {'REQUEST': 'no', 'SERVER': SERVER}, 'Ctrl-C'),
    'grade': (None, {'SERVER': SERVER}, 'pass'),
    'matrix': (None, {'STAGE': 'part3-v1.1'}, 'Measuring'),
    'watch': (None, {}, 'Nothing listens'),
}


@pytest.fixture
def in_the_midst(tool, terminal, tmp_path):
    """in_the_midst('grade') starts that command, and returns it when its server runs."""
    def start(name):
        argument, env, shown = COMMANDS[name]
        if name == 'trace':
            tool('strace')
        command = terminal(name, *filter(None, [argument]), PORT=str(free_port()), **env)
        command.expect_exact(shown)
        assert kernel.eventually(lambda: len(left(tmp_path)) > (name != 'watch'))
        return command
    return start


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_whose_terminal_is_closed_leaves_nothing(name, in_the_midst, tmp_path):
    command = in_the_midst(name)
    command.ptyproc.fileobj.close()
    command.wait()
    assert kernel.eventually(lambda: not left(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_that_is_interrupted_again_and_again_leaves_nothing(name, in_the_midst, tmp_path):
    command = in_the_midst(name)
    for signum in signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM:
        command.kill(signum)
    by_a_signal = [129, 130, 143]  # 128 + one of them
    allowed = {'watch': [0], 'trace': [0, *by_a_signal]}  # which a signal ends by design
    assert end_of(command) in allowed.get(name, by_a_signal)
    assert 'Traceback' not in command.before
    assert kernel.eventually(lambda: not left(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not kernel.LINUX, reason='looks at /proc')
def test_ctrl_c_in_the_first_moment_is_not_a_traceback():
    if not environment.is_ready():
        pytest.skip('.venv would be made anew')
    command = [sys.executable, '-m', 'common.environment', '-m', 'laboratory.matrix']
    pipes = dict.fromkeys(['stdout', 'stderr'], subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as run:
        blocked = re.compile(r'^SigBlk:\t0*2$', re.MULTILINE)  # the bit of SIGINT
        assert kernel.eventually(lambda: blocked.search(kernel.read(f'/proc/{run.pid}/status')))
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=60) == ('', '')
    assert run.returncode == 130


@pytest.mark.parametrize('command', ['bug zombie', 'matrix', 'trace part3-v1.0'])
def test_a_command_whose_pipe_is_closed_ends_in_silence(command):
    shell = f'{sys.executable} -m laboratory.{command} | head -c 1'
    run = subprocess.run(['sh', '-c', shell], cwd=ROOT, env={**os.environ, 'STAGE': 'part3-v1.0'},
                         capture_output=True, timeout=60)
    assert len(run.stdout) == 1
    assert b'Error' not in run.stderr


@pytest.mark.parametrize(('command', 'env', 'told'), [
    (bug, {'GUESS': 'maybe'}, 'GUESS=maybe is not valid: use yes or no'),
    (trace, {'REQUEST': 'maybe'}, 'REQUEST=maybe is not valid: use yes or no'),
    (trace, {'PEP475': 'maybe'}, 'PEP475=maybe is not valid: use on or off'),
    (trace, {'SCENE': 'mick', 'SERVER': 'x'}, 'SCENE=mick is not a scene: use one of silent-client, '),
    (trace, {'SCENE': 'zombie', 'SERVER': 'x', 'REQUEST': 'no'},
     'SCENE=zombie sends requests of its own: leave out REQUEST=no'),
    (trace, {'SERVER': ''}, 'Name one server: make trace-part3-v1.2'),
    (trace, {'SERVER': 'x', 'PATH': '/nowhere'}, 'This needs Linux and strace'),
    (trace, {'SERVER': 'x', 'REQUEST': 'no', 'PORT': 'abc'}, 'PORT=abc is not a valid port'),
    (watch, {'PORT': '65536'}, 'PORT=65536 is not a valid port'),
    (matrix, {'STAGE': 'part3-v9'}, 'part3-v9 is not a stage. The stages: part1'),
    (matrix, {'STAGE': 'part1'}, 'part1: there are no experiments for it'),
    (grade, {'SERVER': ''}, 'name your server'),
    (grade, {'SERVER': 'x', 'STAGE': 'part4'}, 'part4 is not a stage'),
    (grade, {'SERVER': 'x', 'STAGE': 'part1'}, 'STAGE=part1: there are no experiments for it'),
    (grade, {'SERVER': 'x', 'PART': '5'}, 'PART=5 is not valid: use 3, 2 or 4'),
    (grade, {'SERVER': 'x', 'PART': '2', 'STAGE': 'part3-v1.1'},
     'PART=2 STAGE=part3-v1.1: that stage belongs to part 3'),
    (grade, {'SERVER': 'x', 'WATCH': 'maybe'}, 'WATCH=maybe is not valid: use 0 or 1'),
])
def test_a_bad_variable_is_reported_in_one_line(monkeypatch, command, env, told):
    monkeypatch.setattr(sys, 'argv', ['make', *['zombie'] * (command is bug)])
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f'^{told}.*$'):
        command.main()


def test_a_trace_of_a_server_that_ends_at_once_says_so():
    output, status = run_command('trace', SERVER='nosuch')
    assert 'did not listen' in output.splitlines()[-2]
    assert 'Traceback' not in output
    assert status == 2


@pytest.mark.long
def test_watch_shows_what_happens_to_the_server(serve, terminal):
    server = serve('part3-v1.1', env={'PORT': str(free_port())})
    watch = terminal('watch', PORT=str(server.port))
    watch.expect_exact(f'Watching part3-v1.1, process {server.pid} on port {server.port}')
    with connect(server) as client:
        port = client.getsockname()[1]
        watch.expect_exact(f'connection :{port} opened')
        (child,) = kernel.children(server.pid)
        client.sendall(b'mick')
        watch.expect_exact(f'child {child} has ended')
        watch.expect_exact(f'connection :{port} half-closed: the server has closed')
    watch.expect_exact(f'connection :{port} gone')
    watch.expect_exact('zombie')
    server.stop()
    watch.expect_exact(f'The server, process {server.pid}, has ended.')
    watch.expect_exact('Nothing listens')
    following = serve('part3-final', env={'PORT': str(server.port)})
    watch.expect_exact(f'Watching part3-final, process {following.pid}')
    watch.send('q')
    assert end_of(watch) == 0


WORKERS = """
import os, socket, sys, time
listener = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
for _ in range(3):
    if os.fork() == 0:
        time.sleep(60)
time.sleep(60)
"""


def test_the_server_is_the_process_above_the_workers_that_share_its_socket():
    with ServerProcess([sys.executable, '-c', WORKERS]) as server:
        assert server.wait_until(lambda: len(kernel.children(server.popen.pid)) == 3)
        assert kernel.who_listens(server.port) == server.popen.pid


@pytest.mark.parametrize('key', ['q', '\x03'])
def test_watch_waits_for_a_server_and_ends_with_a_key(terminal, key):
    port = free_port()
    watch = terminal('watch', PORT=str(port))
    watch.expect_exact(f'Nothing listens on port {port} yet')
    watch.send(key)
    assert end_of(watch) == 0


def test_watch_in_a_pipe_prints_what_happened(serve):
    server = serve('part3-final')
    watch = PopenSpawn([sys.executable, '-m', 'laboratory.watch'], cwd=ROOT, encoding='utf-8',
                       timeout=kernel.LIMIT, env={**os.environ, 'PORT': str(server.port)})
    try:
        watch.expect_exact('Watching part3-final, process ')
        with connect(server):
            watch.expect_exact('forked')
        server.stop()
        watch.expect_exact(f'The server, process {server.pid}, has ended.')
        watch.expect_exact('Nothing listens on port ')
    finally:
        watch.kill(signal.SIGINT)
    assert watch.wait() == 0


def test_the_trace_of_v1_2_shows_eintr_and_the_retry(tool):
    tool('strace')
    output, status = run_command('trace', 'part3-v1.2')
    child = re.search(r'fork → child (\d+)', output)[1]
    in_this_order = [
        'accept4 … waiting', 'accept4 → a client', f'fork → child {child}',
        f'SIGCHLD: child {child} has exited', 'accept4 interrupted: EINTR', f'wait4 → reaped {child}',
        'accept4 again (Python retries, PEP 475)',
    ]
    places = [output.index(words) for words in in_this_order]
    assert places == sorted(places)
    assert output.count('close(4) ') == 2
    assert f'{child}: send → 33 bytes of reply' in output
    assert status == 0


def test_the_trace_of_the_leak_has_no_fin(tool):
    tool('strace')
    output, _ = run_command('trace', 'part3-v1.1-fd-leak')
    assert "close(4) the child's copy" in output
    assert 'FIN' not in output
    assert 'the kernel restarts it' in output
    assert 'EINTR' not in output


@pytest.mark.parametrize(('scene', 'stage', 'times'), [
    ('silent-client', 'part3-v1.0', {'a client, descriptor': 1, 'bytes of reply': 0}),
    ('silent-client', 'part3-v1.1', {'a client, descriptor': 2, 'bytes of reply': 1}),
    ('zombie', 'part3-v1.2', {'wait4 → reaped': 1}),
    ('lost-signal', 'part3-v1.3', {'bytes of reply': 3, 'wait4 → reaped': 1}),
    ('lost-signal', 'part3-final', {'bytes of reply': 3, 'wait4 → reaped': 3}),
    ('stopped-child', 'part3-v1.3', {'was stopped': 1, 'bytes of reply': 0}),
    ('stopped-child', 'part3-final', {'was stopped': 1, 'bytes of reply': 1}),
    ('many-processes', 'part4-v1.1-protocol', {'fork → child': 3}),
    ('many-processes', 'part4-v1.1', {'fork → child': 1}),
    ('dead-worker', 'part4-v1.1', {'fork → child': 1, ': killed by SIGKILL': 1}),
    ('dead-worker', 'part4-v1.2', {'fork → child': 2, ': killed by SIGKILL': 1}),
    ('stuck-worker', 'part4-v1.3', {'fork → child': 2, ': killed by SIGALRM': 1}),
    ('one-request', 'part4-v1.4', {'a client, descriptor': 1, 'bytes of request': 2}),
    ('idle-clients', 'part4-v1.4', {'bytes of request': 0}),
    ('idle-clients', 'part4-v2.0', {'bytes of request': 1}),
])
def test_a_scene_is_traced(scene, stage, times, tool):
    tool('strace')
    output, status = run_command('trace', stage, SCENE=scene)
    assert {words: output.count(words) for words in times} == times
    assert status == 0


def test_a_trace_shows_whether_others_are_answered_while_an_application_waits(tool):
    tool('strace')
    without_threads, with_threads = [
        re.findall(r'send → (\d+) bytes', run_command('trace', stage, SCENE='waiting-application')[0])
        for stage in ('part4-v2.0', 'part4-v2.1')]
    assert len(with_threads) == 2
    assert without_threads == with_threads[::-1]


def test_a_server_with_an_event_loop_is_traced(tool):
    tool('strace')
    output, _ = run_command('trace', SERVER=f'{tool("node")} tests/servers/event_loop.js')
    in_this_order = 'accept4 → a client', 'bytes of request', 'bytes of reply', 'the last copy'
    places = [output.index(words) for words in in_this_order]
    assert places == sorted(places)


def test_in_a_server_of_the_reader_too_it_is_python_that_retries(tool):
    tool('strace')
    server = f'{sys.executable} part3/v1.2/server.py'
    assert 'accept4 again (Python retries, PEP 475)' in run_command('trace', SERVER=server)[0]


def test_a_server_with_threads_behind_a_shell_is_traced(tool):
    tool('strace')
    server = 'import http.server as h, os; h.ThreadingHTTPServer(("", int(os.environ["PORT"])), ' \
             'h.SimpleHTTPRequestHandler).serve_forever()'
    output, _ = run_command('trace', SERVER=f"cd tests; {sys.executable} -c '{server}'; true")
    assert re.search(r'thread \d+: recv → \d+ bytes of request', output)
    assert re.search(r'thread \d+: send → \d+ bytes of reply', output)
    assert ' wait4' not in output


def test_a_trace_waits_for_the_requests_of_the_reader(tool, terminal):
    tool('strace')
    port = free_port()
    trace = terminal('trace', 'part3-v1.3', REQUEST='no', PORT=str(port))
    trace.expect_exact(f'Send requests to port {port}; Ctrl-C shows what happened.')
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/') as reply:
        assert reply.read() == b'Hello, World!\n'
    trace.send('\x03')
    trace.expect_exact('fork → child')
    assert end_of(trace) == 0


def test_the_matrix_has_every_cell():
    for part in EXPERIMENTS:
        table = matrix.table(part, expected(part))
        cells = [re.sub(r'\[.*?\]', '', cell) for column in table.columns[1:] for cell in column._cells]
        assert cells == [row[experiment.__name__] for row in expected(part).values()
                         for experiment in EXPERIMENTS[part]]


def test_the_matrix_measures_a_stage():
    output, status = run_command('matrix', STAGE='part3-v1.0')
    outcomes = re.findall(r'│ (bug|pass|no child|no handler) +│$', output, re.MULTILINE)
    assert outcomes == list(expected('part3')['part3-v1.0'].values())
    assert status == 0


def test_what_a_client_or_server_sends_cannot_control_the_terminal():
    assert printable('a\x1b[2J\r\nb\x9bé') == 'a\\x1b[2J\\r\\nb\\x9bé'


@pytest.mark.parametrize('name', ['bug-lost-signal', 'learn-fails', 'learn-passes', 'watch', 'trace'])
def test_the_readme_shows_every_picture(name):
    assert f'(pictures/{name}.svg)' in (ROOT / 'README.md').read_text()
    assert (ROOT / f'pictures/{name}.svg').read_text().startswith('<svg ')
