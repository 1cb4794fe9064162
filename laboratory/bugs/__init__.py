"""One file for each bug, which says all about it. It may import common, instruments and what .venv has.

expected.txt says what each stage is expected to answer: a row for each bug, a column for each stage. Its
rows are in the order in which the experiments run, its columns in that of the lessons.
"""
import os
import re
import sys
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from common import settings
from common.stages import BESIDE, find_stage, stages_of, steps_of
from laboratory.instruments.experiment import BUG, PASS, WORDLESS, Lesson, measure
from laboratory.instruments.process import stage_server
from laboratory.instruments.runs import at_once

TABLE = Path(__file__).with_name('expected.txt').read_text()


def rows_of(block):
    """{name of a bug: {name of a stage: outcome}} of one block of the table."""
    head, *rows = [re.split(r' {2,}', line) for line in block.strip().splitlines()]
    part, *stages = head
    for name, *cells in rows:
        if len(cells) != len(stages):
            sys.exit(f'laboratory/bugs/expected.txt: {name} has {len(cells)} cells for {len(stages)} stages')
    return {name: {f'{part}-{stage}': cell for stage, cell in zip(stages, cells, strict=True)}
            for name, *cells in rows}


UNKNOWN = 'laboratory/bugs/expected.txt does not say what is expected of it'  # of a stage
EXPECTED = {block.split()[0]: rows_of(block) for block in TABLE.split('\n\n')}  # by part
BUGS = {name: import_module(f'{__name__}.{name}').BUG for rows in EXPECTED.values() for name in rows}


def bugs_of(part):
    """The bugs that the experiments of a part look for."""
    return [BUGS[name] for name in EXPECTED.get(part, {})]


def part_of(bug):
    """The part whose stages cure a bug."""
    return next(part for part, rows in EXPECTED.items() if bug.name in rows)


def asked(part):
    """The bugs that a server of that part is graded for: in part 4 those of part 2 come first."""
    return [*(bugs_of('part2') if part == 'part4' else []), *bugs_of(part)]


def expected(stage):
    """{name of a bug: outcome} of a stage, {} for one that the table does not know."""
    passed = dict.fromkeys(EXPECTED['part2'], PASS) if stage.part == 'part4' else {}
    own = {name: row[stage.name] for name, row in EXPECTED.get(stage.part, {}).items() if stage.name in row}
    return {**passed, **own} if own else {}


@cache
def known_stages(part):
    """The steps of a part that the table knows: neither a side road nor a folder of the reader's own."""
    return [stage for stage in steps_of(part) if expected(stage)]


def beside(part):
    """The side roads of a part."""
    return [stage for stage in stages_of(part) if stage.folder in BESIDE]


def named_stage(variable):
    """The part that PART names, or that of the stage in this variable; and the stage, None for none."""
    part, name = 'part' + settings.choice('PART', '3', '2', '4'), os.environ.get(variable)
    if not name:
        return part, None
    stage = find_stage(name)
    if stage.part not in EXPECTED:
        sys.exit(f'{variable}={name}: there are no experiments for it, only for parts 2, 3 and 4')
    if os.environ.get('PART') and stage.part != part:
        sys.exit(f'PART={part[-1]} {variable}={name}: that stage belongs to part {stage.part[-1]}')
    return stage.part, stage


def scene_of(name):
    """The bug whose scene has that name, None for ''; exits with one line where it is not known."""
    bug = BUGS.get(name.replace('-', '_'))
    if name and not bug:
        sys.exit(f'SCENE={name} is not a scene: use one of {", ".join(BUGS).replace("_", "-")}')
    return bug


def cure(bug):
    """The first stage after the last one that does not pass; None where there is none."""
    stages = known_stages(part_of(bug))
    bad = [stage for stage in stages if expected(stage)[bug.name] != PASS]
    after = stages[stages.index(bad[-1]) + 1:] if bad else []
    return after[0] if after else None


def stage_with(bug):
    """The stage that shows a bug: the one before its cure, or a side road; None where no stage has it."""
    cured = cure(bug)
    stages = known_stages(cured.part) if cured else []
    before = [stages[stages.index(cured) - 1], *beside(cured.part)] if cured in stages[1:] else []
    return next((stage for stage in before if expected(stage)[bug.name] == BUG), None)


def lessons(part):
    """The lessons of a part in their order. A stage that cures no bug of a step is no lesson."""
    cures = {bug: None if stage_with(bug) in beside(part) else cure(bug) for bug in asked(part)}
    stages = known_stages(part)
    earlier = [bug for bug, stage in cures.items() if stage not in stages]
    found = []
    for before, stage in pairwise(stages):
        if bugs := [bug for bug in cures if cures[bug] == stage]:
            found.append(Lesson(before, stage, bugs, earlier))
            earlier = [*bugs, *earlier]
    return found


def explained(results, measure):
    """The results of a server in part 3; where EINTR explains an end without a word, that comes first."""
    eintr = BUGS['eintr']
    ends = [bug for bug, result in results.items() if result.cause == WORDLESS and bug in bugs_of('part3')]
    found = ends and (results.get(eintr) or measure(eintr))
    if not found or found.outcome != BUG:
        return results
    return {eintr: found, **results, **{bug: results[bug]._replace(cause=eintr.name) for bug in ends}}


def measured(stages, follow=lambda results, total: results):
    """Run every experiment of their part on those stages: {part: {name of the bug: {stage: Result}}}.

    follow    is given the results as they come, and yields them again, to show how far it is
    """
    cells = [(stage, bug) for stage in stages for bug in bugs_of(stage.part)]
    results = at_once([partial(measure, bug, partial(stage_server, stage)) for stage, bug in cells])
    found = {}
    for (stage, bug), result in zip(cells, follow(results, total=len(cells)), strict=True):
        found.setdefault(stage.part, {}).setdefault(bug.name, {})[stage.name] = result
    return found
