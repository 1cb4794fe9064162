"""Shows the step between two stages: diff.py TO (from the stage before it), or diff.py FROM TO."""
import difflib
import os
import sys

from common.stages import ROOT, find_stage, stage_before

COLOURS = {'+': '\x1b[32m', '-': '\x1b[31m', '@': '\x1b[36m'}  # by the first character of a line


def step(before, after):
    """The lines of the diff between two stages, without line ends."""
    texts = [(ROOT / stage.server).read_text().splitlines() for stage in (before, after)]
    return list(difflib.unified_diff(*texts, before.server, after.server, lineterm=''))


def coloured(lines):
    """The lines as a terminal shows them; without colours in a pipe, and where NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get('NO_COLOR'):
        return lines
    return [f'{COLOURS[line[0]]}{line}\x1b[0m' if line[:1] in COLOURS else line for line in lines]


def main(*names):
    stages = [find_stage(name) for name in names]
    if len(stages) == 1:
        if stage_before(stages[0]) is None:
            sys.exit(f'{stages[0].name} is the first stage of its part: none is before it')
        stages.insert(0, stage_before(stages[0]))
    if len(stages) != 2:
        sys.exit('Name two stages: make diff FROM=part3-v1.1 TO=part3-final')
    print(*coloured(step(*stages)), sep='\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
