"""The servers that are compared: the stages, those that people use, and one in C as the limit."""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from common.stages import ROOT, python_path, stages_of
from laboratory.instruments.process import ServerProcess, free_port

VENV = ROOT / '.venv-bench'  # made by make
PYTHON = f'Python {sys.version.split()[0]}'
LIMIT, YOURS = 'C epoll', 'your server'
APPLICATION = 'wsgiapp:app'  # of part2/apps
FOREIGN = {  # as their documentation starts them; they log no requests
    'gunicorn sync': 'gunicorn --workers {workers} --bind 127.0.0.1:{port} {app}',
    'gunicorn gthread': 'gunicorn --workers {workers} --threads 8 --bind 127.0.0.1:{port} {app}',
    'waitress': 'waitress-serve --listen 127.0.0.1:{port} {app}',
    'cheroot': 'cheroot --bind 127.0.0.1:{port} {app}',
    'granian': 'granian --interface wsgi --workers {workers} --port {port} {app}',
    'uwsgi': 'uwsgi --master --processes {workers} --http-socket 127.0.0.1:{port} --disable-logging '
             '--need-app --module {app}',
}
BASE = 'gunicorn sync'  # what the others are compared to
UNMEASURED = {  # stages that no tool can put load on, and why
    'part3-v1.1-fd-leak': 'never ends a reply, so its clients wait forever',
    'part3-v1.1': 'leaves a zombie for each request, and soon the machine can have no more processes',
}


class Server(NamedTuple):
    name: str
    command: list  # of words; {port}, {workers} and {app} stand for what they name

    def start(self, workers):
        """A ServerProcess that runs it with so many workers, where it has workers."""
        port = str(free_port())
        values = {'{port}': port, '{workers}': str(workers), '{app}': APPLICATION}
        env = {'PORT': port, 'WORKERS': str(workers), 'PYTHONPATH': python_path('on')}
        return ServerProcess([with_values(word, values) for word in self.command], env=env)


def with_values(word, values):
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def stages():
    """Those of parts 3 and 4."""
    return [Server(stage.name, [sys.executable, stage.server, *stage.arguments])
            for part in ('part3', 'part4') for stage in stages_of(part)]


def foreign():
    """Those of FOREIGN that are installed."""
    found = [Server(name, shlex.split(f'{VENV}/bin/{command}')) for name, command in FOREIGN.items()]
    return [server for server in found if os.path.exists(server.command[0])]


def own(command):
    """The reader's server, which a shell runs."""
    return Server(YOURS, ['sh', '-c', command])


@contextmanager
def limit():
    """Gives a list with the server in C, which is compiled for as long as that; an empty one without cc."""
    source = Path(__file__).with_name('epoll.c')
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, 'epoll')
        compiler = ['cc', '-O2', '-o', program, source]
        if shutil.which('cc') and subprocess.run(compiler, stderr=subprocess.DEVNULL).returncode == 0:
            yield [Server(LIMIT, [program])]
        else:
            print(f'{LIMIT} is left out, since cc cannot compile it here: apt install gcc libc6-dev',
                  file=sys.stderr)
            yield []


def versions():
    """What is installed for comparison, each with its version."""
    names = {command.split()[0].removesuffix('-serve') for command in FOREIGN.values()}
    folders = [str(folder) for folder in VENV.glob('lib/python*/site-packages')]
    found = [f'{name} {package.version}' for name in sorted(names)
             for package in metadata.distributions(name=name, path=folders)]
    return [PYTHON, *found]
