"""Prints all commands on one screen, or what a command does.

    python3 -m common.help
    python3 -m common.help grade
"""
import ast
import re
import sys
import textwrap

from common.output import show
from common.stages import ROOT, all_stages, steps_of


def screen():
    """The parts and their stages, then each comment ## of the Makefile; fits on 80 columns."""
    parts = dict.fromkeys(stage.part for stage in all_stages())
    ends = [list(dict.fromkeys([steps_of(part)[0].name, steps_of(part)[-1].name])) for part in parts]
    yield from textwrap.wrap('The stages: ' + ', '.join(map(' to '.join, ends)), 79)
    for line in (ROOT / 'Makefile').read_text().splitlines():
        if comment := re.fullmatch('## (make [^:]*): (.*)', line):
            yield f'  {comment[1]:<36}{comment[2]}'


def page(command):
    """The docstring of the module that a command runs."""
    path, = [path for path in ROOT.glob(f'*/{command}.py') if path.parent.name in ('common', 'laboratory')]
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()


if __name__ == '__main__':
    show(page(*sys.argv[1:]) if sys.argv[1:] else screen())
