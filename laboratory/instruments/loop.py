"""The loop of `make learn`: a save tests the server again, and a key does what the last line says."""
import os
import subprocess
import sys
import time

from rich.text import Text

from common import stages
from common.diff import diff_lines
from laboratory.instruments import telling
from laboratory.instruments.client import one_request
from laboratory.instruments.own import as_run
from laboratory.instruments.saves import EVERY
from laboratory.instruments.terminal import console, predict


class Interrupted(Exception):
    """A test was ended; key is what comes next."""

    def __init__(self, key):
        self.key = key


class Loop:
    """In a terminal: tells of the last test, waits for a key or until a file is saved."""

    def __init__(self, learner, keys):
        self.learner, self.keys, self.ended = learner, keys, False

    def commands(self):
        """{key: (its name, what it does)} of those that make sense now."""
        learner, found = self.learner, {'r': ('run again', self.test)}
        if learner.bad or learner.untested:
            found['h'] = 'hint', learner.tell_hint
        if learner.passed:
            found['d'] = 'diffs', self.diffs
            if not learner.is_last:
                found['n'] = 'next lesson', self.next
        if learner.about:
            found['s'] = 'scene', self.scene
        return {**found, 't': ('trace', self.trace), 'v': ('replay', self.replay), 'q': ('quit', self.quit)}

    def show_keys(self):
        """Show what can be pressed."""
        self.keys.was_suspended = False
        names = [Text.assemble((key, 'bold'), f' {name}') for key, (name, _) in self.commands().items()]
        console.print(Text('   ').join(names), end='', soft_wrap=True)

    def test(self):
        is_new, self.keys.was_suspended = not self.learner.is_placed, False
        self.learner.test(self.look, self.lesson_passes)
        if is_new and self.learner.bad:
            self.predict()
        if not self.learner.is_told:
            self.show_time()
        self.learner.tell()

    def show_time(self):
        console.rule(time.strftime('%H:%M:%S'), style='dim')

    def lesson_passes(self):
        """Tell it at once: the earlier lessons may take longer."""
        self.show_time()
        self.learner.tell_passes()

    def look(self):
        """End a test where the reader wants something else; time limits run on while we are stopped."""
        key = self.keys.pressed(0)
        if key or self.keys.was_suspended or self.was_saved():
            raise Interrupted(key or 'r')

    def diffs(self):
        """Print what the reader has changed since the stage before, and what we have."""
        lesson, folder = self.learner.lesson, self.learner.folder
        diffs = {f'Ours: make diff-{lesson.stage.name}': diff_lines(lesson.before, lesson.stage)}
        if folder:
            yours = diff_lines(lesson.before, stages.Stage('yours', folder))
            diffs = {f'Yours, compared with {lesson.before.name}:': yours, **diffs}
        console.print(telling.beside(diffs))

    def quit(self):
        self.ended = True

    def next(self):
        self.learner.number += 1
        self.learner.results = {}
        self.predict()
        self.test()

    def predict(self):
        lesson = self.learner.lesson
        console.print(f'For new words, see {lesson.before.folder}/README.md.', style='dim')
        with self.keys.line_by_line():
            self.learner.prediction = predict(lesson.bugs[0].predict)

    def scene(self):
        learner = self.learner
        self.run_module('bug', learner.about.name, SERVER=learner.command, GUESS='no')
        start, see, look_for = learner.to_see()
        typed = f'Start: {start}\nType:  {see}' + f'\n\n{look_for}' * bool(learner.bad)
        console.print(f'See it in two other terminals:\n\n{typed}', markup=False, soft_wrap=True)

    def trace(self):
        bug = self.learner.about
        if not bug or bug.scene is one_request:
            console.print('One ordinary request:\n', style='dim')
        self.run_module('trace', REQUEST='yes', **self.run_of_scene())

    def replay(self):
        self.run_module('replay', **self.run_of_scene())

    def run_of_scene(self):
        """The variables for a run of the server with the clients of the scene."""
        bug, command = self.learner.about, self.learner.command
        if not bug or bug.scene is one_request:
            command = as_run(command, '{port}', *self.learner.lesson.stage.arguments)
        name, pep475 = (bug.name, bug.pep475) if bug else ('', 'on')
        return {'SERVER': command, 'PEP475': pep475, 'SCENE': name}

    def run_module(self, name, *arguments, **env):
        """Run another command of the laboratory on this terminal, to its end or ours."""
        command = [sys.executable, '-m', f'laboratory.{name}', *arguments]
        with self.keys.line_by_line():
            running = subprocess.Popen(command, env={**os.environ, **env})
            try:
                running.wait()
            finally:
                running.terminate()  # where a signal ends us, it cleans up as we do
                running.wait()

    def was_saved(self):
        """Whether the reader has saved, after which a prediction is about nothing any more."""
        if is_saved := self.learner.files.were_saved():
            self.learner.prediction = ''
        return is_saved

    def run(self):
        key = 'r'
        while not self.ended:
            if key in self.commands():
                console.print()
                try:
                    self.commands()[key][1]()
                except Interrupted as interrupted:
                    key = interrupted.key.lower()
                    if key not in 'rq':
                        console.print('The test has ended without a result. r begins it again.')
                    continue
            if key or self.keys.was_suspended:
                console.print()
                self.show_keys()
            key = self.keys.pressed(EVERY).lower()
            if not key and self.was_saved():
                key = 'r'
