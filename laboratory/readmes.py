"""Writes what the pages show of the code: the diffs, the tables of behaviours, the diagrams.

Each stands between a line <!-- diff -->, <!-- measured: part3 --> or <!-- trace --> and a line <!-- end -->.
"""
import sys

from common import stages
from common.diff import diff_lines
from laboratory.bugs import BUGS, expected, measured
from laboratory.instruments.client import one_request
from laboratory.instruments.events import diagram
from laboratory.instruments.pages import filled, markdown
from laboratory.instruments.process import server_path
from laboratory.instruments.terminal import run
from laboratory.instruments.timeline import need_strace, traced

LONG = 60  # lines; a longer diff is folded away
TABLE_PAGES = {'part4': 'part4/README.md'}  # those of the other parts are in README.md
TOLD = {  # whose scene is traced; the other stages are traced with one request
    'part4-v1.2': BUGS['dead_worker'], 'part4-v1.3': BUGS['stuck_worker'], 'part4-v1.4': BUGS['one_request']}


def page_of(stage):
    return stages.ROOT / stage.folder / 'README.md'


def table(part, rows):
    """A table of behaviours in Markdown: a row for each bug, a column for each stage, as in EXPECTED."""
    names = next(iter(rows.values()))
    head = [part.replace('part', 'part '), *(name.removeprefix(f'{part}-') for name in names)]
    return markdown(head, [[BUGS[name].asks, *(cell.replace('bug', '**bug**') for cell in row.values())]
                           for name, row in rows.items()])


def diff(stage):
    """The step to a stage from the one before it, in Markdown."""
    before = stages.stage_before(stage)
    lines = diff_lines(before, stage)
    shown = '```diff\n' + '\n'.join(lines) + '\n```\n'
    if len(lines) <= LONG:
        return shown
    return f'<details><summary>The diff from {before.name}</summary>\n\n{shown}\n</details>\n'


def is_traced(stage):
    """Whether its page has a diagram, which has one client: part 4's event loops have none."""
    return stage.name.startswith(('part3-', 'part4-v1.')) and not stages.is_own(stage.folder)


def sequence(stage):
    """What a stage does, traced with the accept() of Python 2 and one worker, in Markdown (Linux)."""
    application, scene = stage.arguments, one_request
    env = {'PYTHONPATH': server_path('off'), 'WORKERS': '1'}
    if bug := TOLD.get(stage.name):
        application, scene, env = bug.apps[:1], bug.scene, env | bug.env
    timeline = traced([sys.executable, stage.server, *application], env, scene, 'off')
    return f'```mermaid\n{diagram(timeline)}```\n'


def fresh_texts(tables):
    """{path: text as it should be} for every page that shows a diff or a table.

    tables    what to write into them: {part: {name of the bug: {stage: outcome}}}
    """
    texts = {page_of(stage): filled(page_of(stage).read_text(), 'diff', diff(stage))
             for stage in filter(stages.stage_before, stages.all_stages())}
    for part, rows in tables.items():
        path = stages.ROOT / TABLE_PAGES.get(part, 'README.md')
        text = texts.get(path) or path.read_text()
        texts[path] = filled(text, f'measured: {part}', table(part, rows))
    return texts


def main():
    need_strace()
    fresh_texts({})  # a page without the place for its diff is told before all is measured
    results = measured(list(filter(expected, stages.all_stages())))
    texts = fresh_texts({part: {name: {stage: result.outcome for stage, result in row.items()}
                                for name, row in rows.items()} for part, rows in results.items()})
    for stage in filter(is_traced, stages.all_stages()):
        page = page_of(stage)
        texts[page] = filled(texts.get(page) or page.read_text(), 'trace', sequence(stage))
    for path, text in texts.items():
        path.write_text(text)


if __name__ == '__main__':
    run(main)
