"""The grader, on the stages, on servers in other languages, and on servers that misbehave."""
import os
import shutil
import subprocess
import sys

import psutil
import pytest

from common.stages import ROOT, all_stages, find_stage
from laboratory import grade
from laboratory.experiments.hints import HINTS
from laboratory.experiments.tables import EXPERIMENTS
from laboratory.instruments import kernel
from laboratory.instruments.process import ServerFailed

STAGES = [stage.name for stage in all_stages() if stage.part in EXPERIMENTS]
SERVERS = 'tests/servers'


def run_grade(server, *options):
    """Grade a server as `make grade` does; return the exit status, output and errors."""
    command = [sys.executable, '-m', 'laboratory.grade', '--server', server, *options]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert '\x1b' not in run.stdout + run.stderr
    assert 'Traceback' not in run.stderr
    return run.returncode, run.stdout, run.stderr


def verdicts(output):
    """{question: 'holds', 'bug', ...} as they are printed."""
    questions = [experiment.__doc__ for columns in EXPERIMENTS.values() for experiment in columns]
    rows = [(line[:10].strip(), line[11:]) for line in output.splitlines()]
    return {question: outcome for outcome, question in rows if question in questions}


@pytest.mark.parametrize('stage', STAGES)
def test_a_stage_grades_as_itself(stage):
    part = find_stage(stage).part
    status, output, _ = run_grade(f'{sys.executable} {find_stage(stage).server}', '--part', part[-1])
    assert f'Yours behaves like {stage}: ' in output
    assert status == (0 if stage.endswith('final') else 1)


def test_a_server_is_graded_up_to_a_stage():
    server = f'{sys.executable} part3/v1.2/server.py'
    status, output, _ = run_grade(server, '--stage', 'part3-v1.1')
    assert status == 0
    assert 'Yours behaves like part3-v1.1: gives descriptors back; leaves zombies.' in output
    assert 'Next: part3-v1.2, make diff-part3-v1.2' in output
    assert run_grade(server, '--stage', 'part3-v1.3')[0] == 1


def test_a_bug_comes_with_a_command_and_its_cure():
    _, output, _ = run_grade(f'{sys.executable} part3/v1.1-fd-leak/server.py', '--stage', 'part3-v1.1')
    place = output.index('bug        descriptors are given back')
    told = output[place:].splitlines()[1:5]
    assert told[0].strip() == '24 descriptors more after 24 clients, 24 of them sockets in'
    assert told[2].strip().startswith('type: curl')
    assert told[3].strip().startswith('You see a line CLOSE-WAIT')
    assert 'cure: make diff-part3-v1.1\n' in output[place:]


@pytest.mark.parametrize('experiment', [name.__name__ for columns in EXPERIMENTS.values() for name in columns])
def test_every_bug_has_a_hint(experiment):
    assert all(HINTS[experiment])
    assert HINTS[experiment].look.startswith('You see ')


def test_a_server_in_c_has_the_eintr_bug_by_nature(tool, tmp_path):
    binary = tmp_path / 'server'
    subprocess.run([tool('gcc'), '-o', binary, f'{SERVERS}/fork_in_c.c'], cwd=ROOT, check=True)
    status, output, _ = run_grade(str(binary))
    assert verdicts(output)['survives EINTR in accept()'] == 'bug'
    assert 'Yours behaves like part3-v1.2: ' in output
    assert status == 1


def test_a_server_with_an_event_loop_has_none_of_the_bugs(tool):
    status, output, _ = run_grade(f'{tool("node")} {SERVERS}/event_loop.js')
    assert list(verdicts(output).values()) == [
        'holds', 'holds', 'holds', 'no child', 'no handler', 'no child', 'no child']
    assert 'Yours behaves like part3-final: works.' in output
    assert status == 0


@pytest.mark.parametrize(('server', 'told'), [
    ('never_answers.py', 'it did not answer a request, and printed nothing'),
    ('never_listens.py', 'it did not listen; it printed:\nno socket yet'),
    ('nosuch.py', 'it did not listen; it printed:'),
    ('forks_without_end.py', 'it started more than 100 processes'),
    ('floods.py', 'it did not listen; it printed:\nxxx'),
])
def test_a_server_that_cannot_be_tested_is_told(tmp_path, server, told):
    status, _, errors = run_grade(copied(server, tmp_path))
    assert status == 2
    assert errors.startswith(f'Your server could not be tested: {told}')
    assert len(errors) < 3000
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(('server', 'stage', 'status'), [
    ('ignores_signals.py', 'part3-v1.1', 0),
    ('daemon.py', 'part3-v1.1', 0),
    ('endless_reply.py', 'part3-v1.1-fd-leak', 1),
])
def test_a_server_that_is_hard_to_end_is_graded_and_ended(tmp_path, server, stage, status):
    if server == 'daemon.py' and sys.platform != 'linux':
        pytest.skip('only on Linux can we become the parent of a daemon')
    assert run_grade(copied(server, tmp_path), '--stage', stage)[0] == status
    assert left_over(tmp_path) == []


def copied(server, folder):
    """The command that runs a copy of a server, which other processes are not taken for."""
    if (ROOT / SERVERS / server).exists():
        shutil.copy(ROOT / SERVERS / server, folder)
    return f'{sys.executable} {folder}/{server}'


def left_over(folder):
    """The processes that run a server from that folder."""
    return [process for process in psutil.process_iter()
            if any(str(folder) in word for word in kernel.seen(process.cmdline, []))]


def test_a_server_under_a_shell_is_found():
    server = f'cd part3/v1.1 && {sys.executable} server.py; true'
    assert run_grade(server, '--stage', 'part3-v1.1')[0] == 0


def test_the_port_is_written_into_the_command():
    command = f'PORT={{port}} {sys.executable} part3/v1.0/server.py'
    assert run_grade(command, '--stage', 'part3-v1.0')[0] == 0


def test_a_server_that_is_never_at_rest_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, 'SECONDS', 2)
    with pytest.raises(ServerFailed, match='took too long: it is never at rest'):
        grade.grade(copied('never_rests.py', tmp_path), find_stage('part3-final'))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(('options', 'told'), [
    (['--server', ''], 'name your server'),
    (['--server', 'x', '--stage', 'part4'], 'no such stage'),
    (['--server', 'x', '--part', '1'], 'invalid choice'),
])
def test_bad_options_are_told(options, told):
    command = [sys.executable, '-m', 'laboratory.grade', *options]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert run.returncode == 2
    assert told in run.stderr.splitlines()[-1]


def test_it_grades_again_when_the_file_changes(tmp_path):
    server = tmp_path / 'server.py'
    server.write_text((ROOT / 'part3/v1.0/server.py').read_text())
    command = [sys.executable, '-m', 'laboratory.grade', '--server', f'{sys.executable} {server}',
               '--stage', 'part3-v1.1-fd-leak', '--watch']
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) as watching:
        try:
            assert any('Yours behaves like part3-v1.0' in line for line in watching.stdout)
            server.write_text((ROOT / 'part3/v1.1/server.py').read_text())
            assert any('Yours behaves like part3-v1.1-fd-leak' in line for line in watching.stdout)
        finally:
            watching.kill()
