"""The commands that a reader types, and how they end."""
import ast
import os
import platform
import re
import shutil
import subprocess
import sys

import pexpect
import psutil
import pytest

from common.stages import ROOT, all_stages
from laboratory import grade
from laboratory.bug import SCENES
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
def test_make_serves_a_stage_until_ctrl_c(stage):
    with ServerProcess(['make', stage], env={'PYTHON': sys.executable}) as server:
        assert b'Hello' in exchange(server).data
        with connect(server), connect(server):
            server.let_rest()  # a signal just before a system call does not interrupt it
            server.interrupt()
        assert 'Traceback' not in server.output()
        assert 'KeyboardInterrupt' not in server.output()
        assert kernel.eventually(lambda: group_is_gone(server.popen.pid))


def test_make_runs_another_application():
    command = ['make', 'part2-final', 'APP=flaskapp:app']
    with ServerProcess(command, env={'PYTHON': sys.executable}) as server:
        assert b'Hello world from Flask!' in exchange(server).data


def test_make_runs_a_stage_with_the_accept_of_python_2():
    with ServerProcess(['make', 'part3-v1.3', 'PEP475=off'], env={'PYTHON': sys.executable}) as server:
        path = psutil.Process(server.pid).environ()['PYTHONPATH'].split(':')
        assert str(ROOT / 'common/python2_accept') in path


@pytest.mark.parametrize('stage', ['part1', 'part2-final', 'part3-final'])
def test_a_taken_port_is_reported_in_one_line(serve, stage):
    taken = serve('part3-final')
    status, output, errors = make(stage, f'PORT={taken.port}')
    told, *make_s_own = errors.splitlines()
    assert told == (f'cannot listen on HOST=127.0.0.1 PORT={taken.port}: another server listens there. '
                    'Another port: PORT=9000')
    assert all(line.startswith('make: ***') for line in make_s_own)
    assert (status, output) == (2, '')


@pytest.mark.parametrize(('words', 'told'), [
    (['part3-final', 'PORT=abc'], 'PORT=abc is not a valid port'),
    (['part3-final', 'PORT=-1'], 'PORT=-1 is not a valid port'),
    (['part3-final', 'PORT=65536'], 'PORT=65536 is not a valid port'),
    (['part3-final', 'PORT=²'], 'PORT=² is not a valid port'),
    (['part3-final', 'HOST=256.0.0.1'], 'HOST=256.0.0.1 is not an address'),
    (['part3-final', 'HOST=no.such.host.invalid'], 'HOST=no.such.host.invalid is not an address'),
    (['part3-final', 'HOST=192.0.2.1'], 'cannot listen on HOST=192.0.2.1'),
    (['part3-final', 'PEP475=maybe'], 'PEP475=maybe is not valid: use on or off'),
    (['part4-v1.4', 'WORKERS=0'], 'WORKERS=0 is not valid: use a whole number from 1 to 999'),
    (['part4-v1.4', 'APP_TIMEOUT=nan'], 'APP_TIMEOUT=nan is not valid: use a number of seconds'),
    (['trace-part4-v1.4', 'WORKERS=two'], 'WORKERS=two is not valid: use a whole number from 1 to 999'),
    (['part4-v1.4', 'APP=nosuch:app'], "No module named 'nosuch' in "),
    (['part3-final', 'PYTHON=nosuch'], 'PYTHON=nosuch does not run here'),
    (['part3-final', 'PYTHON=false'], 'PYTHON=false does not run here'),  # so does a shim of pyenv end
    (['diff-part3-final', 'PYTHON=sh -c "exit 3"'], 'PYTHON=sh -c exit 3 is older than Python 3.10'),
    (['diff'], 'Name one stage'),
    (['diff', 'FROM=part3-v1.1'], 'Name one stage'),
    (['diff', 'TO=part3-v1.1'], 'Name one stage'),
    (['diff-part3-v1.3', 'FROM=part3-v1.1'], 'Name one stage'),
    (['diff', 'FROM=part3-v1.1', 'TO=part9'], 'part9 is not a stage. The stages: part1, part2-v1.0'),
    (['diff-part3-v1.0'], 'part3-v1.0 is the first stage of its part'),
    (['learn', 'FROM=part3-final'], 'FROM=part3-final: no lesson comes after that stage'),
    (['client', 'MAX_CLIENTS=none'], "client: argument --max-clients: 'none' is not a number"),
])
def test_what_is_wrong_is_reported_in_one_line(words, told):
    status, output, errors = make(*words)
    first, last = errors.splitlines()
    assert first.startswith(told)
    assert last.startswith('make: *** ')
    assert (status, output) == (2, '')


@pytest.mark.parametrize(('name', 'listed'), [
    ('part3', 'part3-v1.2'), ('part3/', 'part3-v1.2'), ('part3/v1.2', 'part3-v1.2'),
    ('part3/v1.2/', 'part3-v1.2'), ('part3-v9', 'part3-v1.2'), ('bug-nosuch', 'bug-zombie'),
    ('diff-nosuch', 'diff-part3-v1.2'), ('trace-nosuch', 'trace-part3-v1.2'), ('help-nosuch', 'help-grade'),
    ('nosuch', 'watch'), ('tests', 'grade'),
])
def test_an_unknown_command_is_answered_with_a_list_of_the_known_ones(name, listed):
    status, output, errors = make(name)
    (line,) = errors.splitlines()
    assert f'make {name}: there is no such command; there are ' in line
    assert f' {listed}' in line
    assert (status, output) == (2, '')


MODULES = {path.stem: path for folder in ('common', 'laboratory') for path in (ROOT / folder).glob('*.py')}
HELPS = 'learn bug watch trace grade matrix bench client diff readmes pictures'.split()


@pytest.mark.parametrize('command', HELPS)
def test_the_help_of_a_command_names_each_variable_that_it_reads(command):
    text = MODULES[command].read_text()
    read = set(re.findall(r"(?:environ\.get|choice)\('([A-Z0-9_]+)'", text))
    read |= {'PORT'} if 'settings.port' in text else {'HOST', 'PORT'} if 'settings.free' in text else set()
    told = ast.get_docstring(ast.parse(text))
    assert {name for name in read if name not in told} == set()


def test_the_help_of_a_command_is_its_docstring():
    assert make('help-grade')[:2] == (0, grade.__doc__.strip() + '\n')


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
    assert {'test', 'client', 'diff', 'diff-part3-v1.2', 'help-grade', 'readmes', 'clean'} <= set(listed)


def test_shell_completion_sees_every_command():
    database = make('-pRrq', 'help')[1]
    names = [*(f'{kind}{stage}' for kind in ('', 'diff-', 'trace-') for stage in STAGES),
             *(f'bug-{name}' for name in SCENES), *(f'help-{name}' for name in HELPS)]
    assert [name for name in names if f'\n{name}:' not in database] == []


@pytest.mark.parametrize('words', [['diff-part3-v1.3'], ['diff', 'FROM=part3-v1.2', 'TO=part3-v1.3']])
def test_make_diff_shows_the_step(words):
    status, output, _ = make(*words)
    assert status == 0
    assert '--- part3/v1.2/server.py\n+++ part3/v1.3/server.py\n' in output
    assert '+        except InterruptedError:' in output
    assert '\x1b' not in output


@pytest.mark.parametrize(('variable', 'coloured'), [('X', True), ('NO_COLOR', False)])
def test_make_diff_is_coloured_on_a_terminal_and_needs_no_git(variable, coloured, tmp_path):
    for name in 'make', 'sh':
        (tmp_path / name).symlink_to(shutil.which(name))
    env = {**ENV, 'TERM': 'xterm', 'PATH': str(tmp_path), variable: '1'}
    shown = pexpect.run('make diff-part3-v1.3', cwd=ROOT, env=env)
    assert b'InterruptedError' in shown
    assert (b'\x1b[' in shown) == coloured


def test_make_client_passes_its_options_on(serve):
    server = serve('part3-final')
    status, output, _ = make('client', f'PORT={server.port}', 'MAX_CLIENTS=3', 'MAX_CONNS=2', 'HOLD=0')
    assert status == 0
    assert output == '3 clients with 2 connections each: 6 connected, 6 answered, 0 refused\n'


VENV = """
import pathlib
pathlib.Path('.venv/bin').mkdir(parents=True)  # fails where another one is just being made
python = pathlib.Path('.venv/bin/python')
python.write_text('#!/bin/sh\\n[ $2 != pip ] || { echo no network; exit $PIP_FAILS; }; echo $0 runs\\n')
python.chmod(0o755)
"""


@pytest.fixture
def house(tmp_path):
    """A copy of what makes a .venv, in which the modules venv and pip are ours, and quick."""
    shutil.copytree(ROOT / 'common', tmp_path / 'common')
    (tmp_path / 'requirements.txt').write_text('')
    (tmp_path / 'venv.py').write_text(VENV)
    return tmp_path


def in_venv(house, pip_fails=0):
    """Start something in the .venv of a house."""
    command = [sys.executable, '-m', 'common.environment', '-c', 'pass']
    return subprocess.Popen(command, cwd=house, env={**os.environ, 'PIP_FAILS': str(pip_fails)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_commands_that_need_a_venv_at_once_make_one(house):
    runs = [in_venv(house) for _ in range(4)]
    told = [run.communicate(timeout=60) for run in runs]
    assert [output for output, _ in told] == [f'{house}/.venv/bin/python runs\n'] * 4
    setting_up = f'Setting up .venv for Python {platform.python_version()}, which takes a minute ...\n'
    assert sorted(errors for _, errors in told)[2:] == ['', setting_up]


def test_a_venv_is_made_again_for_other_requirements(house):
    in_venv(house).communicate(timeout=60)
    (house / 'requirements.txt').write_text('mick')
    shutil.rmtree(house / '.venv/bin')  # as venv --clear does
    assert in_venv(house).communicate(timeout=60)[1].startswith('Setting up .venv')
    assert in_venv(house).communicate(timeout=60)[1] == ''


def test_without_a_network_a_venv_cannot_be_made_and_nothing_pretends_it_is(house):
    output, errors = in_venv(house, pip_fails=1).communicate(timeout=60)
    assert errors.splitlines()[1:] == [
        'cannot set up .venv (stages need no network, but this command does, once): no network']
    assert output == ''
    assert not (house / '.venv/made-for').exists()


def test_a_python_that_cannot_make_a_venv_is_reported(house):
    code = 'import sys; sys.modules["ensurepip"] = None; from common import environment; environment.python()'
    run = subprocess.run([sys.executable, '-c', code], cwd=house, text=True, capture_output=True)
    assert run.stderr.startswith(f'{sys.executable} cannot set up .venv: ')
    assert run.stderr.count('\n') == 1
