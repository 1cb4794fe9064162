"""Writes what the pages show of the code: the diffs, the tables of behaviours, the diagrams.

Each stands between a line <!-- diff -->, <!-- measured: part3 --> or <!-- trace --> and a line <!-- end -->.
"""
import sys

from common import stages
from common.diff import step
from laboratory.experiments import tables
from laboratory.experiments.scenes import SCENES
from laboratory.experiments.stories import STORIES
from laboratory.instruments.diagram import diagram
from laboratory.instruments.pages import filled, markdown
from laboratory.instruments.process import server_path
from laboratory.instruments.terminal import run
from laboratory.instruments.timeline import need_strace, one_request, traced

LONG = 60  # lines; a longer diff is folded away
TABLE_PAGES = {'part4': 'part4/README.md'}  # those of the other parts are in README.md
TRACED = 'part3', 'part4'  # whose pages have a diagram
# but not these: a diagram has one client
LOOPS = 'part4-v2.0', 'part4-v2.1', 'part4-v2.2', 'part4-v2.3', 'part4-final'


def page_of(stage):
    return stages.ROOT / stage.folder / 'README.md'


def table(part, outcomes):
    """A table of behaviours in Markdown: a row for each experiment, a column for each stage."""
    head = [part.replace('part', 'part '), *(name.removeprefix(f'{part}-') for name in outcomes)]
    rows = [[experiment.__doc__,
             *(row[experiment.__name__].replace('bug', '**bug**') for row in outcomes.values())]
            for experiment in tables.EXPERIMENTS[part]]
    return markdown(head, rows)


def diff(stage):
    """The step to a stage from the one before it, in Markdown."""
    before = stages.stage_before(stage)
    lines = step(before, stage)
    shown = '```diff\n' + '\n'.join(lines) + '\n```\n'
    if len(lines) <= LONG:
        return shown
    return f'<details><summary>The diff from {before.name}</summary>\n\n{shown}\n</details>\n'


TOLD = {  # the scenes that are told; of the other stages one request
    'part4-v1.2': 'dead-worker', 'part4-v1.3': 'stuck-worker', 'part4-v1.4': 'one-request'}


def is_traced(stage):
    return stage.part in TRACED and stage.name not in LOOPS


def sequence(stage):
    """What a stage does, traced with the accept() of Python 2 and one worker, in Markdown (Linux)."""
    application, story = stage.arguments, one_request
    env = {'PYTHONPATH': server_path('off'), 'WORKERS': '1'}
    if stage.name in TOLD:
        setup, story = SCENES[TOLD[stage.name]].setup, STORIES[TOLD[stage.name]]
        application, env = setup.apps[:1], env | setup.env
    timeline = traced([sys.executable, stage.server, *application], env, story, 'off')
    return f'```mermaid\n{diagram(timeline)}```\n'


def fresh_texts(outcomes):
    """{path: text as it should be} for every page that shows a diff or a table.

    outcomes: what to write into the tables, in the form that tables.measured() returns.
    """
    texts = {page_of(stage): filled(page_of(stage).read_text(), 'diff', diff(stage))
             for stage in filter(stages.stage_before, stages.all_stages())}
    for part in outcomes:
        path = stages.ROOT / TABLE_PAGES.get(part, 'README.md')
        text = texts.get(path) or path.read_text()
        texts[path] = filled(text, f'measured: {part}', table(part, outcomes[part]))
    return texts


def main():
    need_strace()
    texts = fresh_texts(tables.measured(stages.all_stages()))
    for stage in filter(is_traced, stages.all_stages()):
        page = page_of(stage)
        texts[page] = filled(texts.get(page) or page.read_text(), 'trace', sequence(stage))
    for path, text in texts.items():
        path.write_text(text)


if __name__ == '__main__':
    run(main)
