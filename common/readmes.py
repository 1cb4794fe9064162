"""Writes what the READMEs show of the code: the diffs between stages, the tables of behaviours."""
import difflib
import re

from common import experiments, stages, wsgi_experiments

DIFF_HEADING = '## Diff to the stage before\n'


def diff(stage):
    """The diff from the stage before, as text."""
    before = stages.stage_before(stage)
    texts = [(stages.ROOT / path).read_text().splitlines() for path in (before.server, stage.server)]
    return '\n'.join(difflib.unified_diff(*texts, before.server, stage.server, lineterm=''))


def table(part, columns):
    """A table of behaviours in Markdown: a row for each stage, a column for each experiment."""
    rows = [[part.replace('part', 'part '), *(column.__doc__ for column in columns)]]
    rows.append(['---'] * len(rows[0]))
    for name, outcomes in stages.expected(part).items():
        cells = [outcomes[column.__name__].replace('bug', '**bug**') for column in columns]
        rows.append([name.removeprefix(f'{part}-'), *cells])
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def fresh_texts():
    """{path: text as it should be} for every README that shows something of the code."""
    texts = {}
    for stage in filter(stages.stage_before, stages.all_stages()):
        path = stages.ROOT / stage.folder / 'README.md'
        story = path.read_text().partition(DIFF_HEADING)[0]
        texts[path] = f'{story}{DIFF_HEADING}\n```diff\n{diff(stage)}\n```\n'
    path = stages.ROOT / 'README.md'
    text = path.read_text()
    for part, columns in ('part3', experiments.PART3), ('part2', wsgi_experiments.PART2):
        heading = part.replace('part', 'part ')
        text = re.sub(rf'^\| {heading} \|.*\n(\|.*\n)*', table(part, columns), text, flags=re.MULTILINE)
    texts[path] = text
    return texts


if __name__ == '__main__':
    for path, text in fresh_texts().items():
        path.write_text(text)
