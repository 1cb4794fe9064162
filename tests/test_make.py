"""The commands that a reader types, and how they end."""
import os
import re
import subprocess
import sys

import psutil
import pytest

from common.stages import ROOT, all_stages
from laboratory.instruments import kernel
from laboratory.instruments.client import connect, exchange
from laboratory.instruments.process import ServerProcess

STAGES = [stage.name for stage in all_stages()]
ENV = {**os.environ, 'PYTHON': sys.executable, 'HOST': '127.0.0.1'}


def make(*words):
    """Run make in the root; return its exit status, output and errors."""
    run = subprocess.run(['make', *words], cwd=ROOT, env=ENV, text=True, capture_output=True, timeout=60)
    return run.returncode, run.stdout, run.stderr


def group_is_gone(group):
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, for zombies
        return True
    return False


@pytest.mark.parametrize('stage', STAGES)
def test_ctrl_c_ends_a_stage_without_a_traceback_or_a_leftover(stage):
    with ServerProcess(['make', stage], env={'PYTHON': sys.executable}) as server:
        with connect(server), connect(server):
            server.let_rest()  # a signal just before a system call does not interrupt it
            server.interrupt()
        assert 'Traceback' not in server.output()
        assert 'KeyboardInterrupt' not in server.output()
        assert kernel.eventually(lambda: group_is_gone(server.popen.pid))


@pytest.mark.parametrize('stage', STAGES)
def test_make_serves_a_stage(stage):
    with ServerProcess(['make', stage], env={'PYTHON': sys.executable}) as server:
        assert b'Hello' in exchange(server).data


def test_make_runs_another_application():
    command = ['make', 'part2-final', 'APP=flaskapp:app']
    with ServerProcess(command, env={'PYTHON': sys.executable}) as server:
        assert b'Hello world from Flask!' in exchange(server).data


def test_make_runs_a_stage_with_the_accept_of_python_2():
    with ServerProcess(['make', 'part3-v1.3', 'PEP475=off'], env={'PYTHON': sys.executable}) as server:
        path = psutil.Process(server.pid).environ()['PYTHONPATH'].split(':')
        assert str(ROOT / 'common/python2_accept') in path


@pytest.mark.parametrize('stage', STAGES)
def test_a_taken_port_is_told_in_one_line(serve, stage):
    taken = serve('part3-final')
    status, output, errors = make(stage, f'PORT={taken.port}')
    told, *make_s_own = errors.splitlines()
    assert told == (f'cannot listen on HOST=127.0.0.1 PORT={taken.port}: another server listens there. '
                    'Another port: PORT=9000')
    assert all(line.startswith('make: ***') for line in make_s_own)
    assert (status, output) == (2, '')


@pytest.mark.parametrize('port', ['abc', '-1', '65536', '80.5', '²'])
def test_a_port_that_is_no_port_is_told_in_one_line(port):
    status, output, errors = make('part3-final', f'PORT={port}')
    assert errors.splitlines()[0].startswith(f'PORT={port} is no port')
    assert len(errors.splitlines()) == 2
    assert (status, output) == (2, '')


@pytest.mark.parametrize(('words', 'told'), [
    (['part3-final', 'HOST=256.0.0.1'], 'cannot listen on HOST=256.0.0.1'),
    (['part3-final', 'PEP475=maybe'], 'PEP475=maybe: say on'),
    (['diff'], 'Name two stages'),
    (['diff', 'FROM=part3-v1.1', 'TO=part4'], 'part4 is no stage: there are part1, part2-v1.0'),
    (['diff-part3-v1.0'], 'part3-v1.0 is the first stage of its part'),
    (['client', 'MAX_CLIENTS=none'], 'usage: client.py'),
])
def test_bad_words_are_told_and_fail(words, told):
    status, output, errors = make(*words)
    assert errors.startswith(told)
    assert 'Traceback' not in errors
    assert (status, output) == (2, '')


def test_windows_is_told_to_use_wsl():
    code = 'import os; del os.fork; from common import run; run.main("part3-final")'
    run = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert run.returncode == 1
    assert run.stderr.count('\n') == 1
    assert 'WSL' in run.stderr


def test_make_alone_lists_every_target_in_one_line_each():
    status, output, _ = make()
    assert status == 0
    listed = re.findall(r'^  make (\S+)', output, re.MULTILINE)
    assert listed[:len(STAGES)] == STAGES
    assert {'test', 'client', 'diff', 'diff-part3-v1.2', 'readmes', 'lint', 'clean'} <= set(listed)


def test_shell_completion_sees_every_stage_and_diff():
    database = make('-pRrq', 'help')[1]
    for stage in STAGES:
        assert f'\n{stage}:' in database
        assert f'\ndiff-{stage}:' in database


@pytest.mark.parametrize('words', [['diff-part3-v1.3'], ['diff', 'FROM=part3-v1.2', 'TO=part3-v1.3']])
def test_make_diff_shows_the_step(words):
    status, output, _ = make(*words)
    assert status == 0
    assert '--- part3/v1.2/server.py\n+++ part3/v1.3/server.py\n' in output
    assert '+        except InterruptedError:' in output
    assert '\x1b' not in output


def test_make_diff_is_coloured_on_a_terminal():
    on_a_terminal = 'import pty; pty.spawn(["make", "diff-part3-v1.3"])'
    run = subprocess.run([sys.executable, '-c', on_a_terminal], cwd=ROOT, env={**ENV, 'TERM': 'xterm'},
                         stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert b'\x1b[' in run.stdout


def test_make_client_passes_its_options_on(serve):
    server = serve('part3-final')
    status, output, _ = make('client', f'PORT={server.port}', 'MAX_CLIENTS=3', 'MAX_CONNS=2', 'HOLD=0')
    assert status == 0
    assert output == '3 clients with 2 connections each: 6 connected, 6 answered, 0 refused\n'
