"""Measures what every stage does, and prints the tables."""
import argparse
from functools import partial

from rich.progress import track
from rich.table import Table

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
    argparse.ArgumentParser(prog='make matrix', description=__doc__).parse_args()
    for part, outcomes in measured(partial(track, description='Measuring', console=console)).items():
        console.print(table(part, outcomes))


if __name__ == '__main__':
    run(main)
