"""What the READMEs say is true: their consoles are typed in, their diffs and tables are fresh."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from common.stages import ROOT, all_stages
from laboratory import readmes
from laboratory.experiments.tables import EXPERIMENTS, expected
from laboratory.instruments import kernel
from laboratory.instruments.process import ServerFailed, ServerProcess

READMES = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob('*.md'), *ROOT.glob('part*/**/*.md')]]
CONSOLE = re.compile(r'^```console\n(.*?)^```$', re.MULTILINE | re.DOTALL)
STARTS_A_SERVER = re.compile(r"(make part|python3 part|sh -c 'ulimit)(?!.*PORT=)")
THE_SERVER = re.compile(r"\$\(pgrep -of '(.+?)'\)")


class Reader:
    """Types what a README says: servers in one terminal, where the next one ends the one before,
    all else in another. The README's port 8888 stands for the port that the kernel chose."""

    def __init__(self, need):
        self.need = need
        self.server = None
        self.read = 0  # how much of the server's output was compared
        path = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
        self.env = {**os.environ, 'PYTHON': sys.executable, 'PATH': path}

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
            if STARTS_A_SERVER.match(command):
                self.start(command, expected)
            else:
                compare(expected, self.run(command))

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
        for tool in re.findall(r'\b(curl|telnet|ss|ps|pgrep)\b', command):
            self.need(tool)
        env = self.env
        if self.server:  # nobody types before it has done what it has to do
            self.server.let_rest()
            for pattern in THE_SERVER.findall(command):  # others of the same name run beside it
                assert str(self.server.pid) in subprocess.getoutput(f"pgrep -f '{pattern}'").split()
            command = THE_SERVER.sub(str(self.server.pid), command)
            command = command.replace('8888', str(self.server.port))
            env = {**env, 'PORT': str(self.server.port)}
        printed = run_in_shell(command, env)
        return printed.replace(str(self.server.port), '8888') if self.server else printed

    def stop(self):
        if self.server:
            self.server.stop()
            self.server = None


def run_in_shell(command, env):
    """What a command prints; it is ended after 60 seconds, with all that it has started.

    It prints into a file: the end of a pipe would not come while anything of it lives.
    """
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        shell = subprocess.Popen(['sh', '-c', command], cwd=ROOT, env=env, start_new_session=True,
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            shell.wait(60)
        finally:
            kernel.seen(lambda: os.killpg(shell.pid, signal.SIGKILL), None)
            shell.wait()
        output.seek(0)
        return output.read()


def matches(expected, got):
    """Whether both are the same but for white space, and for what stands where a ... is expected."""
    parts = re.split(r'\s*\.\.\.\s*', ' '.join(expected.split()))
    return re.fullmatch('.*'.join(map(re.escape, parts)), ' '.join(got.split())) is not None


def compare(expected, got):
    assert matches(expected, got), f'the README says:\n{expected}\nbut there is:\n{got}'


@pytest.fixture
def reader(tool):
    reader = Reader(tool)
    yield reader
    reader.stop()


@pytest.mark.long
@pytest.mark.parametrize('readme', READMES)
def test_what_a_readme_types_prints_what_it_says(readme, reader):
    for console in CONSOLE.findall((ROOT / readme).read_text()):
        reader.type(console)


def test_a_readme_command_that_goes_on_does_not_block_the_tests():
    began = time.monotonic()
    assert run_in_shell('sleep 60 & echo mick', os.environ) == 'mick\n'
    assert time.monotonic() - began < 30


FRESH = readmes.fresh_texts({part: expected(part) for part in EXPERIMENTS})


@pytest.mark.parametrize('path', FRESH, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_generated_parts_of_a_readme_are_fresh(path):
    assert path.read_text() == FRESH[path], 'run `make readmes`'


@pytest.mark.parametrize('stage', all_stages(), ids=lambda stage: stage.name)
def test_a_stage_has_a_readme_with_all_its_sections(stage):
    text = (ROOT / stage.folder / 'README.md').read_text()
    assert re.match(r'# .+\n\n\*\*Status: .+\*\*\n', text)
    sections = re.findall(r'^## (.+)', text, re.MULTILINE)
    works = stage.name in ('part1', 'part2-final', 'part3-final')
    limits = 'What it does not do' if works else 'The bug it still has'
    assert sections == ['What is new', 'Predict', 'Try it', limits, 'Why']
    assert text.count('<summary>Answer to the prediction</summary>') == 1


@pytest.mark.parametrize('stage', list(filter(readmes.is_traced, all_stages())), ids=lambda stage: stage.name)
def test_the_diagram_of_a_stage_is_what_a_trace_shows(stage, tool):
    tool('strace')
    text = readmes.page_of(stage).read_text()
    assert text == readmes.filled(text, 'trace', readmes.sequence(stage)), 'run `make readmes`'


def test_a_console_is_typed_in_one_terminal_which_the_paragraph_above_names():
    for readme in READMES:
        text = (ROOT / readme).read_text()
        above = re.findall(r'\n\n((?:.+\n)+)\n```console', text)
        assert len(above) == text.count('```console')
        assert [paragraph for paragraph in above if 'erminal' not in paragraph] == []


@pytest.mark.parametrize('readme', READMES)
def test_every_link_to_a_file_leads_somewhere(readme):
    for target in re.findall(r'\]\(([^)#:]+)[^):]*\)', (ROOT / readme).read_text()):
        assert (ROOT / readme).parent.joinpath(target).exists(), target
