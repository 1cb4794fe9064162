"""Writes what the READMEs show of the code: the diffs between stages, the tables of behaviours."""
import sys

from common import stages
from common.diff import step
from laboratory.experiments import tables
from laboratory.instruments.terminal import run

DIFF_HEADING = '## Diff to the stage before\n'


def table(part, outcomes):
    """A table of behaviours in Markdown: a row for each stage, a column for each experiment."""
    rows = [[part.replace('part', 'part '), *(column.__doc__ for column in tables.EXPERIMENTS[part])]]
    rows.append(['---'] * len(rows[0]))
    for name, row in outcomes.items():
        cells = [row[column.__name__].replace('bug', '**bug**') for column in tables.EXPERIMENTS[part]]
        rows.append([name.removeprefix(f'{part}-'), *cells])
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def fresh_texts(outcomes):
    """{path: text as it should be} for every README that shows something of the code.

    outcomes: what to write into the tables, in the form that tables.measured() returns.
    """
    texts = {}
    for stage in filter(stages.stage_before, stages.all_stages()):
        diff = '\n'.join(step(stages.stage_before(stage), stage))
        path = stages.ROOT / stage.folder / 'README.md'
        story = path.read_text().partition(DIFF_HEADING)[0]
        texts[path] = f'{story}{DIFF_HEADING}\n```diff\n{diff}\n```\n'
    path = stages.ROOT / 'README.md'
    text = path.read_text()
    for part in outcomes:
        before, begin, rest = text.partition(f'<!-- measured: {part} -->\n')
        _, end, after = rest.partition('<!-- end -->\n')
        if not end:
            sys.exit(f'README.md has no place for the table of {part}')
        text = before + begin + table(part, outcomes[part]) + end + after
    texts[path] = text
    return texts


def main():
    for path, text in fresh_texts(tables.measured(stages.all_stages())).items():
        path.write_text(text)


if __name__ == '__main__':
    run(main)
