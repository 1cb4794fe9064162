"""The list of stages: where each one is, and what comes before it."""
import ast
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from common.output import show

ROOT = Path(__file__).resolve().parent.parent
BESIDE = {'part3/threads': 'part3-v1.0'}  # side roads: what each is compared with; nothing comes after them
PYTHON2_ACCEPT = 'common/python2_accept'
WAYS = """
  make part2-final APP=flaskapp:app    ... with another of part2/apps
  make part3-v1.2 PORT=9000            ... on another port than 8888
  make part3-v1.2 PEP475=off           ... with the accept() of Python 2
  make part3-v1.2 PYTHON=python3.13    ... with another Python"""


class Stage(NamedTuple):
    name: str  # as make knows it: part3-v1.2
    folder: str  # below the root: part3/v1.2

    @property
    def part(self):
        return self.folder.partition('/')[0]

    @property
    def server(self):
        """The path of its server.py, relative to the root."""
        return f'{self.folder}/server.py'

    @property
    def files(self):
        """The names of its modules, server.py first."""
        names = (path.name for path in (ROOT / self.folder).glob('*.py'))
        return sorted(names, key=lambda name: (name != 'server.py', name))

    @property
    def arguments(self):
        """What its server.py is started with: the application, where it runs one."""
        return ['wsgiapp:app'] if self.part in ('part2', 'part4') else []

    @property
    def summary(self):
        """The first line of its docstring."""
        return ast.get_docstring(ast.parse((ROOT / self.server).read_text())).splitlines()[0]


def python_path(pep475, root=ROOT):
    """The PYTHONPATH for a server: the applications, and Python 2's accept() for pep475='off'.

    root    '' for a server that starts in the top folder: a colon in its path would part the PYTHONPATH
    """
    wanted = ['part2/apps'] + [PYTHON2_ACCEPT] * (pep475 == 'off')
    given = os.environ.get('PYTHONPATH')
    return os.pathsep.join([os.path.join(root, folder) for folder in wanted] + ([given] if given else []))


def all_stages():
    """Every folder with a server.py, in the order of the lessons."""
    folders = [path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob('part*/**/server.py')]
    return [Stage(folder.replace('/', '-'), folder) for folder in sorted(folders, key=lesson_order)]


def stages_of(part):
    """Those of one part: stages_of('part3')."""
    return [stage for stage in all_stages() if stage.part == part]


def steps_of(part):
    """Those of one part that lead from one to the next."""
    return [stage for stage in stages_of(part) if is_step(stage.folder)]


def lesson_order(folder):
    """Sorts by part and version; a suffix (-fd-leak) comes before its cure, final last, then all others."""
    part, _, version = folder.partition('/')
    numbers = [int(number) for number in re.findall(r'\d+', version)]
    return part, not is_step(folder), version == 'final', numbers, '-' not in version


def is_step(folder):
    """Whether a stage is one of the steps of its part: a side road is none, nor is a reader's own folder."""
    return bool(re.fullmatch(r'part\d+(/v\d+(\.\d+)*(-[\w-]+)?|/final)?', folder))


def is_own(folder):
    """Whether it is a folder of the reader's own, such as part3/mine."""
    return not is_step(folder) and folder not in BESIDE


def find_stage(name):
    """The stage of that name; exits with one line that lists them where there is none."""
    stages = {stage.name: stage for stage in all_stages()}
    if name not in stages:
        sys.exit(f'{name} is not a stage. The stages: {", ".join(stages)}')
    return stages[name]


def stage_of(command):
    """The stage that a command runs, or None; its words are paths where they name files."""
    return next((stage for stage in all_stages() if str(ROOT / stage.server) in command), None)


def stage_before(stage):
    """The stage before it in the same part, or None; part 4 goes on where part 2 ends."""
    if stage.name == 'part4-v1.0':
        return find_stage('part2-final')
    if stage.folder in BESIDE:
        return find_stage(BESIDE[stage.folder])
    steps = steps_of(stage.part)
    place = steps.index(stage) if stage in steps else 0
    return steps[place - 1] if place else None


def listed():
    """Every stage with its summary, on 80 columns, and how to run it in another way."""
    for stage in all_stages():
        yield from textwrap.wrap(stage.summary, 79, initial_indent=f'  make {stage.name:<20}',
                                 subsequent_indent=27 * ' ')
    yield from WAYS.splitlines()


if __name__ == '__main__':
    show(listed())
