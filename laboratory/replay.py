"""Writes a web page in which you step through a run of a server, line by line, in all its processes (Linux).

    make replay-part3-v1.1                      one request
    make replay-part3-v1.3 SCENE=lost-signal    the clients of that scene, as make trace has them
    make replay SERVER='python3 my/server.py'   your own server, with its port in PORT and in place of {port};
                                                where it is not in Python, without its lines
    make replays                                all that the pages link to, in replays/

    PEP475=off                                  with the accept() of Python 2, as SCENE=eintr has it anyway

Nothing in it is drawn by hand: strace sees the calls, and the lines come from the server's own Python. What
strace does not tell is worked out, and compared with /proc: where they disagree, no page is written.
"""
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import settings, stages
from laboratory.bugs import scene_of
from laboratory.instruments.client import one_request
from laboratory.instruments.experiment import Bug
from laboratory.instruments.looks import differences
from laboratory.instruments.own import LIMITS, OUTPUT, SECONDS, as_run
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import Bounds, server_path
from laboratory.instruments.replay_page import index, page
from laboratory.instruments.run_data import data
from laboratory.instruments.saves import files_in, is_built
from laboratory.instruments.steps import Steps
from laboratory.instruments.terminal import console, play_clients, run
from laboratory.instruments.timeline import need_strace
from laboratory.instruments.turns import StagedServer

FOLDER, MY = stages.ROOT / 'replays', stages.ROOT / 'my'
TRIES = 2  # on a very busy machine something may move while it is looked at
MOST_PROCESSES = 40  # of the reader's server at the same time, with strace and a shell
ONE_REQUEST = 'A client sends a request and waits for the end of the reply.'
PYTHON2 = ' Here accept() behaves as in Python 2: a signal makes it fail.'
WATCH = {'part3-v1.1-fd-leak': ' Watch descriptor 4 of the server.'}
MARKED_LINES = stages.ROOT / 'common/marked_lines'
PATIENT = dict.fromkeys(['IDLE_TIMEOUT', 'REQUEST_TIMEOUT', 'SEND_TIMEOUT'], '60')  # seconds: turns take time
REPLAYS = (  # those that make replays writes: a stage and its scene
    ('part1', ''),
    ('part3-v1.0', ''),
    ('part3-v1.0', 'silent-client'),
    ('part3-v1.1-fd-leak', ''),
    ('part3-v1.1', ''),
    ('part3-v1.2', ''),
    ('part3-v1.2', 'eintr'),
    ('part3-v1.3', 'eintr'),
    ('part3-v1.3', 'lost-signal'),
    ('part3-v1.3', 'stopped-child'),
    ('part3-final', ''),
    ('part3-final', 'lost-signal'),
    ('part3-final', 'stopped-child'),
    ('part3-threads', 'silent-client'),
    ('part4-v1.0', ''),
    ('part4-v1.1', ''),
    ('part4-v1.2', ''),
    ('part4-v2.0', ''),
)


class Play(NamedTuple):
    """A server that is run, and what its clients do."""
    name: str
    typed: str  # the command for it
    words: list
    file: str  # the path whose lines are shown, '' for none
    bug: Bug | None  # whose scene it is; None for one request
    pep475: str
    port: int
    bounds: Bounds | None = None

    @property
    def scene(self):
        return self.bug.scene if self.bug else one_request

    @property
    def told(self):
        """What the clients do, in a sentence."""
        is_one = self.scene is one_request
        does = ONE_REQUEST if is_one else re.match('[^:.]*', self.scene.__doc__)[0] + '.'
        return does + PYTHON2 * (self.pep475 == 'off') + WATCH.get(self.name, '')

    @property
    def env(self):
        path = f'{MARKED_LINES}{os.pathsep}{server_path(self.pep475)}'
        more = self.bug.env if self.bug else {}
        return {'PYTHONPATH': path, 'PORT': str(self.port), 'WORKERS': '2', **PATIENT, **more}


def of_stage(stage, scene='', pep475=''):
    """The Play of a stage; pep475 is 'on' or 'off', '' for what the scene needs."""
    bug = scene_of(scene)
    path = str((stages.ROOT / stage.server).resolve())
    app = app_of(bug)
    words = [sys.executable, path, *([app] if app else stage.arguments)]
    return Play(name_of(stage.name, scene, pep475), f'make replay-{stage.name}{typed(scene, pep475)}', words,
                path, bug, pep475 or (bug.pep475 if bug else 'on'), free_port())


def of_own(command, scene='', pep475=''):
    """The Play of the reader's own server."""
    bug, port = scene_of(scene), free_port()
    pep475 = pep475 or (bug.pep475 if bug else 'on')
    files = [os.path.realpath(path) for path in files_in(command) if not is_built(path)]
    words = ['sh', '-c', f'{LIMITS}; {as_run(command, str(port), app_of(bug), pep475)}']
    return Play('your server', f"make replay SERVER='{command}'{typed(scene, '')}", words, (files or [''])[0],
                bug, pep475, port, Bounds(MOST_PROCESSES, SECONDS, OUTPUT))


def name_of(stage, scene='', pep475=''):
    """What the page of a stage is called."""
    return '-'.join(filter(None, [stage, scene, pep475 and f'pep475-{pep475}']))


def app_of(bug):
    """The application that the server should run for a scene, None for its own."""
    return bug.apps[0] if bug and bug.scene is not one_request else None


def typed(scene, pep475):
    return f' SCENE={scene}' * bool(scene) + f' PEP475={pep475}' * bool(pep475)


def played(play):
    """Run it; return the data of its replay. Exits with one line where the model and the kernel disagree."""
    for _ in range(TRIES):
        steps = run_once(play)
        if not steps.differs:
            break
    else:
        what, _, how = steps.differs[0].partition(': ')
        sys.exit(f'No page is written: the replay and the kernel disagree about {what}. '
                 f'This is a fault of ours, not of your server. ({how})')
    source = Path(play.file).read_text('utf-8', 'backslashreplace') if play.file else ''
    return data(play.name, play.told, play.typed, os.path.basename(play.file), source, steps.steps)


def run_once(play):
    """The Steps of one run."""
    with StagedServer(play.words, play.env, play.file, play.bounds) as server:
        play_clients(play.scene, server)
        server.let_rest()
        if not server.goes_on:
            server.note('the end')
        compare = partial(differences, port=server.port)
        return Steps([*server.story], server.looks, server.pid, server.port, compare)


def write(path, text):
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, 'utf-8')
    except OSError as error:
        sys.exit(f'cannot write {path}: {error.strerror}')


def write_all():
    """Those that the pages link to, and the page that lists them."""
    runs = []
    for stage, scene in REPLAYS:
        runs.append(played(of_stage(stages.find_stage(stage), scene)))
        write(FOLDER / f'{runs[-1]["name"]}.html', page(runs[-1]))
        console.print(f'replays/{runs[-1]["name"]}.html', highlight=False)
    write(FOLDER / 'index.html', index(runs))
    for path in FOLDER.glob('*.html'):
        if path.stem not in ('index', *(name_of(*which) for which in REPLAYS)):
            path.unlink()


def show(path):
    """Open a page in the browser of the desktop, if there is one: never in one for this terminal."""
    opener = shutil.which('xdg-open')
    if opener and {'DISPLAY', 'WAYLAND_DISPLAY'} & os.environ.keys():
        subprocess.Popen([opener, path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)


def main():
    command, name, scene = os.environ.get('SERVER'), ''.join(sys.argv[1:]), os.environ.get('SCENE', '')
    pep475 = settings.choice('PEP475', 'on', 'off') if os.environ.get('PEP475') else ''
    scene_of(scene)
    if bool(command) == bool(name):
        sys.exit("Name one server: make replay-part3-v1.2, or make replay SERVER='python3 my/server.py'")
    need_strace()
    settings.check_part4()
    if name == 'all':
        return write_all()
    play = of_own(command, scene, pep475) if command else of_stage(stages.find_stage(name), scene, pep475)
    with console.status('running the server line by line'):
        made = played(play)
    path = MY / ('replay.html' if command else f'{play.name}.html')
    write(path, page(made))
    console.print(f'{len(made["steps"])} steps. Open in a browser: {path}', soft_wrap=True, markup=False)
    if command:
        show(path)


if __name__ == '__main__':
    run(main)
