"""Shows the diff from one stage to the next, or between any two.

    make diff-part3-v1.2
    make diff FROM=part3-v1.1 TO=part3-final

NO_COLOR=1 leaves the colours out, FORCE_COLOR=1 keeps them in a pipe.
"""
import difflib
import os
import sys

from common.output import show
from common.stages import ROOT, find_stage, is_step, stage_before

COLOURS = {'+': '\x1b[32m', '-': '\x1b[31m', '@': '\x1b[36m'}  # by the first character of a line


def diff_lines(before, after):
    """The lines of the diff between two stages, without line ends."""
    lines = []
    for name in dict.fromkeys([*before.files, *after.files]):
        texts, names = [], []
        for stage in before, after:
            path = ROOT / stage.folder / name
            texts.append(path.read_text().splitlines() if path.exists() else [])
            names.append(f'{stage.folder}/{name}' if path.exists() else '/dev/null')
        lines += difflib.unified_diff(*texts, *names, lineterm='')
    return lines


def coloured(lines):
    """The lines as a terminal shows them; without colours in a pipe, and where NO_COLOR is set."""
    wanted = os.environ.get('FORCE_COLOR') or sys.stdout.isatty()
    if not wanted or os.environ.get('NO_COLOR'):
        return lines
    return [f'{COLOURS[line[0]]}{line}\x1b[0m' if line[:1] in COLOURS else line for line in lines]


def main(name=None):
    names = os.environ.get('FROM'), os.environ.get('TO')
    if name and any(names) or not name and not all(names):
        sys.exit('Name one stage, make diff-part3-v1.2, or two: make diff FROM=part3-v1.1 TO=part3-final')
    if name:
        after = find_stage(name)
        before = stage_before(after)
        if before is None:
            first = 'the first stage of its part: no stage comes before it' if is_step(after.folder) else (
                f'no step: name the stage that it is compared with, make diff FROM=... TO={name}')
            sys.exit(f'{name} is {first}')
    else:
        before, after = map(find_stage, names)
    show(coloured(diff_lines(before, after)))


if __name__ == '__main__':
    main(*sys.argv[1:])
