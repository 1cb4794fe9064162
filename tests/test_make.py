"""The commands that a reader types, and how they end."""
import ast
import io
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pexpect
import pytest

from common import diff, pid, run, settings
from common.output import show
from common.stages import ROOT, all_stages
from laboratory import grade, watch
from laboratory.instruments import kernel, terminal
from laboratory.instruments.client import REQUEST, fetch
from laboratory.instruments.process import ServerProcess
from tests.helpers import ON_PATH, press_ctrl_c

STAGES = [stage.name for stage in all_stages()]
BUGS = [f'bug-{path.stem.replace("_", "-")}' for path in ROOT.glob('laboratory/bugs/[!_]*.py')]
HELPS = 'learn bug watch trace replay grade matrix bench client diff readmes pictures'.split()
ENV = {**os.environ, **ON_PATH, 'HOST': '127.0.0.1', 'PORT': '0'}  # make takes no path with a space


def make(*words):
    """Run make in the root; return its exit status, output and errors."""
    run = subprocess.run(['make', *words], cwd=ROOT, env=ENV, text=True, capture_output=True, timeout=60)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize('stage', ['part1', 'part3-final', 'part4-final'])
def test_make_serves_a_stage_until_ctrl_c(stage):
    with ServerProcess(['make', stage, 'HOST='], env=ON_PATH) as server:
        assert b'Hello' in fetch(server, REQUEST).data
        assert {socket.laddr.ip for socket in kernel.sockets_of(server.pid)} == {'127.0.0.1'}
        server.let_rest()  # a signal just before a system call does not interrupt it
        press_ctrl_c(server)
        assert not re.search('Traceback|KeyboardInterrupt', server.output())
        assert kernel.eventually(server.is_gone)


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    started = []
    monkeypatch.setattr(os, 'execv', lambda *words: started.append((os.environ['HOST'], os.environ['PORT'])))
    monkeypatch.setattr(socket.socket, 'bind', lambda *_: None)  # that port may be taken here
    for name in 'HOST', 'PORT', 'APP', 'PEP475', 'PYTHONPATH':
        monkeypatch.setenv(name, '')
    run.main('part2-final')
    assert started == [('127.0.0.1', '8888')]


def test_the_accept_of_python_2_is_found_in_a_folder_with_a_colon_in_its_name(tmp_path):
    folder = shutil.copytree(ROOT / 'common', tmp_path / 'a:b/common').parent
    (folder / 'part3').mkdir()
    (folder / 'part3/server.py').write_text('import socket; print(socket.socket.accept.__module__)')
    for pep475, module in ('off', 'sitecustomize'), ('on', 'socket'):
        command = [sys.executable, '-m', 'common.run', 'part3']
        assert subprocess.check_output(command, cwd=folder, env={**ENV, 'PEP475': pep475},
                                       text=True) == f'{module}\n'


TROUBLESHOOTING = (ROOT / 'TROUBLESHOOTING.md').read_text()


def told_of_port(monkeypatch, number, host='127.0.0.1'):
    """What a server would be told that wants this port, in the words of TROUBLESHOOTING.md."""
    monkeypatch.setenv('HOST', host)
    monkeypatch.setenv('PORT', str(number))
    with pytest.raises(SystemExit) as told:
        settings.free_address()
    who = re.fullmatch(rf'cannot listen on HOST={host} PORT={number}: (.+)\. Another port: PORT=9000',
                       told.value.args[0])[1]
    assert re.sub('[0-9]+', '1234', re.sub(r'\(.*\)', '(…)', who)) in TROUBLESHOOTING
    return who


def test_a_taken_port_is_reported_in_one_line_that_says_who_has_it(serve, monkeypatch):
    taken = serve('part3-final')
    status, output, errors = make('part2-final', f'PORT={taken.port}')
    command = f'{sys.executable} part3/final/server.py'[:80]
    who = f'process {taken.pid} ({command}) listens there, kill {taken.pid} ends it'
    assert told_of_port(monkeypatch, taken.port) == who
    assert errors.splitlines()[0] == (
        f'cannot listen on HOST=127.0.0.1 PORT={taken.port}: {who}. Another port: PORT=9000')
    assert (status, output, errors.count('\n')) == (2, '', 2)


def test_the_server_of_another_user_is_told_from_a_port_that_nobody_listens_on(monkeypatch, capsys):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = server.getsockname()[1]
        assert told_of_port(monkeypatch, port) == 'another program uses it'
        with pytest.raises(SystemExit, match=f'^nothing listens on PORT={port}$'):
            pid.main()
        server.listen()
        assert pid.listeners(port) == [os.getpid()]
        monkeypatch.setattr(pid, 'files_of', lambda pid: [])  # what is seen of another user's
        assert told_of_port(monkeypatch, port) == "another user's server listens there"
        with pytest.raises(SystemExit, match=f"^another user's server listens on PORT={port}$"):
            pid.main()
        assert watch.wait_for_server(port, SimpleNamespace(pressed=lambda seconds: 'q')) is None
        assert capsys.readouterr().out.startswith(f"Another user's server listens on port {port}")


def test_the_supervisor_is_the_first_of_the_pids_that_listen(serve):
    server = serve('part4-v1.2', 'wsgiapp:app')
    printed = subprocess.check_output([sys.executable, '-m', 'common.pid'], cwd=ROOT, text=True,
                                      env={**ENV, 'PORT': str(server.port)})
    first, *others = map(int, printed.splitlines())
    assert (first, set(others)) == (server.pid, kernel.children(server.pid))


def test_a_socket_that_one_look_misses_is_found(monkeypatch):
    looks = iter([os.devnull])  # which has nothing, as if the socket had been missed
    monkeypatch.setattr(pid, 'open', lambda path: open(next(looks, path)), raising=False)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        assert pid.sockets_on(listener.getsockname()[1])


def test_without_proc_lsof_finds_the_pids(monkeypatch, tmp_path):
    (tmp_path / 'lsof').write_text('#!/bin/sh\n[ "$2$3" != -iTCP:81-sTCP:LISTEN ] || printf "12\\n7\\n"')
    (tmp_path / 'lsof').chmod(0o755)
    monkeypatch.setattr(pid, 'PROC', False)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert (pid.listeners(81), pid.listeners(80)) == ([7, 12], [])
    (tmp_path / 'lsof').unlink()
    assert pid.listeners(81) == []


@pytest.mark.parametrize(('main', 'words', 'told'), [
    (run.main, 'part3-final PORT=-1', 'PORT=-1 is not a valid port'),
    (run.main, 'part3-final PORT=65536', 'PORT=65536 is not a valid port'),
    (run.main, 'part3-final PORT=²', 'PORT=² is not a valid port'),
    (run.main, 'part3-final HOST=256.0.0.1', 'HOST=256.0.0.1 is not an address'),
    (run.main, 'part3-final HOST=a..b', 'HOST=a..b is not an address'),
    (run.main, 'part3-final HOST=192.0.2.1', 'cannot listen on HOST=192.0.2.1'),
    (run.main, 'part3-final PEP475=maybe', 'PEP475=maybe is not valid: use on or off'),
    (run.main, 'part4-v1.4 WORKERS=0', 'WORKERS=0 is not valid: use a whole number from 1 to 999'),
    (run.main, 'part4-v1.4 APP_TIMEOUT=nan', 'APP_TIMEOUT=nan is not valid: use a number of seconds'),
    (diff.main, 'FROM=part3-v1.1', 'Name one stage'),
    (diff.main, 'part3-v1.3 FROM=part3-v1.1', 'Name one stage'),
    (diff.main, 'FROM=part3-v1.1 TO=part9', 'part9 is not a stage. The stages: part1, part2-v1.0'),
    (diff.main, 'part3-v1.0', 'part3-v1.0 is the first stage of its part'),
])
def test_what_is_not_valid_is_told_in_one_line(monkeypatch, main, words, told):
    for name, value in [*ENV.items(), *re.findall(r'(\S+)=(\S+)', words)]:
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f'^{re.escape(told)}.*$'):
        main(*re.findall('^part[^ ]+', words))


@pytest.mark.parametrize(('words', 'told'), [
    (['part3-final', 'PORT=abc'], 'PORT=abc is not a valid port'),
    (['trace-part4-v1.4', 'WORKERS=two'], 'WORKERS=two is not valid: use a whole number from 1 to 999'),
    (['part4-v1.4', 'APP=nosuch:app'], "No module named 'nosuch' in "),
    (['part3-final', 'PYTHON=nosuch'], 'PYTHON=nosuch does not run here'),
    (['part3-final', 'PYTHON=false'], 'PYTHON=false does not run here'),  # so does a shim of pyenv end
    (['diff-part3-final', 'PYTHON=sh -c "exit 3"'], 'PYTHON=sh -c exit 3 is older than Python 3.10'),
    (['client', 'MAX_CLIENTS=none'], "client: argument --max-clients: 'none' is not a number"),
])
def test_what_is_wrong_is_reported_in_one_line(words, told):
    status, output, errors = make(*words)
    first, last = errors.splitlines()
    assert first.startswith(told)
    assert last.startswith('make: *** ')
    assert (status, output) == (2, '')


@pytest.mark.parametrize(('name', 'told'), [
    ('part3', 'there are .*part3-v1.2 '), ('part3/', 'there are .*part3-v1.2 '),
    ('part3-v9', 'there are .*part3-v1.2 '), ('diff-nosuch', 'there are .*diff-part3-v1.2 '),
    ('trace-nosuch', 'there are .*trace-part3-v1.2 '), ('help-nosuch', 'there are .*help-grade '),
    ('nosuch', 'there are .*watch .*part3-v1.2'), ("it's", 'there are .*watch '),
    ('part3/v1.2', r'did you mean part3-v1.2\?'), ('part3/v1.2/', r'did you mean part3-v1.2\?'),
    ('part3_final', r'did you mean part3-final\?'), ('grad', r'did you mean grade\?'),
    ('tests', r'did you mean test\?'), ('Help_Grade', r'did you mean help-grade\?'),
    ('diff-part3-v12', r'did you mean diff-part3-v1.2\?'),
    ('v1.2', r'did you mean part2-v1.2, part3-v1.2 or part4-v1.2\?'),
])
def test_an_unknown_command_is_answered_with_what_was_meant_or_a_list_of_the_known_ones(name, told):
    status, output, errors = make(name)
    (line,) = errors.splitlines()
    assert re.search(f'make {name}: there is no such command; {told}', line)
    assert (status, output) == (2, '')


@pytest.mark.parametrize('command', HELPS)
def test_the_help_of_a_command_names_each_variable_that_it_reads(command):
    text = next(ROOT.glob(f'[cl]*/{command}.py')).read_text()
    read = set(re.findall(r"(?:environ\.get|choice)\('([A-Z0-9_]+)'", text))
    read |= {'PORT'} if 'settings.port' in text else {'HOST', 'PORT'} if 'settings.free' in text else set()
    told = ast.get_docstring(ast.parse(text))
    assert {name for name in read if name not in told} == set()


def test_the_help_of_a_command_is_its_docstring():
    assert make('help-grade')[:2] == (0, grade.__doc__.strip() + '\n')


def test_windows_is_told_to_use_wsl(monkeypatch):
    monkeypatch.delattr(os, 'fork')
    with pytest.raises(SystemExit, match='^.*WSL.*$'):
        run.main('part3-final')


def test_make_alone_fits_every_command_on_a_screen_and_help_stages_every_stage():
    screen, stages = make()[1], make('help-stages')[1]
    assert screen.count('\n') <= 22  # and two for what was typed, and for the next prompt
    assert max(map(len, (screen + stages).splitlines())) <= 80
    listed = re.findall(r'^  make ([a-z]+)', screen, re.MULTILINE)
    targets = re.search('^COMMANDS := (.*)', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]
    assert set(listed) == {name.partition('-')[0] for name in targets.split()} | {'part', 'bug'}
    assert re.findall(r'^  make (\S+) +[A-Z][^=\n]*$', stages, re.MULTILINE) == STAGES


def test_a_reader_of_the_help_may_leave():
    reading, writing = os.pipe()
    os.close(reading)
    for words in [], ['help-stages'], ['help-client'], ['diff-part3-v1.3']:
        ended = subprocess.run(['make', *words], cwd=ROOT, env=ENV, stdout=writing, stderr=subprocess.PIPE)
        assert (ended.returncode, ended.stderr) == (0, b'')
    os.close(writing)


@pytest.mark.parametrize('prints', [
    pytest.param(lambda: show(['→']), id='common'),
    pytest.param(lambda: terminal.run(lambda: terminal.console.print('→')), id='laboratory')])
def test_a_terminal_without_arrows_gets_question_marks(monkeypatch, prints):
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'ascii'))
    monkeypatch.setattr(signal, 'signal', lambda *_: None)  # those of the tests stay
    monkeypatch.setattr(terminal, 'end_all', lambda: None)  # and so do their servers
    with suppress(SystemExit):
        prints()
    assert sys.stdout.buffer.getvalue() == b'?\n'


def test_shell_completion_sees_every_command():
    database = make('-pRrq', 'help')[1]
    names = [*(f'{kind}{stage}' for kind in ('', 'diff-', 'trace-', 'replay-') for stage in STAGES),
             *BUGS, *(f'help-{name}' for name in HELPS)]
    assert [name for name in names if f'\n{name}:' not in database] == []


@pytest.mark.parametrize(('variable', 'coloured'), [('X', True), ('NO_COLOR', False)])
def test_make_diff_is_coloured_on_a_terminal_and_needs_no_git(variable, coloured, tmp_path):
    for name, path in ('make', shutil.which('make')), ('sh', shutil.which('sh')), ('python3', sys.executable):
        (tmp_path / name).symlink_to(path)
    env = {**ENV, 'TERM': 'xterm', 'PATH': str(tmp_path), variable: '1'}
    shown = pexpect.run('make diff FROM=part3-v1.2 TO=part3-v1.3', cwd=ROOT, env=env)
    assert b'InterruptedError' in shown
    assert (b'\x1b[' in shown) == coloured


def test_both_options_count(serve):
    server = serve('part3-final')
    told = make('client', f'PORT={server.port}', 'MAX_CLIENTS=4', 'MAX_CONNS=8', 'HOLD=0')
    assert told == (0, '4 clients with 8 connections each: 32 connected, 32 answered, 0 refused\n', '')


VENV = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-1], 'bin')
folder.mkdir(parents=True)  # fails where another one is just being made
(folder / 'python').write_text('''#!/bin/sh
case "$*" in
    *"$REFUSED") echo no network; exit 1;;
    '-m pip'*) mkdir $TMPDIR/pip-build; [ ! -e hold ] || read line <hold;;
    *) echo $0 runs;;
esac
''')
(folder / 'python').chmod(0o755)
"""
SETTING_UP = f'Setting up .venv for Python {platform.python_version()}, which takes a minute ...\n'


@pytest.fixture
def in_venv(tmp_path):
    """in_venv() starts something in tmp_path/.venv, or the code, where pip does not install what is refused.

    The modules venv and pip are ours there, and quick.
    """
    shutil.copytree(ROOT / 'common', tmp_path / 'common')
    (tmp_path / 'requirements.txt').write_text('')
    (tmp_path / 'temporary').mkdir()
    (tmp_path / 'venv.py').write_text(VENV)

    def start(refused='nothing', code=None):
        command = [sys.executable, *(['-c', code] if code else ['-m', 'common.environment', '-c', 'pass'])]
        env = {**os.environ, 'REFUSED': refused, 'TMPDIR': str(tmp_path / 'temporary')}
        return subprocess.Popen(command, cwd=tmp_path, env=env, text=True, start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return start


def test_commands_that_need_a_venv_at_once_make_one_and_say_what_they_wait_for(in_venv, tmp_path):
    os.mkfifo(tmp_path / 'hold')
    first = in_venv()
    assert first.stderr.readline() == SETTING_UP
    others = [in_venv() for _ in range(2)]
    for other in others:
        assert other.stderr.readline() == 'Waiting for another command, which sets up .venv ...\n'
    (tmp_path / 'hold').write_text('go on\n')
    for each in first, *others:
        assert each.communicate(timeout=60) == (f'{tmp_path}/.venv/bin/python runs\n', '')


def test_ctrl_c_leaves_no_temporary_files_of_pip_behind(in_venv, tmp_path):
    os.mkfifo(tmp_path / 'hold')
    ended = in_venv()
    assert kernel.eventually(lambda: list(tmp_path.glob('temporary/*/pip-build')))
    os.killpg(ended.pid, signal.SIGINT)
    assert ended.communicate(timeout=60) == ('', SETTING_UP)
    assert (ended.returncode, list((tmp_path / 'temporary').iterdir())) == (130, [])


def test_a_venv_is_made_again_for_other_requirements(in_venv, tmp_path):
    in_venv().communicate(timeout=60)
    (tmp_path / 'requirements.txt').write_text('mick')
    shutil.rmtree(tmp_path / '.venv/bin')  # as venv --clear does
    assert [in_venv().communicate(timeout=60)[1] for _ in range(2)] == [SETTING_UP, '']


NO_NETWORK = 'cannot set up .v (stages need no network, but this command does, once): no network\n'


@pytest.mark.parametrize(('refused', 'made'), [('base', False), ('extra', True)])
def test_an_environment_may_lack_its_extras_but_not_what_it_needs(in_venv, tmp_path, refused, made):
    code = 'from common import environment; environment.python(".v", "requirements.txt", ["base"], ["extra"])'
    told = in_venv(refused, code).communicate(timeout=60)
    assert told == ('', SETTING_UP.replace('.venv', '.v') + NO_NETWORK * (not made))
    assert (tmp_path / '.v/made-for').exists() == made


def test_a_python_that_cannot_make_a_venv_is_reported(in_venv):
    code = 'import sys; sys.modules["ensurepip"] = None; from common import environment; environment.python()'
    errors = in_venv(code=code).communicate(timeout=60)[1]
    assert errors.startswith(f'{sys.executable} cannot set up .venv: ')
    assert errors.count('\n') == 1
