"""make grade SERVER='python3 my_server.py': tests a server of your own, in any language.

A shell runs the command. The port to listen on is in the variable PORT. The grader also puts it in
place of {port} in the command. For make, write $$ where the shell should see a $.
Several experiments run at the same time, each on a server of its own; one that has a port of its own,
or that the command builds, is tested one experiment at a time.

    PART=2            tests a WSGI server, which gets an application as module:callable: at the end
                      of the command, or in place of {app}; python3 has the frameworks here
    PART=4            tests a WSGI server, and what becomes of its workers and connections as well
    PATIENCE=35       how many seconds it needs to reach its time limits (part 4)
    STAGE=part3-v1.1  asks only for what that stage can do
    WATCH=1           tests again whenever you save a file that the command names, or one beside it

The exit status is 0 if no bug was found (what does not apply is none), 1 if an experiment found one or
could not be finished, and 2 if the server could not be tested. (Under make, every status but 0 becomes 2.)
"""
import os
import sys
import textwrap
import time
from contextlib import closing
from functools import partial

from rich.text import Text

from common import settings
from laboratory.bugs import BUGS, UNKNOWN, asked, beside, cure, expected, explained, known_stages, named_stage
from laboratory.instruments import telling
from laboratory.instruments.experiment import (
    BUG,
    ENDED,
    NO_ANSWER,
    NO_CHILD,
    NO_HANDLER,
    NO_WORKER,
    PASS,
    UNJUDGED,
    measure,
)
from laboratory.instruments.own import first_client, own_server, why_untested
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.runs import alone, at_once
from laboratory.instruments.saves import EVERY, Files
from laboratory.instruments.terminal import STYLES, console, run

ABOUT = {NO_CHILD: 'children', NO_HANDLER: 'a handler of SIGCHLD', NO_WORKER: 'workers'}
MOST_PATIENCE = 35  # seconds; the time limits of many servers are 30


def asked_for(stage):
    """The bugs whose experiments this stage passes; for the last one of a part, all of the part."""
    is_last = stage == known_stages(stage.part)[-1]
    return [bug for bug in asked(stage.part) if is_last or expected(stage)[bug.name] == PASS]


def report(bug, result, command, tried):
    """Print a result and, for a bug, how to see it, what it usually is and how to cure it."""
    def tell(text, style=''):
        lines = textwrap.fill(text, console.width - 11)
        console.print(Text(textwrap.indent(lines, ' ' * 11), style))
    console.print(f'[{STYLES.get(result.outcome, "dim")}]{result.outcome:<10}[/] {bug.asks}')
    tell(telling.said(result), 'dim')
    if result.outcome == BUG:
        start, see, look_for = telling.to_see(bug, result, command, tried)
        for what, typed in ('start', start), ('type', see):
            below = ('\n' + ' ' * 18).join(typed.splitlines())
            console.print(Text(f'           {what + ":":<7}{below}'), soft_wrap=True)
        tell(look_for)
        if cured := cured_by(bug, bug.case(result)):
            tell(f'cure: make diff-{cured}')


def cured_by(bug, case):
    """The name of the stage that cures a case of a bug, '' for none."""
    if case.cured_by is not None:
        return case.cured_by
    return cure(bug).name if cure(bug) else ''


def summary(results, goal):
    """Print what was measured, and which stage is like that; results is {bug: Result}."""
    outcomes = {bug.name: result.outcome for bug, result in results.items()}
    stopped = {bug: result for bug, result in results.items() if result.outcome in UNJUDGED}
    print()
    for bug, result in stopped.items():
        if not is_explained(result, results):
            return like_none(bug, result)

    def unlike(stage):
        there = expected(stage)
        return {bug: there[bug.name] for bug, result in results.items()
                if bug not in stopped and result.outcome != there[bug.name]}

    def distance(stage):
        differences = unlike(stage)
        return sum(BUG in (outcomes[bug.name], there) for bug, there in differences.items()), len(differences)

    part = known_stages(goal.part)
    like = min([goal, *part, *beside(goal.part)], key=distance)
    bugs = '; '.join(dict.fromkeys(bug.case(result).yours
                                   for bug, result in results.items() if result.outcome == BUG))
    if differences := unlike(like):
        print(f'Yours {bugs}.' if bugs else f'Yours shows none of the bugs of part {goal.part[-1]}.')
        return tell_differences(outcomes, like, differences)
    console.print(f'[bold]Yours behaves like {like.name}[/]: {bugs or "no bug was found"}.')
    if ended := sorted({result.detail for result in stopped.values() if result.outcome == ENDED}):
        print(f'Where it has ended: {", or ".join(ended)}.')
    if like in part[:-1]:
        following = part[part.index(like) + 1].name
        print(f'Next: {following}, make diff-{following}')
    elif NO_CHILD in outcomes.values():
        print(f'It forks no child for a client. {telling.TO_FORK}')


def tell_differences(outcomes, like, differences):
    """Print where a server is unlike the nearest stage; differences is {bug: outcome of that stage}."""
    if NO_CHILD in outcomes.values():
        print('It forks no child for a client: it may use an event loop, threads or a fixed pool.')
        print(telling.TO_FORK)
    missing = {outcomes[bug.name] for bug in differences}
    if missing <= ABOUT.keys():
        about = ' and '.join(words for outcome, words in ABOUT.items() if outcome in missing)
        print(f'Nearest stage: {like.name}. The experiments about {about} do not apply to it.')
        return
    print(f'Nearest stage: {like.name}. The differences:')
    for bug, there in differences.items():
        print(f'    {bug.asks}: {outcomes[bug.name]} ({like.name}: {there})')


def is_explained(result, results):
    """Whether a bug that was found is why a server has ended or does not answer: clients leave everywhere."""
    found = {bug.name: found.case for bug, found in results.items() if found.outcome == BUG}
    is_hung = found.get('leaving_client') in ('hangs', 'processes')
    return result.cause in found or result.outcome == NO_ANSWER and is_hung


def like_none(bug, result):
    """Print what keeps a server from being like any stage."""
    console.print('[bold]Yours behaves like no stage.[/]')
    print(f'At the experiment "{bug.asks}": {result.detail}.')
    print(*(['It printed:', *result.printed] if result.printed else ['It printed nothing.']), sep='\n    ')
    if cause := BUGS.get(result.cause):
        case = cause.case(result)
        print(f'That happens to a server that {case.yours}: make diff-{cured_by(cause, case)}')
    print('Fix that first, and grade it again.')


def grade(command, goal):
    """Run the experiments that the goal, a stage, asks for; return whether nothing is bad."""
    start = partial(own_server, command, patience=settings.positive('PATIENCE', MOST_PATIENCE))
    bugs, results = asked_for(goal), {}
    with console.status('does it serve?') as status:
        tried = first_client(command, start(*goal.arguments))
        start = partial(start, pace=tried.pace, own_port=tried.own_port)
        runs = [partial(measure, bug, start) for bug in bugs]
        with closing(at_once(runs, tried.at_once)) as found:
            for bug in bugs:
                status.update(f'{bug.asks}?')
                results[bug] = next(found)
                report(bug, results[bug], command, tried)
        results = explained(results, lambda bug: alone(partial(measure, bug, start)))
    summary(results, goal)
    return not any(result.is_bad for result in results.values())


def named_goal():
    """The stage that STAGE names, or the last of the PART."""
    part, goal = named_stage('STAGE')
    if goal and not expected(goal):
        sys.exit(f'STAGE={goal.name}: {UNKNOWN}')
    return goal or known_stages(part)[-1]


def main():
    command = os.environ.get('SERVER')
    if not command:
        sys.exit("Name your server: make grade SERVER='python3 my_server.py'")
    goal, watch, files = named_goal(), settings.choice('WATCH', '0', '1') == '1', Files(command)
    while True:
        files.note()
        try:
            status = 0 if grade(command, goal) else 1
        except ServerFailed as failed:
            print(*why_untested(failed), sep='\n', file=sys.stderr)
            status = 2
        if not watch:
            return status
        with console.status('waiting until the file changes; Ctrl-C ends'):
            while not files.were_saved():
                time.sleep(EVERY)
        console.rule(time.strftime('%H:%M:%S'), style='dim')


if __name__ == '__main__':
    run(main)
