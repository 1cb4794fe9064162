"""The grader, on stages, on servers in other languages, and on servers that misbehave.

What it says is recorded in tests/grades; `RECORD=1 make test ARGS=tests/test_grade.py` records it anew.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pexpect
import psutil
import pytest

from common.stages import ROOT, find_stage, stages_of
from laboratory import grade
from laboratory.experiments.hints import HINTS, VARIANTS, hint
from laboratory.experiments.tables import EXPERIMENTS, cure, questions
from laboratory.experiments.verdicts import BUG, Verdict
from laboratory.instruments import kernel, process
from laboratory.instruments.client import exchange
from laboratory.instruments.own import own_server, start_line
from laboratory.instruments.process import ServerFailed, ServerProcess, free_port, stage_server

SERVERS = 'tests/servers'
FOREIGN = f'python3 {SERVERS}/foreign.py'
PYTHON2 = Path.home() / '.pyenv/versions/2.7.18/bin/python2.7'
# name: the command, and the stage that it is graded up to
RECORDED = {
    'final': ('python3 part3/final/server.py', ''),
    'v1.1': ('python3 part3/v1.1/server.py', 'part3-v1.1'),
    'v1.2-in-python-2': ('python2.7 tests/servers/python2_v1_2.py', ''),
    'eintr-in-c': ('gcc tests/servers/fork_in_c.c', ''),
    'leaks-in-c': ('gcc tests/servers/leaks_in_c.c', 'part3-v1.1'),
    'event-loop-in-node': ('node tests/servers/event_loop.js', ''),
    'raises-in-its-handler': (f'{FOREIGN} raises_in_handler', 'part3-v1.1'),
    'ends-at-the-third-client': (f'{FOREIGN} ends_at_the_third', 'part3-v1.1'),
    'hangs-at-the-third-client': (f'{FOREIGN} hangs_at_the_third', 'part3-v1.1'),
    'reaps-each-second': (f'{FOREIGN} reaps_each_second', 'part3-v1.3'),
    'forks-late': (f'{FOREIGN} forks_late', 'part3-v1.2'),
    'resets': (f'{FOREIGN} resets', 'part3-v1.0'),
}


def run_grade(server, **variables):
    """Grade a server as `make grade` does; return the exit status, output and errors."""
    run = subprocess.run([sys.executable, '-m', 'laboratory.grade'], cwd=ROOT, text=True,
                         capture_output=True, timeout=120,
                         env={**os.environ, 'SERVER': server, 'COLUMNS': '100', **variables})
    assert '\x1b' not in run.stdout + run.stderr
    assert str(ROOT / 'laboratory') not in run.stderr
    return run.returncode, run.stdout, run.stderr


@pytest.mark.long
@pytest.mark.parametrize('name', RECORDED)
def test_it_says_what_was_recorded(name, tool, tmp_path):
    command, stage = RECORDED[name]
    language, source, *_ = command.split()
    if language == 'gcc':
        subprocess.run([tool('gcc'), '-pthread', '-o', tmp_path / 'server', source], cwd=ROOT, check=True)
        command = str(tmp_path / 'server')
    elif language == 'python2.7':
        if not PYTHON2.exists():
            pytest.skip('Python 2.7 is not installed')
        command = f'{PYTHON2} {source}'
    elif language == 'python3':
        command = command.replace('python3', sys.executable)
    else:
        tool(language)
    status, output, errors = run_grade(command, STAGE=stage)
    assert errors == ''
    output = same_everywhere(output, command, RECORDED[name][0])
    text = f"SERVER='{RECORDED[name][0]}' STAGE={stage}\n\n{output}\nexit status {status}\n"
    record = ROOT / f'tests/grades/{name}.txt'
    if os.environ.get('RECORD'):
        record.write_text(text)
    assert text == record.read_text()


def same_everywhere(output, command, name):
    """The output without what differs from machine to machine."""
    output = output.replace(command, name).replace(f'{ROOT}/', '')
    output = re.sub(r' +$', '', output, flags=re.MULTILINE)
    verdicts, it_printed, lines = output.partition('It printed:\n')
    lines = re.sub(r'^\n|^      .*\n|^    Traceback.*\n| Did you mean.*', '', lines, flags=re.MULTILINE)
    return verdicts + it_printed + lines  # of a traceback the last line, which all Pythons have in common


def every_hint():
    yield from HINTS.values()
    for _, _, variant in VARIANTS:
        yield variant


def test_every_bug_has_a_hint():
    assert HINTS.keys() == {name.__name__ for columns in EXPERIMENTS.values() for name in columns}
    for told in every_hint():
        assert all([told.bug, told.command, told.look])
        assert told.look.startswith('You see ')


@pytest.mark.parametrize(('experiment', 'part', 'stage'), [
    ('eintr', 'part3', 'part3-v1.3'), ('refuses', 'part2', 'part2-v1.4'), ('refuses', 'part4', 'part2-v1.4'),
    ('drip', 'part4', 'part4-v1.3'),
])
def test_the_cure_of_a_bug_is_the_step_that_is_about_it(experiment, part, stage):
    assert cure(experiment, stages_of(part)).name == stage


def test_a_process_that_is_about_to_end_belongs_to_the_server_whose_group_it_is_in(monkeypatch):
    def no_environment(process):
        raise psutil.NoSuchProcess(process.pid)  # as Linux has it for one that is exiting
    stage = find_stage('part3-v1.1')
    with stage_server(stage) as server, stage_server(stage) as another:
        monkeypatch.setattr(psutil.Process, 'environ', no_environment)
        assert server.is_orphan(server.pid)
        assert not server.is_orphan(another.pid)


@pytest.mark.parametrize('part', ['part2', 'part3', 'part4'])
def test_every_bug_can_be_reported(part, capsys):
    for experiment in questions(part):
        grade.report(experiment, Verdict(BUG, 'what was seen'), stages_of(part), 'python3 my_server.py')
    assert capsys.readouterr().out.count('what was seen') == len(questions(part))


def test_everything_is_asked_where_no_stage_is_named():
    def names(stage):
        return [experiment.__name__ for experiment in grade.asked_for(find_stage(stage))]
    assert 'keep_alive' not in names('part4-v1.3')
    assert names('part4-v1.4')[0] == 'hello'
    assert names('part4-v1.4')[-1] == 'flat'


@pytest.mark.parametrize(('stage', 'told', 'shown'), [
    ('part3-v1.0', HINTS['silent_client'], r'curl: \(28\)'),
    ('part3-v1.1-fd-leak', HINTS['end_of_reply'], r'curl: \(28\) .* 14 bytes received'),
    ('part3-v1.1-fd-leak', HINTS['descriptors'], 'CLOSE-WAIT'),
    ('part3-v1.1-fd-leak', hint('descriptors', ' 0 of them sockets'), r'(?s)(socket:.*){3}'),
    ('part3-v1.1', HINTS['one_child'], r'\d+ +\d+ +Z'),
    ('part3-v1.2', HINTS['eintr'], r'(?s)(?=.*Hello, World!)(?=.*curl: \().*InterruptedError'),
    ('part3-v1.2', HINTS['children_at_once'], r'(?m)^[1-9]\d*$'),
    ('part3-v1.2', HINTS['stopped_child'], r'curl: \(28\)'),
    ('part4-v1.0', HINTS['few_processes'], r'(?m)^20$'),
    ('part4-v1.1', HINTS['killed_workers'], r'curl: \(28\)'),
    ('part4-v1.1', HINTS['killed_supervisor'], 'LISTEN'),
    ('part4-v1.3', HINTS['keep_alive'], r'(?s)(1 new connection.*){2}'),
    ('part4-v1.3', HINTS['chunked_body'], 'HTTP/1.1 501 Not Implemented'),
    ('part4-v1.4', HINTS['idle_clients'], r'curl: \(28\)'),
    ('part4-v1.4', HINTS['waiting_application'], r'curl: \(28\)'),
    ('part4-v1.4', HINTS['non_reader'], r'curl: \(28\)'),
    ('part4-v1.4', HINTS['stop_mid_reply'], r'(?m)^\d{1,7}$'),
    ('part4-v1.4', HINTS['restart_backlog'], r'(?m)^000$'),
    ('part4-v1.4', HINTS['reload'], r'(?m)^ +\d+ 000$'),
    ('part4-v1.1', hint('stop_mid_reply', 'wrong: 2 processes do not end'), 'LISTEN'),
])
def test_what_a_hint_says_is_seen_when_it_is_typed(stage, told, shown, request, tool):
    for name in ('curl', 'telnet', 'ss', 'ps'):
        tool(name)
    port = str(free_port())
    start = start_line(told, f'{sys.executable} {find_stage(stage).server}').replace('8888', port)
    server = ServerProcess(['sh', '-c', start]).__enter__()
    request.addfinalizer(server.stop)
    typed = told.command.replace('8888', port)
    shell = subprocess.Popen(['bash', '-c', typed], cwd=ROOT, text=True, start_new_session=True,
                             env={**os.environ, 'PORT': port},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    shell.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)  # telnet, which waits for its `sleep 9`
    lines = shell.stdout.read() + server.output()
    shell.stdout.close()
    assert re.search(shown, lines), lines


@pytest.mark.parametrize(('command', 'typed'), [
    ('python3 s.py', 'python3 s.py flaskapp:app'),
    ('X=1 exec python3 s.py', "sh -c 'X=1 exec python3 s.py flaskapp:app'"),
    ('cd mine && python3 s.py # mine', "sh -c 'cd mine && python3 s.py flaskapp:app # mine'"),
    ('python3 s.py {app} --port {port}', 'python3 s.py flaskapp:app --port 8888'),
])
def test_a_hint_says_how_to_start_the_server(command, typed):
    assert start_line(HINTS['hello'], command) == (
        f'PORT=8888 PATH=$PWD/.venv/bin:$PATH PYTHONPATH=$PWD/part2/apps {typed}')


@pytest.mark.parametrize(('server', 'told'), [
    ('never_answers.py', 'it did not answer a request within 5 seconds. It printed nothing.'),
    ('nosuch.py', 'it did not listen on a port, but ended, with exit status 2. It printed:'),
    ('forks_without_end.py', 'it started more than 200 processes'),
    ('floods.py', 'it did not listen on a port, but ended, after printing 10 MB: more is not '),
    ('ends_at_once.py', 'it ended when its first client came, with exit status 1. It printed:\nTraceback'),
])
def test_a_server_that_cannot_be_tested_is_reported(tmp_path, server, told):
    status, _, errors = run_grade(copied(server, tmp_path))
    assert status == 2
    assert errors.startswith(f'Your server could not be tested: {told}')
    assert len(errors) < 3000
    assert left_over(tmp_path) == []


def test_a_server_with_a_fixed_port_is_told_to_share_it(tmp_path):
    (tmp_path / 'fixed.py').write_text(
        'import socket\n'
        'listen_socket = socket.socket()\n'
        f'listen_socket.bind(("127.0.0.1", {free_port()}))\n'
        'listen_socket.listen(50)\n'
        'while True:\n'
        '    client_fd, client_addr = listen_socket.accept()\n'
        '    client_fd.recv(1024)\n'
        '    client_fd.sendall(b"hello")\n'
        '    client_fd.close()\n')
    status, _, errors = run_grade(f'{sys.executable} {tmp_path}/fixed.py')
    assert status == 2
    assert 'so listen on the port in PORT. If you cannot, set SO_REUSEADDR before bind(), ' in errors


def test_a_server_that_computes_and_never_listens_is_given_up(monkeypatch):
    waits, eventually = [], kernel.eventually
    monkeypatch.setattr(kernel, 'eventually', lambda *args: waits.append(args[1:]) or eventually(*args))
    monkeypatch.setattr(process, 'START', 0.5)
    monkeypatch.setattr(process, 'TRIES', 10)
    with pytest.raises(ServerFailed, match='did not listen on a port, and printed nothing'):
        own_server(f'exec {sys.executable} -c "while True: pass"').__enter__()
    assert waits.count((process.START,)) < process.TRIES


def test_a_server_that_never_listens_cannot_be_tested(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'START', 1)
    with pytest.raises(ServerFailed, match='did not listen on a port; it printed:\nno socket yet'):
        grade.grade(copied('never_listens.py', tmp_path), find_stage('part3-final'))
    assert left_over(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize(('server', 'status'), [
    ('ignores_signals.py', 0),
    ('daemon.py', 0),
    ('endless_reply.py', 1),
])
def test_a_server_that_is_hard_to_end_is_graded_and_ended(tmp_path, server, status):
    if server == 'daemon.py' and sys.platform != 'linux':
        pytest.skip('only on Linux can we become the parent of a daemon')
    assert run_grade(copied(server, tmp_path), STAGE='part3-v1.0')[0] == status
    assert left_over(tmp_path) == []


def test_a_signal_that_comes_while_the_guard_is_started_ends_the_server(tmp_path, monkeypatch):
    def start(thread):
        raise KeyboardInterrupt
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, 'start', start)
        own_server(copied('never_listens.py', tmp_path)).__enter__()
    assert left_over(tmp_path) == []


@pytest.mark.skipif(not kernel.LINUX, reason='only on Linux can we become the parent of a daemon')
def test_two_servers_at_once_do_not_end_each_others_daemons(tmp_path):
    command = copied('daemon.py', tmp_path)
    with ExitStack() as first:
        first.enter_context(own_server(command))
        with own_server(command) as second:
            first.close()
            assert exchange(second).data.endswith(b'Hello, World!\n')
    assert left_over(tmp_path) == []


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_its_server(tmp_path, signum):
    grading = subprocess.Popen(
        [sys.executable, '-m', 'laboratory.grade'], cwd=ROOT, stdout=subprocess.DEVNULL,
        env={**os.environ, 'SERVER': copied('daemon.py', tmp_path)})
    assert kernel.eventually(lambda: left_over(tmp_path))
    grading.send_signal(signum)
    assert grading.wait(kernel.LIMIT) == 128 + signum
    assert left_over(tmp_path) == []


def copied(server, folder):
    """The command that runs a copy of a server, which other processes are not taken for."""
    if (ROOT / SERVERS / server).exists():
        shutil.copy(ROOT / SERVERS / server, folder)
    return f'{sys.executable} {folder}/{server}'


def left_over(folder):
    """The processes that run a server from that folder."""
    return [process for process in psutil.process_iter()
            if any(str(folder) in word for word in kernel.seen(process.cmdline, []) if 'SERVER' not in word)]


@pytest.mark.parametrize('command', [
    "{python} part3/v1.0/server.py # it's mine",
    '{python} part3/v1.0/server.py \\',
    'cd part3/v1.0 && {python} server.py; true',
    'PORT={{port}} {python} part3/v1.0/server.py',
])
def test_the_shell_decides_what_a_command_is(command):
    with own_server(command.format(python=sys.executable)) as server:
        assert exchange(server).data.endswith(b'Hello, World!\n')


@pytest.mark.parametrize(('command', 'with_app'), [
    ('python3 s.py', 'python3 s.py x:app'),
    ("python3 s.py # it's mine", "python3 s.py x:app # it's mine"),
    ('python3 s.py \\', 'python3 s.py x:app'),
    ('python3 s.py {app} --quiet', 'python3 s.py x:app --quiet'),
])
def test_the_application_is_appended_to_the_command(command, with_app):
    assert own_server(command, app='x:app').command[-1].endswith(f'; {with_app}')


@pytest.mark.long
def test_it_grades_again_when_the_file_changes(tmp_path):
    server = tmp_path / 'server.py'
    server.write_text((ROOT / 'part3/v1.0/server.py').read_text())
    env = {**os.environ, 'WATCH': '1', 'STAGE': 'part3-v1.0', 'NO_COLOR': '1',
           'SERVER': f"{sys.executable} {server} # it's mine"}
    watching = pexpect.spawn(sys.executable, ['-m', 'laboratory.grade'], cwd=ROOT, env=env,
                             encoding='utf-8', dimensions=(50, 160), timeout=60)
    try:
        watching.expect_exact('Yours behaves like part3-v1.0')
        server.write_text((ROOT / 'part3/v1.1-fd-leak/server.py').read_text())
        watching.expect(r'\d\d:\d\d:\d\d')
        watching.expect_exact('Yours behaves like part3-v1.1-fd-leak')
    finally:
        watching.sendintr()
        watching.expect(pexpect.EOF)
        watching.wait()
