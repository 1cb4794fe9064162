"""Measures what the stages do, and prints the tables.

    make matrix                      every stage
    make matrix STAGE=part3-v1.2     that one alone
"""
import os
import sys
from functools import partial

from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.stages import all_stages, find_stage
from laboratory.experiments.tables import EXPERIMENTS, measured
from laboratory.instruments.terminal import STYLES, console, run


def table(part, outcomes):
    """The stages of a part as columns, its questions as rows."""
    heads = [name.removeprefix(f'{part}-').replace('-', '-\n', 1) for name in outcomes]
    rows = Table(part.replace('part', 'part '), *heads, show_lines=True)
    for experiment in EXPERIMENTS[part]:
        cells = [row[experiment.__name__] for row in outcomes.values()]
        rows.add_row(experiment.__doc__, *(f'[{STYLES.get(cell, "dim")}]{cell}[/]' for cell in cells))
    return rows


def main():
    name = os.environ.get('STAGE')
    stages = [find_stage(name)] if name else all_stages()
    if name and stages[0].part not in EXPERIMENTS:
        sys.exit(f'{name}: there are no experiments for it')
    follow = partial(track, description='Measuring', console=Console(stderr=True), transient=True)
    for part, outcomes in measured(stages, follow).items():
        console.print(table(part, outcomes))


if __name__ == '__main__':
    run(main)
