"""Shows one bug: asks for a prediction, runs the stage that has it and the one that cures it, shows the diff.

    make bug-lost-signal
    GUESS=no                               does not ask for a prediction
    SERVER='python3 my_server.py'          shows it on your own server instead, see make help-grade
    PATIENCE=5                             how many seconds that needs to reach its time limits (part 4)
"""
import os
import sys
from functools import partial

from rich.text import Text

from common import settings
from common.diff import coloured, diff_lines
from common.stages import stage_before
from laboratory.bugs import BUGS, cure, stage_with
from laboratory.instruments.experiment import measure
from laboratory.instruments.own import own_server, try_out
from laboratory.instruments.process import PATIENCE, stage_server
from laboratory.instruments.telling import compared, said, shown
from laboratory.instruments.terminal import STYLES, console, predict, run


def play(bug, title, start, prediction=''):
    """Run the experiment on a server, which start() gives to measure(), showing what is seen at each step."""
    console.rule(Text(title), style='dim', align='left')

    def show(words, seen):
        console.print('', shown(words, seen), sep='\n')
        status.update('waiting for what comes next')

    with console.status('waiting for the server') as status:
        result = measure(bug, start, show)
    style = STYLES.get(result.outcome, 'dim')
    console.print(Text.assemble('\n', (result.outcome, style), f': {said(result)}\n'))
    if prediction:
        console.print(f'{compared(bug, prediction, result)}\n', markup=False)


def play_own(bug, command):
    prediction = predict(bug.predict)
    with console.status('does it serve?'):
        tried = try_out(own_server(command, bug.apps[0]))
    patience = settings.positive('PATIENCE', PATIENCE)
    start = partial(own_server, command, pace=tried.pace, patience=patience, own_port=tried.own_port)
    play(bug, 'Your server', start, prediction)


def play_stages(bug, bad, cured):
    """The stage that has the bug, the one that cures it, the step between them."""
    prediction = predict(bug.predict)
    console.print()
    play(bug, f'{bad.name}: {bad.summary}', partial(stage_server, bad), prediction)
    play(bug, f'{cured.name}: {cured.summary}', partial(stage_server, cured))
    diff = f'diff-{cured.name}' if bad == stage_before(cured) else f'diff FROM={bad.name} TO={cured.name}'
    console.rule(f'The step: make {diff}', style='dim', align='left')
    print(*coloured(diff_lines(bad, cured)), sep='\n', flush=True)
    console.print(f'\n[bold]Why:[/] {bug.why}')
    console.print(f'Read on: {cured.folder}/README.md')


def main():
    name, command = sys.argv[-1].replace('-', '_'), os.environ.get('SERVER')
    if name not in BUGS:
        sys.exit(f'Name a bug: {", ".join(BUGS).replace("_", "-")}')
    bug = BUGS[name]
    if command:
        play_own(bug, command)
    elif bad := stage_with(bug):
        play_stages(bug, bad, cure(bug))
    else:
        sys.exit(f"No stage has this bug. Does yours? make bug-{sys.argv[-1]} SERVER='python3 my_server.py'")


if __name__ == '__main__':
    run(main)
