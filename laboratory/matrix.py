"""Measures what every stage does, and prints the tables."""
import argparse
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rich.progress import track
from rich.table import Table

from common import experiments, stages, wsgi_experiments
from common.process import stage_server
from laboratory.terminal import console, run

COLUMNS = {'part3': experiments.PART3, 'part2': wsgi_experiments.PART2}
AT_ONCE = 6  # experiments; each waits more than it works
STYLES = {'bug': 'bold red', 'holds': 'green'}


def measured():
    """Run every experiment on every stage: {part: {stage name: {name of the experiment: outcome}}}."""
    cells = [(stage, experiment) for part, columns in COLUMNS.items()
             for stage in stages.stages_of(part) for experiment in columns]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(experiments.measure, experiment, partial(stage_server, stage))
                for stage, experiment in cells]
        try:
            verdicts = [each.result() for each in track(runs, 'Measuring', console=console)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    outcomes = {part: defaultdict(dict) for part in COLUMNS}
    for (stage, experiment), verdict in zip(cells, verdicts, strict=True):
        outcomes[stage.part][stage.name][experiment.__name__] = verdict.outcome
    return outcomes


def table(part, outcomes):
    """The stages of a part as columns, its questions as rows."""
    heads = [name.removeprefix(f'{part}-').replace('-', '-\n', 1) for name in outcomes]
    rows = Table(part.replace('part', 'part '), *heads, show_lines=True)
    for experiment in COLUMNS[part]:
        cells = [row[experiment.__name__] for row in outcomes.values()]
        rows.add_row(experiment.__doc__, *(f'[{STYLES.get(cell, "dim")}]{cell}[/]' for cell in cells))
    return rows


def main():
    argparse.ArgumentParser(prog='make matrix', description=__doc__).parse_args()
    for part, outcomes in measured().items():
        console.print(table(part, outcomes))


if __name__ == '__main__':
    run(main)
