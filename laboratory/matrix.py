"""Measures what the stages do, and prints the tables. The exit status is 1 where one is not as expected.

    make matrix                      every stage
    make matrix STAGE=part3-v1.2     that one alone
"""
from functools import partial

from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.stages import all_stages, find_stage
from laboratory.bugs import BUGS, EXPECTED, UNKNOWN, expected, measured, named_stage
from laboratory.instruments.telling import said
from laboratory.instruments.terminal import STYLES, console, run


def table(part, rows):
    """The stages of a part as columns, its bugs as rows; rows is {name of the bug: {stage: Result}}."""
    heads = [name.removeprefix(f'{part}-').replace('-', '-\n', 1) for name in next(iter(rows.values()))]
    grid = Table(part.replace('part', 'part '), *heads, show_lines=True)
    for name, row in rows.items():
        cells = [result.outcome for result in row.values()]
        grid.add_row(BUGS[name].asks, *(f'[{STYLES.get(cell, "dim")}]{cell}[/]' for cell in cells))
    return grid


def main():
    _, stage = named_stage('STAGE')
    stages = [stage] if stage else [stage for stage in all_stages() if stage.part in EXPECTED]
    follow = partial(track, description='Measuring', console=Console(stderr=True), transient=True)
    differ = []
    for part, rows in measured(stages, follow).items():
        console.print(table(part, rows))
        differ += [(stage, bug, result) for bug, row in rows.items() for stage, result in row.items()
                   if expected(find_stage(stage)).get(bug, result.outcome) != result.outcome]
    for stage in stages:
        if not expected(stage):
            console.print(f'{stage.name}: {UNKNOWN}')
    for stage, bug, result in differ:
        console.print(f'{stage}, {bug}: not as expected: {result.outcome}, {said(result)}', markup=False)
    return 1 if differ else 0


if __name__ == '__main__':
    run(main)
