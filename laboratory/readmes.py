"""Writes what the pages show of the code: the diffs, the tables of behaviours, the diagrams.

Each stands between a line <!-- diff -->, <!-- measured: part3 --> or <!-- trace --> and a line <!-- end -->.
"""
import sys

from common import stages
from common.diff import step
from laboratory.experiments import tables
from laboratory.instruments.diagram import diagram
from laboratory.instruments.terminal import run
from laboratory.instruments.timeline import need_strace, one_request, traced

LONG = 60  # lines; a longer diff is folded away


def page_of(stage):
    return stages.ROOT / stage.folder / 'README.md'


def filled(text, name, fresh):
    """The text of a page, with something fresh at the place of that name; raises ValueError without one."""
    before, begin, rest = text.partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->\n')
    if not end:
        raise ValueError(f'no <!-- {name} --> and <!-- end --> in {text.partition(chr(10))[0]!r}')
    return before + begin + fresh + end + after


def table(part, outcomes):
    """A table of behaviours in Markdown: a row for each stage, a column for each experiment."""
    rows = [[part.replace('part', 'part '), *(column.__doc__ for column in tables.EXPERIMENTS[part])]]
    rows.append(['---'] * len(rows[0]))
    for name, row in outcomes.items():
        cells = [row[column.__name__].replace('bug', '**bug**') for column in tables.EXPERIMENTS[part]]
        rows.append([name.removeprefix(f'{part}-'), *cells])
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def diff(stage):
    """The step to a stage from the one before it, in Markdown."""
    before = stages.stage_before(stage)
    lines = step(before, stage)
    shown = '```diff\n' + '\n'.join(lines) + '\n```\n'
    if len(lines) <= LONG:
        return shown
    return f'<details><summary>The diff from {before.name}</summary>\n\n{shown}\n</details>\n'


def sequence(stage):
    """What a stage does for one request, traced with the accept() of Python 2, in Markdown (Linux)."""
    timeline = traced([sys.executable, stage.server], {'PYTHONPATH': stages.python_path('off')}, one_request)
    return f'```mermaid\n{diagram(timeline)}```\n'


def fresh_texts(outcomes):
    """{path: text as it should be} for every page that shows a diff or a table.

    outcomes: what to write into the tables, in the form that tables.measured() returns.
    """
    texts = {page_of(stage): filled(page_of(stage).read_text(), 'diff', diff(stage))
             for stage in filter(stages.stage_before, stages.all_stages())}
    path = stages.ROOT / 'README.md'
    texts[path] = path.read_text()
    for part in outcomes:
        texts[path] = filled(texts[path], f'measured: {part}', table(part, outcomes[part]))
    return texts


def main():
    need_strace()
    texts = fresh_texts(tables.measured(stages.all_stages()))
    for stage in stages.stages_of('part3'):
        page = page_of(stage)
        texts[page] = filled(texts.get(page) or page.read_text(), 'trace', sequence(stage))
    for path, text in texts.items():
        path.write_text(text)


if __name__ == '__main__':
    run(main)
