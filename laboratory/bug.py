"""Shows one bug: asks for a prediction, runs the stage that has it and the one that cures it, shows the diff.

    make bug-lost-signal
    GUESS=no                               does not ask for a prediction
    SERVER='python3 my_server.py'          shows it on your own server instead, see make help-grade
"""
import os
import sys
from functools import partial

from rich.console import Group
from rich.text import Text

from common import stages
from common.diff import coloured, step
from laboratory.experiments.scenes import SCENES
from laboratory.experiments.verdicts import BUG, measure
from laboratory.instruments import views
from laboratory.instruments.own import own_server, try_out
from laboratory.instruments.process import PATIENCE, printable, stage_server
from laboratory.instruments.terminal import console, predict, run


def play(scene, title, start):
    """Run the experiment on a server, showing what the kernel sees; return the Verdict.

    start    as measure() wants it
    """
    console.rule(Text(title), style='dim', align='left')

    def show(server, moment):
        seen = views.VIEWS[scene.view](server)
        console.print(f'\n{moment}.' if views.is_empty(seen) else Group(f'\n{moment}:\n', seen))
        status.update('waiting for what comes next')

    with console.status('waiting for the server') as status:
        verdict = measure(scene.experiment, start, show)
    style = 'bold red' if verdict.outcome == BUG else 'bold green'
    console.print(Text.assemble('\n', (verdict.outcome, style), f': {said(verdict)}\n'))
    return verdict


def said(verdict):
    """The evidence, without the mark of a list."""
    return printable(verdict.evidence).removeprefix('wrong: ')


def play_stage(scene, stage):
    return play(scene, f'{stage.name}: {stage.summary}', partial(stage_server, stage))


def play_own(scene, command):
    with console.status('does it serve?'):
        pace = try_out(own_server(command, scene.setup.apps[0]))
    return play(scene, 'Your server', partial(own_server, command, pace=pace, patience=PATIENCE))


def answer(prediction, verdict):
    """Set what happened beside what the reader predicted, if anything."""
    if prediction:
        console.print(f'You predicted: {prediction}. What happened: {said(verdict)}.\n', markup=False)


def tell(scene):
    """The whole of a scene."""
    cured = stages.find_stage(scene.stage)
    prediction = predict(scene.question)
    console.print()
    answer(prediction, play_stage(scene, stages.stage_before(cured)))
    play_stage(scene, cured)
    console.rule(f'The step: make diff-{cured.name}', style='dim', align='left')
    print(*coloured(step(stages.stage_before(cured), cured)), sep='\n', flush=True)
    console.print(f'\n[bold]Why:[/] {scene.why}')
    console.print(f'Read on: {cured.folder}/README.md')


def main():
    name, command = sys.argv[-1], os.environ.get('SERVER')
    if name not in SCENES:
        sys.exit(f'Name a bug: {", ".join(SCENES)}')
    if command:
        prediction = predict(SCENES[name].question)
        answer(prediction, play_own(SCENES[name], command))
    else:
        tell(SCENES[name])


if __name__ == '__main__':
    run(main)
