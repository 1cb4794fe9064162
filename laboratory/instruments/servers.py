"""The servers that are compared: the stages, those that people use, and one in C as the limit."""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from common import environment
from common.stages import ROOT, stages_of
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import ServerProcess, server_path

VENV = ROOT / '.venv-bench'
GRADED = 'tests/corpus/requirements.txt'  # has their versions
LIMIT, YOURS = 'C epoll', 'your server'
APPLICATION = 'sometimes_slow:app'  # see apps
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

    @property
    def runs_app(self):
        return '{app}' in ' '.join(self.command)

    def start(self, workers):
        """A ServerProcess that runs it with so many workers, where it has workers."""
        values = {'port': str(free_port()), 'workers': str(workers), 'app': APPLICATION}
        words = [re.sub('{(port|workers|app)}', lambda name: values[name[1]], word) for word in self.command]
        env = {'PORT': values['port'], 'WORKERS': values['workers'], 'PYTHONPATH': server_path('on')}
        return ServerProcess(words, env=env)


def stages():
    """Those of parts 3 and 4."""
    return [Server(stage.name, [sys.executable, stage.server, *['{app}'] * bool(stage.arguments)])
            for part in ('part3', 'part4') for stage in stages_of(part)]


def programs():
    """The names of the packages that FOREIGN needs; the first is that of BASE."""
    return list(dict.fromkeys(command.split()[0].removesuffix('-serve') for command in FOREIGN.values()))


def foreign():
    """Those of FOREIGN that can be installed here, in .venv-bench; exits with one line without BASE."""
    versions = {line.partition('==')[0]: line for line in (ROOT / GRADED).read_text().splitlines()}
    base, *others = map(versions.get, programs())
    environment.python(VENV.name, GRADED, [base], others)
    found = [Server(name, shlex.split(f'{VENV}/bin/{command}')) for name, command in FOREIGN.items()]
    left_out = [server.name for server in found if not os.path.exists(server.command[0])]
    if left_out:
        print(f'{", ".join(left_out)}: left out, since pip could not install it here; '
              f'rm -r {VENV.name} lets it try again', file=sys.stderr)
    return [server for server in found if server.name not in left_out]


@contextmanager
def limit():
    """Gives a list with the server in C, which is compiled for as long as that; an empty one without cc."""
    with tempfile.TemporaryDirectory() as folder:
        compiler = ['cc', '-O2', '-o', f'{folder}/epoll', Path(__file__).with_name('epoll.c')]
        if shutil.which('cc') and subprocess.run(compiler, stderr=subprocess.DEVNULL).returncode == 0:
            yield [Server(LIMIT, [f'{folder}/epoll'])]
        else:
            print(f'{LIMIT} is left out, since cc cannot compile it here: apt install gcc libc6-dev',
                  file=sys.stderr)
            yield []


def versions():
    """What is installed for comparison, each with its version."""
    folders = list(map(str, VENV.glob('lib/python*/site-packages')))
    return [f'Python {sys.version.split()[0]}', *(
        f'{name} {package.version}' for name in sorted(programs())
        for package in metadata.distributions(name=name, path=folders))]
