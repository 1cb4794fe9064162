"""You write the server: it begins as a copy of a stage, and is tested whenever you save it.

    make learn                       part 3, in my/server.py
    PART=2 or PART=4                 part 2 or 4, in my/part2 or my/part4
    FROM=part3-v1.2                  begins with a copy of that stage
    SERVER='node my/server.js'       tests a server of your own, see make help-grade

You see the first thing that is wrong with your server: the line that begins with bug says what it
should do and does not do yet. Fix that, and save again. When a lesson passes, n goes on to the next one.

A save ends a test that still runs, and begins the next one. A key ends it, too.

The last line names all keys. h gives a hint, s shows the bug once more and tells you what to type to see
it, t lists the system calls (on Linux, with strace), v writes a page in which you step through them, and d
compares your code with ours.

Your files are never overwritten. To begin again, move them away first.

    GUESS=no                         asks for no predictions
    PATIENCE=35                      how many seconds your server needs to reach its time limits (part 4)

In a pipe, the command tests your server once. Its exit status is 0 if all lessons pass, 1 if one does
not, and 2 if the server could not be tested. (Under make, every status but 0 becomes 2.)
"""
import os
import shlex
import sys
from contextlib import closing, suppress
from functools import partial

from rich.text import Text

from common import settings, stages
from laboratory.bugs import BUGS, UNKNOWN, expected, explained, known_stages, lessons, named_stage
from laboratory.instruments import telling
from laboratory.instruments.experiment import NO_CHILD, NO_WORKER, UNJUDGED, measure
from laboratory.instruments.loop import Loop
from laboratory.instruments.output import printable
from laboratory.instruments.own import first_client, own_server, why_untested
from laboratory.instruments.process import PATIENCE, ServerFailed
from laboratory.instruments.runs import alone, at_once
from laboratory.instruments.saves import Files
from laboratory.instruments.terminal import Keys, console, run

OWN_PORT = 'It does not listen on the port in the variable PORT, so each test takes longer.'
BUILT = 'The command rebuilds the server each time, so its tests run one at a time.'
ANY_KEY = '[dim](a save or a key ends the test)[/]'
SAVED = 'It is tested now, and again whenever you save it.'
NO_FILE = 'It is tested now. The command names no file: press r when you have saved yours.'
THE_END = {
    'part3': 'Go on with make learn PART=2, and then with make learn PART=4.',
    'part2': 'Go on with make learn PART=4, where your server learns to serve many clients at once.',
    'part4': 'How fast is it? make bench QUICK=1 SERVER=... compares it with others. See make help-bench.',
}


class Learner:
    """Where a reader is: in which lesson, and what the last test of the server has found.

    lessons    of the part, see bugs.lessons()
    command    that starts the server
    folder     where its files are, '' if it is not a copy of a stage
    number     of the lesson, from 0
    patience   the seconds that it needs to reach its time limits
    """

    def __init__(self, lessons, command, folder, number, patience):
        self.lessons, self.command, self.folder, self.number = lessons, command, folder, number
        self.files, self.patience = Files(command), patience
        self.results, self.untested, self.tried = {}, [], None  # {bug: Result}; why it could not be tested
        self.is_told = False  # whether the reader has seen that the lesson passes
        self.is_placed = False  # whether number is that of the lesson that the reader is in
        self.hints, self.told = [], 0  # those for what is wrong, and how many of them the reader has seen
        self.prediction = ''

    @property
    def lesson(self):
        return self.lessons[self.number]

    @property
    def is_last(self):
        return self.number == len(self.lessons) - 1

    @property
    def bad(self):
        """The first bug that the reader has to mend, or None."""
        return next((bug for bug, result in self.results.items() if needs_work(result)), None)

    @property
    def cause(self):
        """The bug that has ended the server during the experiment for what is wrong, or None."""
        return BUGS.get(self.results[self.bad].cause) if self.bad else None

    @property
    def about(self):
        """The bug that a hint, a scene or a trace is about."""
        return self.cause or self.bad or next(iter(self.results), None)

    @property
    def passed(self):
        return bool(self.results) and not self.bad and not self.untested

    def test(self, look=lambda: None, lesson_passes=lambda: None):
        """Test the server in the reader's lesson, at first in all up to the one that does not pass.

        look             is called meanwhile; what it raises ends the test, and the last result stands
        lesson_passes    is called before the earlier lessons are awaited
        """
        before = self.results, self.untested
        self.results, self.untested, self.is_told = {}, [], False
        self.files.note()
        try:
            with console.status(f'does it serve? {ANY_KEY}') as status:
                start = partial(own_server, self.command, patience=self.patience)
                self.tried = first_client(self.command, start(*self.lesson.stage.arguments), look)
                start = partial(start, pace=self.tried.pace, own_port=self.tried.own_port)
                self.examine(start, status, look, lesson_passes)
                self.results = explained(self.results, lambda bug: alone(partial(measure, bug, start), look))
        except ServerFailed as failed:
            self.untested = why_untested(failed)
        except BaseException:
            self.results, self.untested = before
            raise
        if not self.passed:
            result = self.results.get(self.bad)
            is_known = result and (self.cause or result.outcome not in UNJUDGED)
            hints = self.about.hints(result) if is_known else telling.WHEN_IT_STOPS
            if hints != self.hints:
                self.hints, self.told = hints, 0

    def examine(self, start, status, look, lesson_passes):
        """Run the experiments of the lesson and the earlier ones, up to the first bug.

        Where the server has ended, those that come later may tell why.
        """
        lessons = [self.lesson] if self.is_placed else self.lessons[self.number:]
        bugs = [bug for lesson in lessons for bug in lesson.bugs]
        bugs += [bug for bug in lessons[-1].earlier if bug not in bugs]
        runs = [partial(measure, bug, start) for bug in bugs]
        with closing(at_once(runs, self.tried.at_once, look)) as found:
            for bug in bugs:
                if self.is_placed and bug in self.lesson.earlier and not self.bad and not self.is_told:
                    lesson_passes()
                status.update(f'{bug.asks}? {ANY_KEY}')
                self.results[bug] = result = next(found)
                if needs_work(result) and result.outcome not in UNJUDGED:
                    break
        if not self.is_placed:
            lesson = next((lesson for lesson in lessons if self.bad in lesson.bugs), lessons[-1])
            self.number, self.is_placed = self.lessons.index(lesson), True

    def to_see(self):
        """What to type to see what is wrong, and what to look for, as telling.to_see() has it."""
        typed = self.command.replace(shlex.quote(sys.executable), 'python3')
        return telling.to_see(self.about, self.results[self.bad or self.about], typed, self.tried)

    def tell_lesson(self):
        """Print where the reader is."""
        number, before = f'{self.number + 1} of {len(self.lessons)}', self.lesson.before.name
        console.print(f'Lesson {number}, from {before} to {self.lesson.stage.name}\n', style='bold')

    def tell_passes(self):
        """Print that the server passes the lesson."""
        self.is_told = True
        self.tell_lesson()
        for bug in self.lesson.bugs:
            telling.tell_success(bug, self.results[bug])
        if NO_CHILD in {self.results[bug].outcome for bug in self.lesson.bugs}:
            print(f'Your server forks no child for a client: so this passes.\n{telling.TO_FORK}\n')

    def tell(self):
        """Print what the reader should see of the last test, and has not seen."""
        if self.passed and not self.is_told:
            self.tell_passes()
        elif not self.is_told:
            self.tell_lesson()
        if self.untested:
            return print(*map(printable, self.untested), sep='\n')
        self.tell_failure() if self.bad else self.tell_success()
        if self.prediction:
            bug = self.lesson.bugs[0]
            console.print(telling.compared(bug, self.prediction, self.results[bug]), markup=False)
        if self.tried.at_once == 1:
            console.print(f'\n{BUILT if self.tried.is_built else OWN_PORT}', style='dim')

    def tell_failure(self):
        """Print what the reader has to mend, after what is right already."""
        if self.bad in self.lesson.earlier:
            console.print('This lesson passes, but your server now fails an earlier one.\n')
        for bug, result in self.results.items():
            if bug in self.lesson.bugs and not needs_work(result) and not self.is_told:
                console.print(telling.line(bug, result))
        telling.tell_failure(self.bad, self.results[self.bad])

    def tell_success(self):
        """Print what comes next."""
        part = self.lesson.stage.part
        if self.is_last:
            told = f'Your server passes all lessons of part {part[-1]}.\n{THE_END[part]}'
        else:
            told = f'This lesson passes{", and so do the earlier ones" * (self.number > 0)}.'
        console.print(told, style='bold green')

    def tell_hint(self):
        """Print the next hint."""
        if self.told == len(self.hints):
            return console.print('There are no more hints.', style='yellow')
        hint = self.hints[self.told]
        self.told += 1
        start, see, _ = self.to_see() if '{see}' in hint else ('', '', '')
        told = f'Hint {self.told} of {len(self.hints)}: {telling.as_text(hint, see)}'
        if see:
            told += f'\nTo start your server in another terminal:\n    {start}'
        console.print(Text(told, 'yellow'), soft_wrap=bool(see))


def needs_work(result):
    """Whether the reader has something to do: to have no worker is no bug, but it is no cure either."""
    return result.is_bad or result.outcome == NO_WORKER


def first_after(stage):
    """The number of the first lesson after a stage, None for none."""
    order = known_stages(stage.part)
    later = order[order.index(stage) + 1:] if stage in order else []
    return next((number for number, lesson in enumerate(lessons(stage.part)) if lesson.stage in later), None)


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
    part, stage = named_stage('FROM')
    if stage and first_after(stage) is None:
        why = 'no lesson comes after that stage' if expected(stage) else UNKNOWN
        sys.exit(f'FROM={stage.name}: {why}')
    stage = stage or lessons(part)[0].before
    patience = settings.positive('PATIENCE', PATIENCE)
    settings.choice('GUESS', 'yes', 'no')
    command, folder, number = os.environ.get('SERVER'), '', 0
    if command:
        begin = f'Your server is {command}.'
    else:
        folder = 'my' if part == 'part3' else f'my/{part}'
        command = f'{shlex.quote(sys.executable)} {folder}/server.py'
        if names := copied(stage, folder):
            number = first_after(stage)
            begin = f'{" and ".join(f"{folder}/{name}" for name in names)}: copied from {stage.folder}.'
        else:
            begin = (f'{folder}/server.py is there already, and is used as it is. '
                     f'To begin with {stage.name}, move it away.')
    learner = Learner(lessons(part), command, folder, number, patience)
    console.print(f'{begin}\n', markup=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        learner.test()
        learner.tell()
        return 2 if learner.untested else 1 if learner.bad else 0
    console.print(f'{SAVED if learner.files.look() else NO_FILE}\n'
                  'You see the first thing that it does wrong: fix that, and save.')
    with Keys() as keys:
        try:
            Loop(learner, keys).run()
        finally:
            with suppress(OSError):  # the terminal is gone
                print(flush=True)


if __name__ == '__main__':
    run(main)
