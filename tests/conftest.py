"""Fixtures of all tests."""
import functools
import os
import random
import shutil
import signal
import sys
from contextlib import ExitStack

import pexpect
import pytest

from common.stages import ROOT, find_stage
from laboratory.instruments import kernel
from laboratory.instruments.process import server_path, stage_server
from tests.helpers import altered, end_of, left

# what `make test` exports is not for the commands that the tests run
for name in ('MAKEFLAGS MAKELEVEL MFLAGS HOST PORT PEP475 APP FROM TO PART STAGE SCENE SERVER REQUEST WATCH '
             'GUESS NO_COLOR FORCE_COLOR PYTHONDONTWRITEBYTECODE WORKERS PATIENCE IDLE_TIMEOUT '
             'REQUEST_TIMEOUT SEND_TIMEOUT APP_TIMEOUT STOP_TIMEOUT THREADS QUICK ONLY WRITE '
             'DISPLAY WAYLAND_DISPLAY').split():
    os.environ.pop(name, None)

# Ctrl-C and the others end the tests, with their servers. A job in the background inherits that SIGINT is
# ignored, and one under nohup SIGHUP: a handler, other than that, is not passed on to the servers.
under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
os.environ.setdefault('UNDER_NOHUP', 'yes' * under_nohup)  # for the processes of xdist
for signum in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(signum, signal.default_int_handler)
if os.environ['UNDER_NOHUP']:
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_xdist_auto_num_workers(config):
    """How many processes run tests: most wait more than they work, whatever the number of cores."""
    return 8 + 2 * os.cpu_count()


def pytest_collection_modifyitems(items):
    """Mix the tests that wait with those that work, always in the same way; the longest begin first."""
    random.Random(1).shuffle(items)
    items.sort(key=lambda item: not item.get_closest_marker('long'))


@pytest.fixture
def serve(request, tmp_path):
    """serve('part4-final', 'own:app', WORKERS='1') starts that stage, and returns its ServerProcess.

    It ends with the test. The application may be in tests/apps, or in tmp_path, where it may change.
    """
    def start(stage, *args, env=(), pep475='on', **variables):
        stage = find_stage(stage) if isinstance(stage, str) else stage
        path = os.pathsep.join([str(tmp_path), str(ROOT / 'tests/apps'), server_path(pep475)])
        env = {'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1', **dict(env), **variables}
        server = stage_server(stage, *args, env=env, pep475=pep475).__enter__()
        request.addfinalizer(server.stop)
        return server

    return start


@pytest.fixture
def with_times(serve, tmp_path):
    """with_times(stage, {'LINGER': 0.1}) starts a copy of that stage with other limits, in seconds."""
    def start(stage, limits, app='misbehaves:app', **variables):
        changes = [(f'(?m)^{name} = [0-9.]+ ', f'{name} = {seconds} ') for name, seconds in limits.items()]
        return serve(altered(stage, tmp_path, *changes), app, **variables)
    return start


@pytest.fixture(scope='session')
def shared():
    """shared('part1') is a server for all tests that only ask: none ends it or reads all of its output."""
    with ExitStack() as servers:
        @functools.cache
        def start(stage, app=None):
            path = os.pathsep.join([str(ROOT / 'tests/apps'), server_path('on')])
            return servers.enter_context(stage_server(find_stage(stage), app, env={'PYTHONPATH': path}))
        yield start


@pytest.fixture
def tool():
    """tool('curl') skips the test where that command is missing; in CI it fails."""
    def need(name):
        if shutil.which(name) is None:
            (pytest.fail if os.environ.get('CI') else pytest.skip)(f'{name} is not installed')
        return name
    return need


@pytest.fixture
def house(tmp_path):
    """A copy of what the commands need, in a folder whose name has a space and letters beyond ASCII."""
    for folder in 'common', 'laboratory', 'part1', 'part2', 'part3', 'part4':
        shutil.copytree(ROOT / folder, tmp_path / 'web 服务器' / folder,
                        ignore=shutil.ignore_patterns('*.pyc.*'))  # one that is just being written
    return tmp_path / 'web 服务器'


@pytest.fixture
def temporary(tmp_path):
    """The folder for the temporary files of a command, which must leave none, and no process."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    yield folder
    assert kernel.eventually(lambda: left(folder) == []), left(folder)


@pytest.fixture
def terminal(temporary):
    """terminal('watch', PORT='8888') starts a command on a terminal of its own; it is ended with the test."""
    started = []

    def start(*words, folder=ROOT, program=sys.executable, **env):
        words = ['-m', f'laboratory.{words[0]}', *words[1:]] if program == sys.executable else [*words]
        env = {**os.environ, 'TERM': 'xterm', 'NO_COLOR': '1', 'TMPDIR': str(temporary), **env}
        started.append(pexpect.spawn(
            program, words, cwd=folder, env=env, dimensions=(50, 160), encoding='utf-8',
            codec_errors='replace', timeout=kernel.LIMIT))
        return started[-1]

    yield start
    for command in started:
        if command.isalive():
            command.kill(signal.SIGHUP)  # so that it cleans up
            end_of(command)
