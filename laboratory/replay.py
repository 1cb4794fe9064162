"""Writes a web page in which you step through a run of a server, line by line, in all of its processes (Linux).

    make replay-part3-v1.1                      one request
    make replay-part3-v1.3 SCENE=lost-signal    the clients of that scene, as make trace has them
    make replay SERVER='python3 my/server.py'   your own server, with its port in PORT and in place of {port};
                                                where it is not in Python, without its lines
    make replays                                all that the pages link to

    PEP475=off                                  with the accept() of Python 2, as SCENE=eintr has it anyway

Nothing in it is drawn by hand: strace sees the calls, and the lines come from the server's own Python. What
strace does not tell is worked out, and compared with /proc: where they disagree, no page is written.
"""
import os
import re
import sys
from functools import partial
from typing import NamedTuple

from common import settings, stages
from laboratory.bugs import BUGS
from laboratory.instruments.client import one_request
from laboratory.instruments.looks import differences
from laboratory.instruments.own import LIMITS, OUTPUT, SECONDS, as_run
from laboratory.instruments.process import Bounds, ServerFailed, free_port, server_path
from laboratory.instruments.replay_page import index, page
from laboratory.instruments.run_data import data
from laboratory.instruments.saves import files_in, is_built
from laboratory.instruments.steps import Steps
from laboratory.instruments.terminal import console, run
from laboratory.instruments.timeline import need_strace
from laboratory.instruments.turns import MOST_TURNS, StagedServer

FOLDER, OWN = stages.ROOT / 'replays', stages.ROOT / 'my/replay.html'
MOST_PROCESSES = 40  # of the reader's server at the same time, with strace and a shell
ONE_REQUEST = 'A client sends a request and waits for the end of the reply.'
MARKED_LINES = stages.ROOT / 'common/marked_lines'
REPLAYS = """
part1
part3-v1.0
part3-v1.0 silent-client
part3-v1.1-fd-leak
part3-v1.1
part3-v1.2
part3-v1.2 eintr
part3-v1.3 eintr
part3-v1.3 lost-signal
part3-v1.3 stopped-child
part3-final
part3-final lost-signal
part3-final stopped-child
part3-threads silent-client
part4-v1.0
part4-v1.1
part4-v1.2
part4-v2.0
""".strip().splitlines()  # those that make replays writes: a stage and its scene


class Play(NamedTuple):
    """Which server is run, and what its clients do."""
    name: str
    command: str  # what is typed for it
    words: list
    file: str  # the path whose lines are shown, '' for none
    scene: object
    does: str  # what the clients do, in a sentence
    env: dict
    bounds: Bounds | None = None


def find_scene(name):
    """The bug that has it; None for one request."""
    bug = BUGS.get(name.replace('-', '_')) if name else None
    if name and not bug:
        sys.exit(f'SCENE={name} is not a scene: use one of {", ".join(BUGS).replace("_", "-")}')
    return bug


def told(bug, pep475):
    """What the clients of a scene do."""
    scene = ONE_REQUEST if not bug or bug.scene is one_request else re.match(r'[^:.]*', bug.scene.__doc__)[0] + '.'
    return scene + ' The server has the accept() of Python 2.' * (pep475 == 'off')


def environment(bug, port, pep475):
    path = f'{MARKED_LINES}{os.pathsep}{server_path(pep475)}'
    return {'PYTHONPATH': path, 'PORT': str(port), 'WORKERS': '2', **(bug.env if bug else {})}


def of_stage(stage, scene='', pep475=None):
    """The Play of a stage, with one request for no scene."""
    bug = find_scene(scene)
    pep475 = pep475 or (bug.pep475 if bug else 'on')
    arguments = stage.arguments
    if bug and bug.scene is not one_request and arguments:
        arguments = [bug.apps[0]]
    words = [sys.executable, str(stages.ROOT / stage.server), *arguments]
    name, typed = f'{stage.name}-{scene}'.rstrip('-'), f'make replay-{stage.name}' + f' SCENE={scene}' * bool(scene)
    return Play(name, typed, words, str((stages.ROOT / stage.server).resolve()),
                bug.scene if bug else one_request, told(bug, pep475), environment(bug, free_port(), pep475))


def of_own(command, scene='', pep475=None):
    """The Play of the reader's own server."""
    bug, port = find_scene(scene), free_port()
    pep475 = pep475 or (bug.pep475 if bug else 'on')
    named = [os.path.realpath(path) for path in files_in(command) if not is_built(path)]
    words = ['sh', '-c', f'{LIMITS}; {as_run(command, str(port), bug and bug.apps[0], pep475)}']
    return Play('your server', f"make replay SERVER='{command}'" + f' SCENE={scene}' * bool(scene), words,
                (named or [''])[0], bug.scene if bug else one_request, told(bug, pep475), environment(bug, port, pep475),
                Bounds(MOST_PROCESSES, SECONDS, OUTPUT))


def played(play):
    """Run it; return the data of its replay. Exits with one line where the model and the kernel disagree."""
    with StagedServer(play.words, play.env, play.file, play.bounds) as server:
        try:
            play.scene(server)
        except OSError as error:
            console.print(f'A request has failed: {error}', markup=False)
        server.let_rest()
        if server.turns == MOST_TURNS:
            server.note('goes on')
        story, port = [*server.story], server.port
        steps = Steps(story, server.looks, server.pid, port, partial(differences, port=port))
    if steps.differs:
        sys.exit(f'No page is written, as model and kernel disagree. {steps.differs[0]}')
    source = ''
    if play.file:
        with open(play.file, errors='backslashreplace') as file:
            source = file.read()
    return data(play.name, play.does, play.command, os.path.basename(play.file), source, steps.steps)


def write(path, text):
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    except OSError as error:
        sys.exit(f'cannot write {path}: {error.strerror}')


def write_all():
    """Those that the pages link to, and the page that lists them."""
    runs = []
    for line in REPLAYS:
        name, _, scene = line.partition(' ')
        runs.append(played(of_stage(stages.find_stage(name), scene)))
        write(FOLDER / f'{runs[-1]["name"]}.html', page(runs[-1]))
        console.print(f'replays/{runs[-1]["name"]}.html', highlight=False)
    write(FOLDER / 'index.html', index(runs))


def main():
    command, name = os.environ.get('SERVER'), ''.join(sys.argv[1:])
    scene = os.environ.get('SCENE', '')
    find_scene(scene)
    pep475 = settings.choice('PEP475', 'on', 'off') if os.environ.get('PEP475') else None
    if bool(command) == bool(name):
        sys.exit("Name one server: make replay-part3-v1.2, or make replay SERVER='python3 my/server.py'")
    need_strace()
    if name == 'all':
        return write_all()
    play = of_own(command, scene, pep475) if command else of_stage(stages.find_stage(name), scene, pep475)
    with console.status('running the server line by line'):
        made = played(play)
    path = OWN if command else FOLDER / f'{made["name"]}.html'
    write(path, page(made))
    console.print(f'{len(made["steps"])} steps. Open in a browser: {path}', soft_wrap=True, markup=False)


if __name__ == '__main__':
    run(main)
