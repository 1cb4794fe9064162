"""make grade SERVER='python3 my_server.py': tests a server of your own, in any language.

A shell runs the command. The port to listen on is in the variable PORT. The grader also puts it in
place of {port} in the command. For make, write $$ where the shell should see a $.

    PART=2            tests a WSGI server, which gets an application as module:callable: at the end
                      of the command, or in place of {app}; python3 has the frameworks here
    PART=4            tests a WSGI server, and what becomes of its workers and connections as well
    PATIENCE=35       how many seconds it needs to reach its time limits (part 4)
    STAGE=part3-v1.1  asks only for what that stage can do
    WATCH=1           tests again whenever a file that the command names changes

The exit status is 0 if no bug was found, 1 if a question found a bug or could not be answered, and
2 if the server could not be tested. (Under make, every status but 0 becomes 2.)
"""
import os
import sys
import textwrap
import time
from functools import partial

from rich.text import Text

from common import settings, stages
from laboratory.experiments.hints import NO_STAGE, hint
from laboratory.experiments.tables import EXPERIMENTS, cure, due, questions
from laboratory.experiments.verdicts import (
    BUG,
    NO_CHILD,
    NO_HANDLER,
    NO_VERDICT,
    NO_WORKER,
    PASS,
    by_eintr,
    measure,
)
from laboratory.instruments.own import files_in, own_server, start_line, try_out, why_untested
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.terminal import STYLES, console, run

ABOUT = {NO_CHILD: 'children', NO_HANDLER: 'a handler of SIGCHLD', NO_WORKER: 'workers'}
PATIENCE = 35  # seconds; the time limits of many servers are 30


def asked_for(stage):
    """The experiments that this stage passes; for the last one of a part, all of the part."""
    row, is_last = due(stage), stage == stages.stages_of(stage.part)[-1]
    return [experiment for experiment in questions(stage.part) if is_last or row[experiment.__name__] == PASS]


def report(experiment, verdict, part, command):
    """Print a verdict and, for a bug, how to see it, what it usually is and how to cure it."""
    def tell(text, style=''):
        lines = textwrap.fill(text, console.width - 11)
        console.print(Text(textwrap.indent(lines, ' ' * 11), style))
    console.print(f'[{STYLES.get(verdict.outcome, "dim")}]{verdict.outcome:<10}[/] {experiment.__doc__}')
    tell(verdict.evidence, 'dim')
    if verdict.outcome == BUG:
        shown = hint(experiment.__name__, verdict.evidence)
        below = '\n' + ' ' * 18
        for what, typed in ('start', start_line(shown, command)), ('type', shown.command):
            lines = below.join(typed.splitlines())
            console.print(Text(f'           {what + ":":<7}{lines}'), soft_wrap=True)
        tell(shown.look)
        cured = cure(experiment.__name__, part)
        if shown.cure != NO_STAGE and (shown.cure or cured):
            tell(f'cure: make diff-{shown.cure or cured.name}')


def summary(verdicts, goal):
    """Print what was measured, and which stage is like that."""
    stopped = [experiment for experiment, verdict in verdicts.items() if verdict.outcome in NO_VERDICT]
    outcomes = {experiment.__name__: verdict.outcome for experiment, verdict in verdicts.items()}
    asked = outcomes.keys() - {experiment.__name__ for experiment in stopped}
    print()
    if stopped and not (outcomes.get('eintr') == BUG and all(by_eintr(verdicts[name]) for name in stopped)):
        return like_none(stopped[0], verdicts[stopped[0]])

    def unlike(stage):
        row = due(stage)
        return {name: row[name] for name in outcomes if name in asked and outcomes[name] != row[name]}

    def distance(stage):
        differences = unlike(stage)
        return sum(BUG in (outcomes[name], there) for name, there in differences.items()), len(differences)

    part = stages.stages_of(goal.part)
    like = min([goal, *part], key=distance)
    bugs = '; '.join(dict.fromkeys(hint(experiment.__name__, verdict.evidence).bug
                                   for experiment, verdict in verdicts.items() if verdict.outcome == BUG))
    if unlike(like):
        print(f'Yours {bugs}.' if bugs else f'Yours shows none of the bugs of part {goal.part[-1]}.')
        if outcomes.get('one_child') == NO_CHILD:
            print('It forks no child for a client: it may use an event loop, threads or a fixed pool.')
        missing = {outcomes[name] for name in unlike(like)}
        if missing <= ABOUT.keys():
            about = ' and '.join(words for outcome, words in ABOUT.items() if outcome in missing)
            print(f'Nearest stage: {like.name}. The questions about {about} do not apply to it.')
            return
        print(f'Nearest stage: {like.name}. The differences:')
        for experiment in verdicts:
            if there := unlike(like).get(experiment.__name__):
                print(f'    {experiment.__doc__}: {verdicts[experiment].outcome} ({like.name}: {there})')
        return
    console.print(f'[bold]Yours behaves like {like.name}[/]: {bugs or "no bug was found"}.')
    if stopped:
        print('Where it has ended, EINTR has ended it.')
    if like != part[-1]:
        following = part[part.index(like) + 1].name
        print(f'Next: {following}, make diff-{following}')


def like_none(experiment, verdict):
    """Print what keeps a server from being like any stage."""
    console.print('[bold]Yours behaves like no stage.[/]')
    print(f'At the question "{experiment.__doc__}": {verdict.evidence}.')
    print(*(['It printed:', *verdict.printed] if verdict.printed else ['It printed nothing.']), sep='\n    ')
    if by_eintr(verdict):
        print('A SIGCHLD interrupted a system call, and you did not call it again: make diff-part3-v1.3')
    print('Fix that first, and grade it again.')


def grade(command, goal):
    """Run the experiments that the goal, a stage, asks for; return whether none found a bug."""
    start = partial(own_server, command, patience=settings.positive('PATIENCE', PATIENCE))
    part = stages.stages_of(goal.part)
    verdicts = {}
    with console.status('does it serve?') as status:
        pace = try_out(start(*goal.arguments))
        for experiment in asked_for(goal):
            status.update(f'{experiment.__doc__}?')
            verdicts[experiment] = verdict = measure(experiment, partial(start, pace=pace))
            report(experiment, verdict, part, command)
    summary(verdicts, goal)
    return not any(verdict.outcome in (BUG, *NO_VERDICT) for verdict in verdicts.values())


def changes(command):
    """When each file that the command names was changed."""
    return [(path, os.stat(path).st_mtime_ns) for path in files_in(command) if os.path.exists(path)]


def named_goal():
    """The stage that STAGE names, or the last of the PART."""
    part, name = settings.choice('PART', '3', '2', '4'), os.environ.get('STAGE')
    if not name:
        return stages.stages_of(f'part{part}')[-1]
    goal = stages.find_stage(name)
    if goal.part not in EXPERIMENTS:
        sys.exit(f'STAGE={name}: there are no experiments for it, only for parts 2, 3 and 4')
    if os.environ.get('PART') and goal.part != f'part{part}':
        sys.exit(f'PART={part} STAGE={name}: that stage belongs to part {goal.part[-1]}')
    return goal


def main():
    command = os.environ.get('SERVER')
    if not command:
        sys.exit("name your server: make grade SERVER='python3 my_server.py'")
    goal, watch = named_goal(), settings.choice('WATCH', '0', '1') == '1'
    while True:
        seen = changes(command)
        try:
            status = 0 if grade(command, goal) else 1
        except ServerFailed as failed:
            print(*why_untested(failed), sep='\n', file=sys.stderr)
            status = 2
        if not watch:
            return status
        with console.status('waiting until the file changes; Ctrl-C ends'):
            while changes(command) == seen:
                time.sleep(0.2)
        console.rule(time.strftime('%H:%M:%S'), style='dim')


if __name__ == '__main__':
    run(main)
