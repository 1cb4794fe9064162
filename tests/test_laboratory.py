"""The commands that show: bug, watch, trace, matrix; and how all commands end."""
import os
import re
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
from pexpect.popen_spawn import PopenSpawn
from rich.console import Console

from common import environment
from common.stages import ROOT, find_stage
from laboratory import bug, grade, learn, matrix, replay, trace, watch
from laboratory.bugs import BUGS, cure, expected, stage_with
from laboratory.instruments import kernel, views
from laboratory.instruments.client import REQUEST, connect
from laboratory.instruments.experiment import BUG, Result
from laboratory.instruments.output import printable
from laboratory.instruments.ports import free_port
from tests.helpers import PYTHON, end_of, left

LEAVES_ZOMBIES = f'{PYTHON} part3/v1.1/server.py'


def run_command(module, *arguments, **env):
    """Run a command in a pipe; return what it printed and its exit status."""
    command = [sys.executable, '-m', f'laboratory.{module}', *arguments]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, text=True, timeout=60,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert '\x1b' not in run.stdout
    return run.stdout, run.returncode


def test_a_scene_shows_the_bug_the_cure_and_the_diff():
    zombie, cured = BUGS['zombie'], cure(BUGS['zombie'])
    output, status = run_command('bug', 'zombie', COLUMNS='120')
    predict, first, second, step = re.split(r'^part3-\S+: |^The step: ', output, flags=re.MULTILINE)
    assert predict == f'{zombie.predict}\n\n'
    assert '<-- ended, not waited for\n' in first and '\nbug: the child has answered and is ' in first
    assert '<--' not in second and '\npass: ' in second
    assert f'+++ {cured.server}' in step
    assert step.endswith(f'\nWhy: {zombie.why}\nRead on: {cured.folder}/README.md\n')
    assert status == 0


@pytest.mark.parametrize(('typed', 'told'), [('none at all\n', 'You predicted: none at all. '), ('\x04', '')])
def test_a_scene_of_the_readers_own_server_begins_with_a_prediction(typed, told, terminal):
    scene = terminal('bug', 'zombie', SERVER=LEAVES_ZOMBIES)
    scene.expect_exact(BUGS['zombie'].predict)
    scene.expect_exact('Your prediction (Enter skips): ')
    scene.send(typed)
    scene.expect_exact('<-- ended, not waited for')
    scene.expect_exact(told)
    assert end_of(scene) == 0
    assert 'The step' not in scene.before


def marks(view):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(view)
    return re.findall(r'<-- (.*\S)', capture.get())


Address = namedtuple('Address', 'ip port')


def end(local, remote, status, pid):
    """One end of a connection, as kernel.connections() has it."""
    return SimpleNamespace(laddr=Address('', local), raddr=Address('', remote), status=status), pid


def test_what_is_worth_a_look_is_marked(monkeypatch):
    printed = 'InterruptedError: [Errno 4] Interrupted system call\nOSError: no'
    server = SimpleNamespace(pid=os.getpid(), port=1, output=lambda: printed)
    assert marks(views.output(server)) == ['EINTR']
    for states, mark in [(dict.fromkeys(range(10**7, 10**7 + 6), 'zombie'), '6 children, 6 of them zombies'),
                         ({os.getppid(): 'stopped'}, 'stopped, not ended')]:
        monkeypatch.setattr(kernel, 'states', lambda pids, states=states: states)
        assert marks(views.processes(server)) == [mark]
    ends = [end(1, 2, 'ESTABLISHED', None), end(1, 3, 'CLOSE_WAIT', 7), end(1, 4, 'FIN_WAIT2', 7),
            end(1, 5, 'ESTABLISHED', 7), end(2, 1, 'ESTABLISHED', None)]
    monkeypatch.setattr(kernel, 'connections', lambda port: ends)
    assert marks(views.connections(server, most=5)) == [
        'in the backlog, not accepted', 'not closed on this side', 'closed on this side only']
    assert marks(views.connections(server, most=1))[1:] == ['3 ESTABLISHED, 1 CLOSE_WAIT, 1 FIN_WAIT2']


IN_THE_MIDST = {  # of each command: what names it, what it shows then
    'bug': (['zombie'], {'GUESS': 'no'}, 'A client is connected'),
    'trace': ([], {'REQUEST': 'no', 'SERVER': LEAVES_ZOMBIES}, 'Ctrl-C'),
    'grade': ([], {'SERVER': LEAVES_ZOMBIES}, 'pass'),
    'matrix': ([], {'STAGE': 'part3-v1.1'}, 'Measuring'),
    'watch': ([], {}, 'Nothing listens'),
    'learn': ([], {'GUESS': 'no', 'SERVER': LEAVES_ZOMBIES}, 'a save or a key'),
}


@pytest.mark.parametrize('is_closed', [False, True], ids=['signals', 'closed'])
@pytest.mark.parametrize('name', IN_THE_MIDST)
def test_a_command_that_is_interrupted_or_whose_terminal_is_closed_leaves_nothing(name, is_closed, tool,
                                                                                  terminal, temporary):
    arguments, env, shown = IN_THE_MIDST[name]
    if name == 'trace':
        tool('strace')
    command = terminal(name, *arguments, PORT=str(free_port()), **env)
    command.expect_exact(shown)
    assert kernel.eventually(lambda: len(left(temporary)) > (name != 'watch'))
    if is_closed:
        command.ptyproc.fileobj.close()
        command.wait()
    else:
        for signum in signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM:
            command.kill(signum)
        allowed = {'watch': [0], 'trace': [0, 129, 130, 143]}  # which a signal ends by design
        assert end_of(command) in allowed.get(name, [129, 130, 143])  # 128 + one of them
        assert 'Traceback' not in command.before
    assert kernel.eventually(lambda: not left(temporary))


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


def test_a_command_whose_pipe_is_closed_ends_in_silence():
    shell = f'{PYTHON} -m laboratory.bug zombie | head -c 1'
    run = subprocess.run(['sh', '-c', shell], cwd=ROOT, capture_output=True, timeout=60)
    assert len(run.stdout) == 1
    assert run.stderr == b''


@pytest.mark.parametrize(('command', 'env', 'told'), [
    (bug, {'GUESS': 'maybe'}, 'GUESS=maybe is not valid: use yes or no'),
    (trace, {'SCENE': 'mick', 'SERVER': 'x'}, 'SCENE=mick is not a scene: use one of silent-client, '),
    (trace, {'SCENE': 'zombie', 'SERVER': 'x', 'REQUEST': 'no'},
     'SCENE=zombie sends requests of its own: leave out REQUEST=no'),
    (trace, {'SERVER': ''}, 'Name one server: make trace-part3-v1.2'),
    (trace, {'SERVER': 'x', 'PATH': '/nowhere'}, 'This needs Linux and strace'),
    (replay, {'SCENE': 'mick', 'SERVER': 'x'}, 'SCENE=mick is not a scene: use one of silent-client, '),
    (replay, {'SERVER': ''}, 'Name one server: make replay-part3-v1.2'),
    (replay, {'SERVER': 'x', 'PATH': '/nowhere'}, 'This needs Linux and strace'),
    (watch, {'PORT': '65536'}, 'PORT=65536 is not a valid port'),
    (matrix, {'STAGE': 'part1'}, 'STAGE=part1: there are no experiments for it'),
    (grade, {'SERVER': ''}, 'Name your server'),
    (grade, {'SERVER': 'x', 'STAGE': 'part1'}, 'STAGE=part1: there are no experiments for it'),
    (grade, {'SERVER': 'x', 'PART': '2', 'STAGE': 'part3-v1.1'},
     'PART=2 STAGE=part3-v1.1: that stage belongs to part 3'),
    (learn, {'PART': '1'}, 'PART=1 is not valid: use 3, 2 or 4'),
    (learn, {'FROM': 'part1'}, 'FROM=part1: there are no experiments for it, only for parts 2, 3 and 4'),
    (learn, {'FROM': 'part3-final'}, 'FROM=part3-final: no lesson comes after that stage'),
    (learn, {'FROM': 'part3-v1.0', 'PART': '4'}, 'PART=4 FROM=part3-v1.0: that stage belongs to part 3'),
    (learn, {'PATIENCE': 'long'}, 'PATIENCE=long is not valid: use a number of seconds'),
])
def test_a_bad_variable_is_reported_in_one_line(monkeypatch, command, env, told):
    monkeypatch.setattr(sys, 'argv', ['make', *['zombie'] * (command is bug)])
    monkeypatch.setattr(learn, 'copied', lambda *_: pytest.fail('a file is made'))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f'^{told}.*$'):
        command.main()


def test_a_bug_that_no_stage_has_is_for_the_readers_own_server(monkeypatch):
    name = next(bug.name for bug in BUGS.values() if not stage_with(bug)).replace('_', '-')
    monkeypatch.setattr(sys, 'argv', ['make', name])
    told = f"No stage has this bug. Does yours? make bug-{name} SERVER='python3 my_server.py'"
    with pytest.raises(SystemExit, match=f'^{re.escape(told)}$'):
        bug.main()


def test_watch_shows_what_happens_to_a_server_and_waits_for_the_next_one(serve, terminal):
    port = free_port()
    watch = terminal('watch', PORT=str(port))
    watch.expect_exact(f'Nothing listens on port {port} yet')
    server = serve('part3-v1.1', env={'PORT': str(port)})
    watch.expect_exact(f'Watching part3-v1.1, process {server.pid} on port {port}')
    with connect(server) as client:
        connection = f'connection :{client.getsockname()[1]}'
        watch.expect_exact(f'{connection} opened')
        (child,) = kernel.children(server.pid)
        client.sendall(b'mick')
        watch.expect_exact(f'child {child} has ended')
        watch.expect_exact(f'{connection} half-closed: the server has closed')
    watch.expect_exact(f'{connection} gone')
    server.stop()
    watch.expect_exact(f'The server, process {server.pid}, has ended.')
    watch.expect_exact('Nothing listens')
    watch.send('q')
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
        watch.expect_exact(f'The server, process {server.pid}, has ended.\nNothing listens on port ')
    finally:
        watch.kill(signal.SIGINT)
    assert watch.wait() == 0


def test_the_trace_of_v1_2_shows_eintr_and_that_python_retries(tool):
    tool('strace')
    output, status = run_command('trace', SERVER=f'{PYTHON} part3/v1.2/server.py')
    child = re.search(r'fork → child (\d+)', output)[1]
    places = [output.index(words) for words in (
        'accept4 … waiting', 'accept4 → a client', f'fork → child {child}',
        f'SIGCHLD: child {child} has exited', 'accept4 interrupted: EINTR', f'wait4 → reaped {child}',
        'accept4 again (Python retries, PEP 475)')]
    assert places == sorted(places)
    assert output.count('close(4) ') == 2
    assert f'{child}: send → 33 bytes of reply' in output
    assert status == 0


@pytest.mark.parametrize(('scene', 'stage', 'times'), [
    ('', 'part3-v1.1-fd-leak', {"close(4) the child's copy": 1, 'the kernel restarts it': 1, 'FIN': 0}),
    ('silent-client', 'part3-v1.0', {'a client, descriptor': 1, 'bytes of reply': 0}),
    ('silent-client', 'part3-v1.1', {'a client, descriptor': 2, 'bytes of reply': 1}),
    ('lost-signal', 'part3-v1.3', {'bytes of reply': 3, 'wait4 → reaped': 1}),
    ('lost-signal', 'part3-final', {'bytes of reply': 3, 'wait4 → reaped': 3}),
    ('stopped-child', 'part3-v1.3', {'was stopped': 1, 'bytes of reply': 0}),
    ('stopped-child', 'part3-final', {'was stopped': 1, 'bytes of reply': 1}),
    ('shared-crash', 'part3-final', {'killed by SIGSEGV': 1, 'bytes of reply': 1}),
    ('shared-crash', 'part3-threads', {'clone → thread': 2, 'bytes of reply': 0}),
    ('many-processes', 'part4-v1.1-protocol', {'fork → child': 3}),
    ('idle-clients', 'part4-v1.4', {'bytes of request': 0}),
    ('idle-clients', 'part4-v2.0', {'bytes of request': 1}),
    ('waiting-application', 'part4-v2.0', {'bytes of reply': 2}),
    ('dead-worker', 'part4-v2.2', {'SIGCHLD: child': 1, 'wait4 → reaped': 1, 'fork → child': 2}),
    ('lost-reply', 'part4-v2.1', {'SIGCHLD: child': 1, 'bytes of reply': 0}),
    ('lost-reply', 'part4-v2.2', {'SIGCHLD: child': 1, 'bytes of reply': 1}),
    ('lost-restart', 'part4-v2.2', {'killed by SIGHUP': 1, 'bytes of reply': 0}),
    ('lost-restart', 'part4-v2.3', {'SIGCHLD: child': 1, 'fork → child': 2, 'bytes of reply': 1}),
])
def test_a_scene_is_traced(scene, stage, times, tool):
    tool('strace')
    output, status = run_command('trace', stage, SCENE=scene)
    assert {words: output.count(words) for words in times} == times
    assert status == 0


def test_a_trace_of_a_server_that_ends_at_once_says_so(tool):
    tool('strace')
    output, status = run_command('trace', SERVER='nosuch')
    assert 'did not listen' in output.splitlines()[-2]
    assert 'Traceback' not in output
    assert status == 2


def test_a_trace_waits_for_the_requests_of_the_reader(tool, terminal):
    tool('strace')
    port = free_port()
    trace = terminal('trace', 'part3-v1.3', REQUEST='no', PORT=str(port))
    trace.expect_exact(f'Send requests to port {port}; Ctrl-C shows what happened.')
    with connect(SimpleNamespace(port=port, client_socket=socket.socket)) as client:
        client.sendall(REQUEST)
        assert client.makefile('rb').read().endswith(b'Hello, World!\n')
    trace.sendintr()
    trace.expect_exact('fork → child')
    assert end_of(trace) == 0


def test_the_matrix_measures_a_stage():
    output, status = run_command('matrix', STAGE='part3-v1.0')
    outcomes = re.findall(r'│ (bug|pass|no child|no handler) +│$', output, re.MULTILINE)
    assert outcomes == list(expected(find_stage('part3-v1.0')).values())
    assert status == 0


def test_the_matrix_says_what_is_not_as_expected(monkeypatch, capsys):
    row = {'zombie': {'part3-v1.2': Result(BUG, detail='a zombie'), 'part3-v1.1': Result(BUG)}}
    monkeypatch.setattr(matrix, 'measured', lambda stages, follow: {'part3': row})
    assert matrix.main() == 1
    assert capsys.readouterr().out.endswith('\npart3-v1.2, zombie: not as expected: bug, a zombie\n')


def test_what_a_client_or_server_sends_cannot_control_the_terminal():
    assert printable('a\x1b[2J\r\nb\x9bé') == 'a\\x1b[2J\\r\\nb\\x9bé'


def test_the_pages_show_every_picture():
    pages = [path.read_text() for path in (ROOT / 'README.md', *ROOT.glob('part*/README.md'))]
    shown = re.findall(r'\((?:\.\./)?(pictures/[^)]*)\)', '\n'.join(pages))
    assert set(shown) == {path.relative_to(ROOT).as_posix() for path in ROOT.glob('pictures/*')}
