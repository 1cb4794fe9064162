"""You write the server: it begins as a copy of a stage, and is tested whenever you save it.

    make learn                       part 3, in my/server.py
    PART=2 or PART=4                 part 2 or 4, in my/part2 or my/part4
    FROM=part3-v1.2                  begins with a copy of that stage
    SERVER='node my/server.js'       tests a server of your own, see make help-grade

You see the first thing that is wrong with your server: the line that begins with bug says what it
should do and does not do yet. Fix that, and save again. When a lesson passes, n goes on to the next one.

The last line of the screen names all keys. h gives a hint, s shows the bug once more or tells you what
to type to see it, t lists the system calls (on Linux, with strace), and d compares your code with ours.

Your files are never overwritten. To begin again, move them away first.

    GUESS=no                         asks for no predictions
    PATIENCE=35                      how many seconds your server needs to reach its time limits (part 4)

In a pipe, the command tests your server once. Its exit status is 0 if all lessons pass, 1 if one does
not, and 2 if the server could not be tested. (Under make, every status but 0 becomes 2.)
"""
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import product

from rich.console import Group
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from common import settings, stages
from common.diff import COLOURS, step
from laboratory.experiments import course
from laboratory.experiments.hints import hint
from laboratory.experiments.lessons import PREDICTIONS, WHEN_IT_STOPS, filled, hints_for
from laboratory.experiments.stories import STORIES
from laboratory.experiments.tables import AT_ONCE, EXPERIMENTS
from laboratory.experiments.verdicts import NO_VERDICT, RAISED, setup_of
from laboratory.instruments import views
from laboratory.instruments.own import (
    as_one_command,
    as_run,
    own_server,
    start_line,
    try_out,
    why_untested,
    with_app,
)
from laboratory.instruments.process import APPS, PATIENCE, ServerFailed, printable
from laboratory.instruments.saves import EVERY, Files
from laboratory.instruments.terminal import STYLES, Keys, console, predict, run

MINE = 'my'  # the folder of what the reader writes
OWN_PORT = 'It does not listen on the port in the variable PORT, so each test takes longer.'
BUILT = 'The command rebuilds the server each time, so its tests run one at a time.'
SEEN = 7  # lines of what was seen that are shown in any case
LAST_LINES = 10  # of what a server printed
LESS = ['less', '-R', '-Psspace next page   b page before   q back$']  # with colours, and that prompt
CTRL_C = '[dim](Ctrl-C ends)[/]'
WHAT_NOW = 'You see the first thing that it does wrong: fix that, and save.'
SAVED = 'It is tested now, and again whenever you save it.'
NO_FILE = 'It is tested now. The command names no file: press r when you have saved yours.'
THE_END = {
    'part3': 'Go on with make learn PART=2, and then with make learn PART=4.',
    'part2': 'Go on with make learn PART=4, where your server learns to serve many clients at once.',
    'part4': 'How fast is it? make bench QUICK=1 SERVER=... compares it with others. See make help-bench.',
}


class Learner:
    """Where a reader is: in which lesson, and what the last test of the server has found.

    lessons    of the part, see course.lessons()
    command    that starts the server
    folder     where its files are, '' if it is not a copy of a stage
    number     of the lesson, from 0
    patience   the seconds that it needs to reach its time limits
    """

    def __init__(self, lessons, command, folder, number, patience):
        self.lessons, self.command, self.folder, self.number = lessons, command, folder, number
        self.files = Files(command, MINE)
        self.patience = patience
        self.findings, self.untested = [], []
        self.is_placed = False  # whether number is that of the lesson that the reader is in
        self.failed_last = None  # the experiment
        self.hints, self.hinted = 0, ()  # how many the reader has seen, and of which
        self.prediction, self.why_slow = '', ''

    @property
    def lesson(self):
        return self.lessons[self.number]

    @property
    def is_last(self):
        return self.number == len(self.lessons) - 1

    @property
    def bad(self):
        """The first finding that the reader has to mend, or None."""
        return next((finding for finding in self.findings if finding.is_bad), None)

    @property
    def at_once(self):
        """How many tests may run at the same time."""
        return 1 if self.why_slow else AT_ONCE

    @property
    def passed(self):
        return not self.bad and not self.untested

    def test(self):
        """Find the lesson that the reader is in, or test the server in this one."""
        self.findings = []
        self.files.note()
        self.untested = self.files.problem().splitlines()
        if self.untested:
            self.hinted = ()
            return
        try:
            with console.status(f'does it serve? {CTRL_C}') as status:
                examine = self.test_lesson if self.is_placed else self.find_lesson
                examine(self.try_out(), status)
        except ServerFailed as failed:
            self.untested = why_untested(failed)
            self.hint_at(WHEN_IT_STOPS)
        if self.bad:
            self.hint_at(hints_for(self.bad.experiment, self.bad.verdict))
            self.failed_last = self.bad.experiment

    def hint_at(self, hints):
        """Have these three hints ready, from the first one on if they are others than before."""
        if hints != self.hinted:
            self.hinted, self.hints = hints, 0

    def go_on(self):
        """Begin the next lesson."""
        self.number += 1
        self.failed_last, self.hinted, self.findings = None, (), []

    def try_out(self):
        """Let it serve its first client; return what starts it from now on. Raises ServerFailed."""
        start = partial(own_server, self.command, patience=self.patience)
        first, built = start(*self.lesson.stage.arguments), self.files.built()
        pace = try_out(first)
        self.why_slow = OWN_PORT if first.port != int(first.env['PORT']) else (
            BUILT if self.files.built() != built else '')
        return partial(start, pace=pace)

    def find_lesson(self, start, status):
        """Go to the first lesson that does not pass, or to the last one."""
        while True:
            status.update(f'lesson {self.number + 1} of {len(self.lessons)} {CTRL_C}')
            self.findings = course.find_at_once(self.lesson.experiments, start, self.at_once)
            if self.bad or self.is_last:
                break
            self.number += 1
        if not self.bad:
            self.test_earlier(start, status)
        self.is_placed = True

    def test_lesson(self, start, status):
        """Test this lesson, what failed last time first; if it passes, test the earlier ones too."""
        in_order = sorted(self.lesson.experiments, key=lambda experiment: experiment != self.failed_last)

        def tell(experiment):
            status.update(f'{experiment.__doc__}? {CTRL_C}')
        self.findings = course.find_in_order(in_order, start, tell)
        if not self.bad:
            self.test_earlier(start, status)

    def test_earlier(self, start, status):
        status.update(f'this lesson passes; do the earlier ones still pass? {CTRL_C}')
        self.findings += course.find_at_once(self.lesson.earlier, start, self.at_once)

    @property
    def typed(self):
        """The command as the reader would type it."""
        return self.command.replace(shlex.quote(sys.executable), 'python3')

    def start_line(self, app=''):
        """What the reader types to start the server, with that application of the experiments or its own."""
        app, folder = (app, APPS) if app else (''.join(self.lesson.stage.arguments), 'part2/apps')
        path = f'PYTHONPATH={folder} ' * bool(app)
        if not self.folder:
            command = as_run(self.command, '8888', app, 'on')
            return f'PORT=8888 {path}{as_one_command(command)}'
        return path + with_app(self.typed, app)

    def view(self):
        """What the reader should see of the last test, on one screen if it can be."""
        for most, all_hints in product(range(LAST_LINES, -1, -1), (True, False)):
            shown = self.view_with(most, all_hints)
            if not console.is_terminal or height(shown) < console.height:
                break
        return shown

    def view_with(self, most, all_hints):
        """The same, with at most so many lines that the server has printed, and all hints or the last one."""
        number, after = f'{self.number + 1} of {len(self.lessons)}', self.lesson.stage
        parts = [Text(f'Lesson {number}, from {stages.stage_before(after).name} to {after.name}\n', 'bold')]
        if self.untested:
            what, *lines = self.untested
            return Group(*parts, Text(what), *last(lines, most), *self.hints_told(all_hints))
        parts += failure(self, most) if self.bad else success(self)
        if self.prediction:
            parts.append(Text(f'You predicted: {self.prediction}'))
        if self.bad:
            parts += self.hints_told(all_hints)
        if self.why_slow:
            parts.append(Text(f'\n{self.why_slow}', 'dim'))
        return Group(*parts)

    def hints_told(self, all_hints):
        """The hints that the reader has asked for, or the last of them."""
        asked = list(enumerate(self.hinted[:self.hints], 1))
        for number, words in asked if all_hints else asked[-1:]:
            told = filled(words, self.start_line)
            yield from hint_lines(f'\nHint {number} of {len(self.hinted)}: {told}')
            if '\n    ' in words and told == words:
                yield from hint_lines(f'To start your server in another terminal:\n    {self.start_line()}')
            if 'my/' in words and not self.folder:
                yield Text('pgrep and pkill look for python3 my/... here. Else use your pid.', 'dim')
        if self.hints > len(self.hinted) > 0:
            yield Text('There are no more hints.', 'yellow')


def height(shown):
    """How many lines of the terminal it takes; a command may be longer than one of them."""
    lines = Segment.split_lines(console.render(shown))
    return sum(max(1, math.ceil(Segment.get_line_length(line) / console.width)) for line in lines)


def hint_lines(words):
    """A hint, whose commands are left in one piece, as they are typed."""
    return [Text(line, 'yellow', overflow='ignore' if line.startswith('    ') else None)
            for line in words.splitlines()]


def first(evidence):
    """The evidence, without the mark of a list; of a list of complaints the first one."""
    said, width = printable(evidence), 2 * console.width
    if not said.startswith('wrong: '):
        return said[:width]
    complaint, *others = said.removeprefix('wrong: ').split('; ')
    return complaint[:width] + f'; and {len(others)} more' * bool(others)


def verdict_line(finding):
    style = STYLES.get(finding.verdict.outcome, 'dim')
    return Text.assemble((finding.verdict.outcome, style), f'  {finding.experiment.__doc__}')


def failure(learner, most):
    """What there is to see of a bad finding: what was done, what was seen then, and what came of it."""
    finding = learner.bad
    if finding.experiment in learner.lesson.earlier:
        yield Text('This lesson passes, but your server now fails an earlier one.\n')
    else:
        yield from [verdict_line(good) for good in learner.findings if not good.is_bad]
    yield verdict_line(finding)
    yield from map(Text, conditions(finding.experiment))
    if finding.moments:
        *before, (moment, seen) = finding.moments
        is_empty = views.is_empty(seen)
        words = [f'{earlier}.' for earlier, _ in before] + [moment + ('.' if is_empty else ':\n')]
        yield Text('\n'.join(['', *(line[0].upper() + line[1:] for line in words)]))
        if not is_empty:
            yield cropped(seen, most)
    evidence = finding.verdict.evidence
    if finding.moments:  # the name stands above it
        evidence = evidence.replace(f'wrong: {moment}: ', 'wrong: ', 1)
    yield Text(f'\nWhat happened: {first(evidence)}.')
    if setup_of(finding.experiment).pep475 == 'on' or not finding.moments:  # else it was shown
        yield from printed(finding.verdict, most)


def cropped(seen, most):
    """What was seen; of a long text the first lines, more of them if more is to be shown."""
    lines = seen.split('\n') if isinstance(seen, Text) else []
    return Text('\n').join([*lines[:most + SEEN], Text('...')]) if len(lines) > most + SEEN else seen


def conditions(experiment):
    """What the reader has to know of how the server was started, in lines."""
    setup = setup_of(experiment)
    if setup.pep475 == 'off':
        yield '     (in Python: with the accept() of Python 2, which fails when a signal comes)'
    for name, value in setup.env.items():
        yield f'     with {name}={value} in its environment, a number of seconds'


def printed(verdict, most):
    """The last lines that a server printed, if it has raised an error or ended."""
    lines = [line.rstrip() for line in verdict.printed]
    raised = [number for number, line in enumerate(lines) if RAISED.match(line)]
    if raised:
        lines = lines[:raised[-1] + 1]
    if not raised and verdict.outcome not in NO_VERDICT:
        return
    if not lines:
        yield Text('It printed nothing.')
    elif most:
        yield from [Text('It printed:'), *last(lines, most)]


def last(lines, most):
    return map(Text, lines[max(0, len(lines) - most):])


def success(learner):
    for finding in learner.findings[:len(learner.lesson.experiments)]:
        yield verdict_line(finding)
        yield Text(f'      {first(finding.verdict.evidence)}', 'dim')
        errors = [line for line in finding.verdict.printed if RAISED.match(line)]
        if errors and learner.lesson.stage.part == 'part3':  # elsewhere an application may be meant to fail
            yield Text(f'      Your server printed an error all the same: {errors[-1]}', 'yellow')
        yield Text()
    if learner.is_last:
        part = learner.lesson.stage.part
        yield Text(f'Your server passes all lessons of part {part[-1]}.\n{THE_END[part]}', 'bold green')
    else:
        earlier = ', and so do the earlier ones' * (learner.number > 0)
        yield Text(f'This lesson passes{earlier}.', 'bold green')


class Screen:
    """The loop in a terminal: shows the last test, waits for a key or until a file is saved."""

    def __init__(self, learner, keys):
        self.learner, self.keys, self.ended = learner, keys, False
        self.size, self.is_away = None, False  # of the screen that is drawn, whether something else is there
        self.tested = ''  # when

    def commands(self):
        """{key: (its name, what it does)} of those that make sense now."""
        learner = self.learner
        found = {'r': ('run again', self.test)}
        if learner.bad or learner.untested and learner.hinted:
            found['h'] = 'hint', self.hint
        if learner.passed:
            found['d'] = 'diffs', self.diff
            if not learner.is_last:
                found['n'] = 'next lesson', self.next
        if learner.bad or not learner.untested and course.scene_of(self.about()):
            found['s'] = 'scene', self.scene
        if not learner.untested or learner.hinted:
            found['t'] = 'trace', self.trace
        return {**found, 'q': ('quit', self.quit)}

    def show(self):
        """Draw the last test, and the keys in the last line."""
        self.draw()
        self.show_keys()

    def draw(self, style=None):
        """Draw the last test, on all lines but the last."""
        view = self.learner.view()
        self.size = console.size
        console.clear()
        console.print(view, crop=False, style=style)
        console.print('\n' * (console.height - 1 - height(view)), end='')

    def show_keys(self, back=False):
        """Show what can be pressed, in as many words as one line has room for."""
        self.is_away, self.keys.was_suspended = back, False
        names = [(key, name) for key, (name, _) in self.commands().items()] + [('Enter', 'back')] * back
        short = [Text(key, 'bold') for key, _ in names]
        long = [Text.assemble((key, 'bold'), f' {name}') for key, name in names]
        for words in [Text(self.tested, 'dim'), *long], long, short:
            line = Text('   ').join(words)
            if line.cell_len < console.width:
                break
        console.print(line, end='', soft_wrap=True)

    def test(self):
        is_new = not self.learner.is_placed
        if self.learner.findings or self.learner.untested:
            self.draw('dim')
        while True:
            self.keys.was_suspended = False
            self.learner.test()
            if not self.keys.was_suspended:  # else its time limits ran on while we were stopped
                break
            self.learner.is_placed = not is_new
        self.tested = time.strftime('%H:%M:%S')
        if self.keys.pressed(0) == 'q':  # other keys were meant for the screen before
            return self.quit()
        if is_new and self.learner.bad:
            self.predict()
        self.show()

    def quit(self):
        self.ended = True

    def hint(self):
        self.learner.hints += 1
        self.show()

    def next(self):
        self.learner.go_on()
        console.clear()
        self.predict()
        self.test()

    def predict(self):
        stage = self.learner.lesson.stage
        console.print(f'For new words, see {stages.stage_before(stage).folder}/README.md.', style='dim')
        with self.keys.line_by_line():
            self.learner.prediction = predict(PREDICTIONS[stage.name])

    def diff(self):
        """Show the diffs, page by page if they are longer than the screen."""
        diffs = both_diffs(self.learner)
        console.clear()
        if height(diffs) < console.height or not shutil.which('less'):
            console.print(diffs)
            return self.show_keys(back=True)
        with console.capture() as pages:
            console.print(diffs)
        self.run_command(LESS, {}, pages.get().encode())
        self.show()

    def about(self):
        """The experiment that a scene or a trace should be about, None if the server could not be tested."""
        finding = self.learner.bad or next(iter(self.learner.findings), None)
        return finding and finding.experiment

    def scene(self):
        name = course.scene_of(self.about())
        if name:
            return self.run_module(['laboratory.bug', name], {'SERVER': self.learner.command, 'GUESS': 'no'})
        console.clear()
        shown = hint(self.about().__name__, self.learner.bad.verdict.evidence)
        typed = f'Start: {start_line(shown, self.learner.typed)}\nType:  {shown.command}\n\n{shown.look}'
        console.print(f'See it in two other terminals:\n\n{typed}\n', markup=False, soft_wrap=True)
        self.show_keys(back=True)

    def trace(self):
        experiment = self.about()
        command, scene = self.learner.command, course.scene_of(experiment) or ''
        if scene not in STORIES:
            command = with_app(command, *self.learner.lesson.stage.arguments)
        self.run_module(['laboratory.trace'], {
            'SERVER': command, 'PEP475': setup_of(experiment).pep475, 'REQUEST': 'yes', 'SCENE': scene},
            '' if scene in STORIES else 'One ordinary request:\n\n')

    def run_module(self, words, env, title=''):
        """Run another command of the laboratory on this terminal, to its end, below that title."""
        console.clear()
        console.print(title, style='dim', end='')
        self.run_command([sys.executable, '-m', *words], env)
        self.show_keys(back=True)

    def run_command(self, words, env, standard_input=None):
        with self.keys.line_by_line():
            command = subprocess.Popen(words, env={**os.environ, **env},
                                       stdin=subprocess.PIPE if standard_input else None)
            try:
                command.communicate(standard_input)
            except BaseException:
                command.terminate()  # it cleans up, as we do
                command.wait()
                raise

    def loop(self):
        while not self.ended:
            key = self.keys.pressed(EVERY).lower()
            if self.learner.files.were_saved():
                self.learner.prediction = ''
                self.test()
            elif key in self.commands():
                self.commands()[key][1]()
            elif key or self.keys.was_suspended or console.size != self.size and not self.is_away:
                self.show()


def both_diffs(learner):
    """What the reader has changed since the stage before, and what we have; side by side if there is room."""
    after = learner.lesson.stage
    before = stages.stage_before(after)
    diffs = {f'Ours: make diff-{after.name}': step(before, after)}
    if learner.folder:
        yours = stages.Stage('yours', learner.folder)
        diffs = {f'Yours, compared with {before.name}:': step(before, yours), **diffs}
    texts = []
    for title, lines in diffs.items():
        text = Text.assemble((f'{title}\n\n', 'bold'))
        for line in lines:
            coloured = COLOURS.get(line[:1], '') + printable(line.expandtabs(4))
            text.append(Text.from_ansi(coloured)).append('\n')
        texts.append(text)
    widths = [max(map(len, text.plain.splitlines())) for text in texts]
    if sum(widths) + 3 > console.width:
        return Group(*texts)
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_row(*texts)
    return table


def chosen():
    """The part and the stage to begin with, as PART and FROM name them; exits with one line."""
    part, name = settings.choice('PART', '3', '2', '4'), os.environ.get('FROM')
    if not name:
        return f'part{part}', stages.stage_before(course.lessons(f'part{part}')[0].stage)
    stage = stages.find_stage(name)
    if stage.part not in EXPERIMENTS:
        sys.exit(f'FROM={name}: there are no lessons for it, only for parts 2, 3 and 4')
    if os.environ.get('PART') and stage.part != f'part{part}':
        sys.exit(f'PART={part} FROM={name}: that stage belongs to part {stage.part[-1]}')
    if first_after(stage) is None:
        sys.exit(f'FROM={name}: no lesson comes after that stage')
    return stage.part, stage


def first_after(stage):
    """The number of the first lesson after a stage, None for none."""
    order = stages.stages_of(stage.part)
    return next((number for number, lesson in enumerate(course.lessons(stage.part))
                 if order.index(lesson.stage) > order.index(stage)), None)


def copied(stage, folder):
    """Copy a stage into that folder of the root, if no server.py is there; return the names of the copies."""
    folder = stages.ROOT / folder
    try:
        if os.path.lexists(folder / 'server.py'):
            return []
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in stage.files if not os.path.lexists(folder / name)]
        for name in names[::-1]:  # server.py last
            with open(folder / name, 'x') as copy:
                copy.write((stages.ROOT / stage.folder / name).read_text())
        return names
    except OSError as error:
        sys.exit(f'cannot write into {folder}: {error.strerror}')


def main():
    os.chdir(stages.ROOT)
    part, stage = chosen()
    patience = settings.positive('PATIENCE', PATIENCE)
    settings.choice('GUESS', 'yes', 'no')
    command, folder, number = os.environ.get('SERVER'), '', 0
    if command:
        begin = f'Your server is {command}.'
    else:
        folder = MINE if part == 'part3' else f'{MINE}/{part}'
        command = f'{shlex.quote(sys.executable)} {folder}/server.py'
        names = copied(stage, folder)
        begin = (f'{folder}/server.py is there already, and is used as it is. '
                 f'To begin with {stage.name}, move it away.')
        if names:
            number = first_after(stage)
            begin = f'{" and ".join(f"{folder}/{name}" for name in names)}: copied from {stage.folder}.'
    learner = Learner(course.lessons(part), command, folder, number, patience)
    console.print(f'{begin}\n', markup=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        learner.test()
        console.print(learner.view())
        return 2 if learner.untested else 1 if learner.bad else 0
    console.print(f'{SAVED if learner.files.paths() else NO_FILE}\n{WHAT_NOW}\n')
    with Keys() as keys:
        screen = Screen(learner, keys)
        try:
            screen.test()
            screen.loop()
        finally:
            with suppress(OSError):  # the terminal is gone
                print(flush=True)


if __name__ == '__main__':
    run(main)
