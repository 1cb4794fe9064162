"""What the pages say is true: their consoles are typed in, their diffs and tables are fresh."""
import os
import re
import subprocess

import pytest

from common.stages import BESIDE, ROOT, all_stages, is_own
from laboratory import pictures, readmes, replay
from laboratory.bugs import EXPECTED
from laboratory.instruments import kernel
from laboratory.instruments.process import ServerFailed, ServerProcess
from tests.helpers import ON_PATH, run_in_shell
from tests.test_replay import in_page

STAGES = [stage for stage in all_stages() if not is_own(stage.folder)]  # a reader's own folder is none
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in [*ROOT.glob('*.md'), *ROOT.glob('part*/*.md'), *map(readmes.page_of, STAGES)]}
CONSOLE = re.compile(r'^```console\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TYPED = [page for page, text in PAGES.items() if CONSOLE.search(text)]
REPLAY = re.compile(r'(?:\[step (\d+)[^]]*)?\]\((?:\.\./)*replays/([\w.-]+)#(\d+)\)', re.IGNORECASE)
STARTS_A_SERVER = re.compile(r"(make part|python3 (part|/tmp)|sh -c 'ulimit)(?!.*PORT=)")


class Reader:
    """Types what a page says: servers in one terminal, where the next one ends the one before, all
    else in another. Port 8888 of the pages is the one that the kernel chose, and /tmp is that folder."""

    def __init__(self, need, folder):
        self.need, self.folder = need, str(folder)
        self.server = None
        self.read = 0  # how much of the server's output was compared
        self.env = {**os.environ, **ON_PATH}

    def type(self, console):
        """Run a console block: a '$ ' starts a command, other lines are its output."""
        continued, *steps = re.split(r'^\$ ', console, flags=re.MULTILINE)
        if continued:
            self.compare(continued)
        for step in steps:
            command, _, expected = step.partition('\n')
            while command.count("'") % 2:  # the shell prints > and waits for the end of the quotes
                line, _, expected = expected.partition('\n')
                command += '\n' + line.removeprefix('> ')
            here = command.replace('/tmp', self.folder)
            if STARTS_A_SERVER.match(command):
                self.start(here, expected)
            else:
                compare(expected, self.run(here))

    def start(self, command, expected):
        self.stop()
        try:
            self.server, self.read = ServerProcess(['sh', '-c', command], env=self.env).__enter__(), 0
        except ServerFailed as failed:
            compare(expected, str(failed).partition('\n')[2])
        else:
            self.compare(expected)

    def compare(self, expected):
        """Compare what the server has printed since the last time, once it is all there."""
        kernel.eventually(lambda: matches(expected, self.output()), seconds=5)
        compare(expected, self.output())
        self.read = len(self.server.output())

    def output(self):
        return self.server.output()[self.read:].replace(str(self.server.port), '8888')

    def run(self, command):
        for tool in re.findall(r'\b(curl|ss|ps|pgrep|prlimit)\b', command):
            self.need(tool)
        if not self.server:
            return run_in_shell(command, self.env)
        self.server.let_rest()  # nobody types before it has done what it has to do
        port = str(self.server.port)
        return run_in_shell(command.replace('8888', port), {**self.env, 'PORT': port}).replace(port, '8888')

    def stop(self):
        if self.server:
            self.server.stop()
            self.server = None


def matches(expected, got):
    """Whether both are the same but for white space, and for what stands where a ... is expected."""
    parts = re.split(r'\s*\.\.\.\s*', ' '.join(expected.split()))
    return re.fullmatch('.*'.join(map(re.escape, parts)), ' '.join(got.split())) is not None


def compare(expected, got):
    assert matches(expected, got), f'the page says:\n{expected}\nbut there is:\n{got}'


@pytest.fixture
def reader(tool, tmp_path):
    reader = Reader(tool, tmp_path)
    yield reader
    reader.stop()


@pytest.mark.long
@pytest.mark.parametrize('page', TYPED)
def test_what_a_page_types_prints_what_it_says(page, reader):
    for console in CONSOLE.findall(PAGES[page]):
        reader.type(console)


def test_what_a_command_of_a_page_leaves_behind_is_ended():
    pid = int(run_in_shell('sleep 600 & echo $!', os.environ))
    assert kernel.eventually(lambda: not kernel.alive(pid))


def test_the_diffs_and_tables_are_fresh():
    fresh = readmes.fresh_texts(EXPECTED)
    assert len(fresh) > len(EXPECTED)
    assert [path for path, text in fresh.items() if path.read_text() != text] == [], 'run `make readmes`'


@pytest.mark.parametrize('stage', list(filter(readmes.is_traced, STAGES)), ids=lambda stage: stage.name)
def test_the_diagram_of_a_stage_is_what_a_trace_shows(stage, tool):
    tool('strace')
    text = readmes.page_of(stage).read_text()
    assert text == readmes.filled(text, 'trace', readmes.sequence(stage)), 'run `make readmes`'


@pytest.mark.parametrize('stage', STAGES, ids=lambda stage: stage.name)
def test_a_stage_has_a_page_with_all_its_sections(stage):
    text = readmes.page_of(stage).read_text()
    assert re.match(r'# .+\n\n\*\*Status: .+\*\*\n', text)
    sections = re.findall(r'^## (.+)', text, re.MULTILINE)
    works = stage.name in ('part1', 'part2-final', 'part3-final')
    limits = 'What it does not do' if works else (
        'The weakness it has' if stage.folder in BESIDE else 'The bug it still has')
    assert sections == ['What is new', 'Predict', 'Try it', limits, 'Why']
    assert text.count('<summary>Answer to the prediction</summary>') == 1


@pytest.mark.parametrize('stage', STAGES, ids=lambda stage: stage.name)
def test_the_code_on_a_page_is_that_of_its_stage(stage):
    text = readmes.page_of(stage).read_text()
    code = [(ROOT / stage.folder / name).read_text() for name in stage.files] + CONSOLE.findall(text)
    shown = re.findall(r'^```python\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for line in ''.join(shown).splitlines()]
    assert [line for line in lines if not any(line in part for part in code)] == []


@pytest.mark.parametrize('page', TYPED)
def test_a_console_is_typed_in_one_terminal_which_the_paragraph_above_names(page):
    above = re.findall(r'\n\n((?:.+\n)+)\n```console', PAGES[page])
    assert len(above) == PAGES[page].count('```console')
    assert [paragraph for paragraph in above if 'erminal' not in paragraph] == []


@pytest.mark.parametrize('page', PAGES)
def test_every_link_to_a_file_leads_somewhere(page):
    targets = re.findall(r'\]\(([^)#:]+)[^):]*\)', PAGES[page])
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize('page', [page for page in PAGES if REPLAY.search(PAGES[page])])
def test_a_link_to_a_replay_names_a_step_that_is_one_of_its_moments(page):
    for named, name, step in REPLAY.findall(PAGES[page]):
        moments = [str(moment['step']) for moment in in_page((replay.FOLDER / name).read_text())['moments']]
        assert step in moments and named in ('', step), f'replays/{name}#{step}'


def test_the_page_of_a_stage_that_has_a_replay_links_to_it():
    links = {page: {name for _, name, _ in REPLAY.findall(text)} for page, text in PAGES.items()}
    names = {stage: set() for stage, _ in replay.REPLAYS}
    for stage, scene in replay.REPLAYS:
        names[stage].add(f'{replay.name_of(stage, scene)}.html')
    pages = {stage.name: readmes.page_of(stage).relative_to(ROOT).as_posix() for stage in STAGES}
    assert [stage for stage in names if not names[stage] & links[pages[stage]]] == []
    assert pictures.REPLAY in PAGES['README.md']


def test_every_command_that_a_page_names_is_there():
    words = {name for text in PAGES.values() for name in re.findall(r'`make ([a-z][\w.-]+)', text)}
    words -= {'part3-mine', 'bug-x'}  # a folder of the reader's own, and what is answered with all names
    asked = subprocess.run(['make', '--question', *words], cwd=ROOT, capture_output=True, text=True)
    assert 'no such command' not in asked.stderr
