"""The grader: what it says of servers of several kinds, and that it ends them all."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from common import stages
from common.stages import PYTHON2_ACCEPT, ROOT, find_stage
from laboratory import grade, matrix
from laboratory.bugs import BUGS, asked, expected, explained, lessons
from laboratory.instruments import kernel, own, process
from laboratory.instruments.client import REQUEST, fetch
from laboratory.instruments.experiment import BUG, ENDED, NO_WORKER, PASS, WORDLESS, Result, measure
from laboratory.instruments.own import Tried, own_server, start_line, try_out, why_untested
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.runs import at_once
from tests.helpers import ON_PATH, PYTHON

PYTHON2 = shutil.which('python2', path=f'{Path.home()}/.pyenv/versions/2.7.18/bin:{os.environ["PATH"]}')
RECORDED = {  # the command, and the stage that it is graded up to
    'final': ('python3 part3/final/server.py', ''),
    'v1.1': ('python3 part3/v1.1/server.py', 'part3-v1.1'),
    'v1.2-in-python-2': ('python2 tests/servers/python2_v1_2.py', ''),
    'eintr-in-c': ('gcc tests/servers/fork_in_c.c', 'part3-v1.3'),
    'threads': ('python3 tests/servers/foreign.py threads', ''),
    'event-loop-in-node': ('node tests/servers/event_loop.js', ''),
    'hangs-at-the-third-client': ('python3 tests/servers/foreign.py hangs_at_the_third', 'part3-v1.1'),
}


def run_grade(server, temporary, **variables):
    """Grade a server as `make grade` does; return the exit status, output and errors."""
    env = {**os.environ, 'SERVER': server, 'COLUMNS': '100', 'TMPDIR': str(temporary), **variables}
    run = subprocess.run([sys.executable, '-m', 'laboratory.grade'], cwd=ROOT, env=env, text=True,
                         stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert '\x1b' not in run.stdout + run.stderr
    return run.returncode, run.stdout, run.stderr


def python2():
    """The path of a Python 2 that runs, which few machines have: pyenv's stand-in for one may not."""
    if not PYTHON2 or subprocess.run([PYTHON2, '-c', ''], capture_output=True).returncode:
        pytest.skip('Python 2 is not installed')
    return PYTHON2


@pytest.mark.long
@pytest.mark.parametrize('name', RECORDED)
def test_it_says_what_was_recorded(name, tool, temporary, tmp_path):
    command, stage = RECORDED[name]
    language, source, *_ = command.split()
    if language == 'gcc':
        subprocess.run([tool('gcc'), '-o', tmp_path / 'server', source], cwd=ROOT, check=True)
        run = shlex.quote(str(tmp_path / 'server'))
    else:
        run = command.replace(language, python2() if language == 'python2' else tool(language), 1)
    status, output, errors = run_grade(run, temporary, STAGE=stage, **ON_PATH)
    output = re.sub(' +$', '', output.replace(run, command), flags=re.MULTILINE)
    text = f"SERVER='{command}' STAGE={stage}\n\n{output}\nexit status {status}\n"
    record = ROOT / f'tests/grades/{name}.txt'
    if os.environ.get('RECORD'):
        record.write_text(text)
    assert (text, errors) == (record.read_text(), '')


@pytest.mark.parametrize('bug', BUGS.values(), ids=BUGS)
def test_a_bug_is_reported_with_what_shows_it_and_the_stage_that_cures_it(bug, capsys):
    for name, case in bug.cases.items():
        result = Result(BUG, name, 'seen', ('more', 'too'), '3 of 18 left, also more, too')
        grade.report(bug, result, 'python3 s.py', Tried(0.0, '9471', True))
        told = capsys.readouterr().out
        assert told.startswith(f'bug        {bug.asks}\n           seen; 3 of 18 left, also more, too\n')
        assert '\n           start: PORT=9471 ' in told
        assert ('localhost:9471' in told) is ('localhost:8888' in case.see)
        assert '8888' not in told
        words = ' '.join(told.split())
        assert (PYTHON2_ACCEPT in words) is ('gives Python 3' in words) is (bug.pep475 == 'off')
        assert ' '.join(case.look_for.split()) in words
        cured = re.findall(r'^           cure: make diff-(\S+)$', told, re.MULTILINE)
        assert cured == [find_stage(cured[0]).name] if grade.cured_by(bug, case) else cured == []
        grade.report(bug, result, 'python2 s.py', Tried(0.0, '8888', False))
        assert not re.search(rf'{PYTHON2_ACCEPT}|gives\s+Python 3', capsys.readouterr().out)


def test_everything_is_asked_where_no_stage_is_named():
    assert grade.asked_for(find_stage('part4-final')) == asked('part4')
    early = grade.asked_for(find_stage('part4-v1.2'))
    assert set(early) < set(asked('part4'))
    assert {expected(find_stage('part4-v1.2'))[bug.name] for bug in early} == {PASS}


def test_a_server_that_has_ended_is_like_a_stage_only_where_a_bug_explains_it(capsys):
    silent, eintr, goal = BUGS['silent_client'], BUGS['eintr'], find_stage('part3-final')
    results = {bug: Result(PASS) for bug in asked('part3')}
    results |= {bug: Result(BUG) for bug in lessons('part3')[-1].bugs}
    ended = Result(ENDED, detail='it has ended', printed=['bye'], cause='eintr')
    results |= {silent: ended, eintr: Result(BUG, 'ends')}
    grade.summary(results, goal)
    assert capsys.readouterr().out.startswith('\nYours behaves like part3-v1.2: dies of EINTR; ')
    grade.summary(results | {eintr: Result(PASS)}, goal)
    assert capsys.readouterr().out == (
        f'\nYours behaves like no stage.\nAt the experiment "{silent.asks}": it has ended.\n'
        f'It printed:\n    bye\nThat happens to a server that {eintr.cases["ends"].yours}: '
        'make diff-part3-v1.3\nFix that first, and grade it again.\n')


def test_an_end_without_a_word_is_explained_by_eintr_where_that_ends_the_server():
    silent, eintr = BUGS['silent_client'], BUGS['eintr']
    results = {silent: Result(ENDED, detail='the server has ended, with exit status 0', cause=WORDLESS)}
    found = explained(results, lambda bug: Result(BUG, 'ends') if bug == eintr else None)
    assert [(bug, result.cause) for bug, result in found.items()] == [(eintr, ''), (silent, 'eintr')]
    assert explained(results, lambda bug: Result(PASS)) == results
    assert explained({silent: Result(ENDED)}, None) == {silent: Result(ENDED)}


def test_experiments_run_at_the_same_time_and_are_told_in_their_order(monkeypatch, capsys, tmp_path):
    """The first one waits until the second one has begun, which one by one would be in vain."""
    first, second = bugs = asked('part3')[:2]

    def measure(bug, start):
        if bug == second:
            (tmp_path / 'begun').touch()
        return Result(PASS, detail=f'{kernel.eventually((tmp_path / "begun").exists)}', printed=[])
    monkeypatch.setattr(grade, 'measure', measure)
    monkeypatch.setattr(grade, 'first_client', lambda command, server: Tried(0.0, '8888', True))
    monkeypatch.setattr(grade, 'asked_for', lambda goal: bugs)
    monkeypatch.setattr(grade, 'summary', lambda results, goal: None)
    assert grade.grade('nosuch', find_stage('part3-final'))
    assert capsys.readouterr().out == ''.join(
        f'pass       {bug.asks}\n           True\n' for bug in (first, second))


def test_an_experiment_leaves_the_servers_of_its_parent_alone(started):
    with started('daemon.py') as server:
        assert list(at_once([lambda: 'done'])) == ['done']
        assert not server.has_ended()


def test_an_experiment_that_is_killed_is_told_calmly():
    with pytest.raises(ServerFailed, match='^was lost when its experiment was killed'):
        list(at_once([lambda: os.kill(os.getpid(), signal.SIGKILL)]))


def test_an_experiment_that_is_killed_leaves_no_temporary_file(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))
    with pytest.raises(ServerFailed):
        list(at_once([lambda: tempfile.mkdtemp() and os.kill(os.getpid(), signal.SIGKILL)]))


def test_a_signal_is_heeded_though_no_process_can_be_forked(monkeypatch):
    def fork():
        signal.raise_signal(signal.SIGTERM)  # which waits meanwhile
        raise BlockingIOError
    monkeypatch.setattr(os, 'fork', fork)
    with pytest.raises(KeyboardInterrupt):
        list(at_once([bool]))


def test_what_does_not_apply_is_no_bug(monkeypatch):
    monkeypatch.setattr(grade, 'first_client', lambda command, server: Tried(0.0, '8888', True))
    for outcome, is_fine in (NO_WORKER, True), (BUG, False), (ENDED, False):
        monkeypatch.setattr(grade, 'measure', lambda *_, outcome=outcome: Result(outcome, printed=[]))
        assert grade.grade('nosuch', find_stage('part4-final')) is is_fine


@pytest.mark.parametrize(('command', 'app', 'typed'), [
    ('python3 s.py', '', 'python3 s.py'),
    ('python3 s.py wsgiapp:app', '', 'PYTHONPATH=$PWD/part2/apps python3 s.py wsgiapp:app'),
    ('python3 s.py {app} {port}', 'wsgi_probes:app',
     'PYTHONPATH=$PWD/laboratory/instruments/apps python3 s.py wsgi_probes:app 8888'),
    ('python3 s.py', 'flaskapp:app',
     'PATH=$PWD/.venv/bin:$PATH PYTHONPATH=$PWD/part2/apps python3 s.py flaskapp:app'),
    ('X=1 exec python3 s.py', '', "sh -c 'X=1 exec python3 s.py'"),
    ('cd mine && python3 s.py # it is mine', 'x:app', "sh -c 'cd mine && python3 s.py x:app # it is mine'"),
    ("python3 s.py # it's mine", 'x:app', """sh -c 'python3 s.py x:app # it'"'"'s mine'"""),
    ('python3 s.py \\', 'x:app', 'python3 s.py x:app'),
])
def test_a_bug_is_told_with_the_line_that_starts_the_server(command, app, typed):
    assert start_line(command, app) == f'PORT=8888 {typed}'


@pytest.fixture
def started(monkeypatch, temporary):
    """started('floods.py') runs one of tests/servers as the grader does; no process of it may stay."""
    monkeypatch.setenv('TMPDIR', str(temporary))
    return lambda server: own_server(f'{PYTHON} tests/servers/{server}')


@pytest.mark.parametrize(('server', 'told'), [
    ('never_answers.py', r'it did not answer a request in \d\.\d seconds\. It printed nothing\.'),
    ('ends_at_once.py', 'it ended when its first client came, with exit status 1. It printed:\nTraceback'),
    ('floods.py', 'it did not listen on a port, but ended, after printing 10 MB: more is not '),
    ('floods_later.py', 'it ended when its first client came, after printing 10 MB: more is not '),
    ('forks_without_end.py', 'it started more than 200 processes'),
    ('forks_at_first.py', 'it started more than 200 processes'),
    ('never_listens.py', 'it did not listen on a port in 2 seconds. It printed:\nno socket yet'),
    ('nosuch.py', 'it did not listen on a port, but ended, with exit status 2. It printed:'),
])
def test_a_server_that_cannot_be_tested_is_reported_calmly(server, told, started, monkeypatch):
    if server.startswith('never'):
        monkeypatch.setattr(own, 'SLOWEST', 1)
        monkeypatch.setattr(process, 'START', 2)
    with pytest.raises(ServerFailed) as failed:
        try_out(started(server))
    lines = why_untested(failed.value)
    assert re.match(f'Your server could not be tested: {told}', '\n'.join(lines))
    assert len(lines) < 12


@pytest.mark.skipif(not kernel.LINUX, reason='looks at /proc')
def test_a_signal_that_is_ignored_as_nohup_has_it_is_not_ignored_by_the_server(temporary):
    status, output, errors = run_grade('grep SigIgn: /proc/self/status', temporary)
    assert errors.startswith('Your server could not be tested: it did not listen on a port, but ended, with ')
    assert (status, output) == (2, '')
    with_nohup = ['sh', '-c', f"trap '' HUP INT; exec {PYTHON} -m laboratory.grade"]
    env = {**os.environ, 'SERVER': 'grep SigIgn: /proc/self/status', 'TMPDIR': str(temporary)}
    assert subprocess.run(with_nohup, cwd=ROOT, env=env, capture_output=True, text=True).stderr == errors


@pytest.mark.parametrize('shares', [True, False])
def test_a_server_with_a_port_of_its_own_is_found_there_or_told_to_share_it(shares, tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'OTHER', 0.1)
    source, port = (ROOT / 'part3/v1.1/server.py').read_text(), free_port()
    source = re.sub('PORT = .*', f'PORT = {port}', source)
    (tmp_path / 'server.py').write_text(source if shares else source.replace('SO_REUSEADDR', 'SO_KEEPALIVE'))
    command = f'{PYTHON} {shlex.quote(str(tmp_path))}/server.py'
    if shares:
        tried = try_out(own_server(command))
        assert (tried.port, tried.at_once) == (str(port), 1)
        monkeypatch.setattr(process, 'OTHER', 3600)  # not awaited again
        with own_server(command, own_port=tried.own_port) as server:
            assert server.port == port
    else:
        with own_server(command), pytest.raises(ServerFailed) as failed:
            try_out(own_server(command))
        assert 'If you cannot, set SO_REUSEADDR before bind()' in why_untested(failed.value)[0]


def test_a_server_that_computes_and_never_listens_is_given_up(monkeypatch):
    waits, eventually = [], kernel.eventually
    monkeypatch.setattr(kernel, 'eventually', lambda *args: waits.append(args[1:]) or eventually(*args))
    monkeypatch.setattr(process, 'START', 0.5)
    monkeypatch.setattr(process, 'TRIES', 100)
    with pytest.raises(ServerFailed, match='did not listen on a port in 0.5 seconds, and printed nothing'):
        own_server(f'exec {PYTHON} -c "while True: pass"').__enter__()
    assert waits.count((process.START,)) < process.TRIES


def test_less_is_awaited_of_a_server_that_is_busy_at_each_wait(started):
    with started('never_answers.py') as server:
        assert server.work == process.WORK
    with started('never_rests.py') as server:
        server.let_rest()
        assert server.work < process.WORK / 2


@pytest.mark.parametrize(('server', 'outcome'), [
    ('ignores_signals.py', PASS), ('daemon.py', PASS), ('endless_reply.py', BUG)])
def test_a_server_that_is_hard_to_end_is_graded_and_ended(server, outcome, started):
    assert measure(BUGS['no_fin'], lambda app, pep475, env: started(server)).outcome == outcome


def test_two_servers_at_once_do_not_end_each_others_daemons(started):
    with ExitStack() as first:
        first.enter_context(started('daemon.py'))
        with started('daemon.py') as second:
            first.close()
            assert fetch(second, REQUEST).data.endswith(b'Hello, World!\n')


def test_a_signal_that_comes_while_the_guard_is_started_ends_the_server(started, monkeypatch):
    def start(thread):
        raise KeyboardInterrupt
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, 'start', start)
        started('never_listens.py').__enter__()


@pytest.mark.long
def test_it_grades_again_when_the_file_changes(terminal, tmp_path):
    server = tmp_path / 'server.py'
    server.write_text((ROOT / 'part3/v1.0/server.py').read_text())
    watching = terminal('grade', WATCH='1', STAGE='part3-v1.0', SERVER=f"{PYTHON} {server} # it's mine")
    watching.expect_exact('Yours behaves like part3-v1.0')
    server.write_text((ROOT / 'part3/v1.1-fd-leak/server.py').read_text())
    watching.expect(r'\d\d:\d\d:\d\d')
    watching.expect_exact('Yours behaves like part3-v1.1-fd-leak')


def test_a_folder_of_the_readers_own_beside_the_stages_disturbs_nothing(house, monkeypatch, capsys):
    shutil.copytree(house / 'part3/v1.0', house / 'part3/mine')
    monkeypatch.setattr(stages, 'ROOT', house)
    assert grade.named_goal() == find_stage('part3-final')
    monkeypatch.setattr(matrix, 'measured', lambda stages, follow: {})
    assert matrix.main() == 0
    told = 'part3-mine: laboratory/bugs/expected.txt does not say what is expected of it'
    assert capsys.readouterr().out.split('\n') == [told, '']
    monkeypatch.setenv('STAGE', 'part3-mine')
    with pytest.raises(SystemExit, match=f'^STAGE={told}$'):
        grade.named_goal()
