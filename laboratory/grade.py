"""make grade SERVER='python3 my_server.py': tests a server of your own, in any language.

A shell runs the command. The port to listen on is in the variable PORT. The grader also puts it in
place of {port} in the command.

    PART=2            tests a WSGI server, which gets an application as module:callable: at the end
                      of the command, or in place of {app}; python3 has the frameworks here
    PART=4            tests a WSGI server, and what becomes of its workers and connections as well
    PATIENCE=35       the seconds in which it has reached its time limits (part 4)
    STAGE=part3-v1.1  asks only for what that stage can do
    WATCH=1           tests again whenever a file that the command names changes

The exit status is 0 if no bug was found, 1 if a question found a bug or could not be answered, and
2 if the server could not be tested. (Under make, every status but 0 becomes 2.)
"""
import errno
import os
import re
import shlex
import sys
import textwrap
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise

from rich.text import Text

from common import settings, stages
from laboratory.experiments.hints import NO_STAGE, hint
from laboratory.experiments.tables import EXPERIMENTS, due, questions
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
from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, connect, readable
from laboratory.instruments.process import Bounds, ServerFailed, ServerProcess, free_port, server_path
from laboratory.instruments.terminal import STYLES, console, run

SECONDS = 60  # for each question; more for a slow server
SLOWEST = 5  # seconds that a reply may take
BETWEEN = 1.5  # seconds that it may pause
PATIENCE = 35  # seconds; the time limits of many servers are 30
IN_USE = os.strerror(errno.EADDRINUSE)
PROCESSES = 200  # at the same time; the experiments need 25, those of part 4 150
LIMITS = '; '.join([
    'ulimit -n 256',  # descriptors of each process
    'ulimit -f 20000',  # blocks of 512 bytes, in each file that it writes
    '{ echo 5 > /proc/self/autogroup; } 2>/dev/null',  # so that a fork bomb does not starve us, see sched(7)
])


def own_server(command, app=None, pep475='on', env=(), pace=0.0, patience=0.0):
    """A ServerProcess that runs the reader's command, within bounds."""
    port = str(free_port())
    command = as_run(command, port, app, pep475)
    env = {'PORT': port, 'PYTHONPATH': server_path(pep475), 'WORKERS': '2', **dict(env)}
    if app:  # run by the Python that has the frameworks
        env['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    bounds = Bounds(PROCESSES, SECONDS + 50 * pace + patience)
    command = ['sh', '-c', f'{LIMITS}; {command}']
    return ServerProcess(command, env=env, bounds=bounds, pace=pace, patience=patience)


def as_run(command, port, app, pep475):
    """The reader's command with its port and its application (None or '' for none)."""
    command = with_app(command.replace('{port}', port), app)
    return heeding_pythonpath(command) if pep475 == 'off' else command


def with_app(command, app):
    """The command with the application where {app} stands, or behind it."""
    if not app or '{app}' in command:
        return command.replace('{app}', app or '')
    # before a comment, and what would go on in the next line
    return re.sub(r'(\s#.*|\s*\\)?$', rf' {app}\1', command.rstrip(), count=1).rstrip(' \\')


def heeding_pythonpath(command):
    """The command with -s for Python's -I and -E, which would keep the accept() of Python 2 out."""
    return re.sub(r'(\bpython[\d.]*(?: +-[a-zA-Z]+)*? +-[a-zA-Z]*)[IE]', r'\1s', command)


def try_out(start, app):
    """Be the first client; return the longest pause in the answer, in seconds. Raises ServerFailed."""
    with start(app) as server:
        server.pace = SLOWEST / 3  # until its first byte tells how slow it is
        try:
            client = connect(server)
        except OSError as error:
            refused = f'refuses a connection to 127.0.0.1, port {server.port}: {error.strerror}'
            raise ServerFailed(refused, server.output()) from None
        times, closed = [time.monotonic()], True
        with client, suppress(ConnectionError):
            client.sendall(REQUEST)
            while closed := server.wait_until(partial(readable, client)):
                if not client.recv(65536) or times[-1] - times[0] > SLOWEST:
                    break
                times.append(time.monotonic())
                server.pace = BETWEEN / 3
        if len(times) == 1:
            ended = kernel.eventually(server.has_ended, 1)
            raise ServerFailed('ended when its first client came' if ended else
                               'closed the connection without an answer' if closed else
                               f'did not answer a request within {SLOWEST} seconds', server.output())
        return max(after - before for before, after in pairwise(times))


def asked_for(stage):
    """The experiments that this stage passes; for the last one of a part, all of the part."""
    row, is_last = due(stage), stage == stages.stages_of(stage.part)[-1]
    return [experiment for experiment in questions(stage.part) if is_last or row[experiment.__name__] == PASS]


def cure(name, part):
    """The stage from which on the experiment of that name finds no bug, or None; part 2 cures its own."""
    if name in {experiment.__name__ for experiment in EXPERIMENTS['part2']}:
        part = stages.stages_of('part2')
    bad = [stage for stage in part if due(stage)[name] == BUG]
    after = part[part.index(bad[-1]) + 1:] if bad else []
    return after[0] if after else None


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


def start_line(shown, command):
    """What is typed to start the server for a hint, in a terminal of its own."""
    pep475 = 'off' if shown.path == stages.PYTHON2_ACCEPT else 'on'
    variables = 'PORT=8888 '
    if shown.app:
        variables += 'PATH=$PWD/.venv/bin:$PATH '
    if shown.path:
        variables += f'PYTHONPATH=$PWD/{shown.path} '
    return variables + as_one_command(as_run(command, '8888', shown.app, pep475))


def as_one_command(command):
    """A command as it can stand behind variables; exec would replace the shell of the reader."""
    plain = re.fullmatch(r'(?!(\S+=\S* )*exec )[\w./ =:-]+', command)
    return command if plain else f'sh -c {shlex.quote(command)}'


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
        if all(outcomes[name] in (NO_CHILD, NO_HANDLER, NO_WORKER) for name in unlike(like)):
            which = 'workers' if goal.part == 'part4' else 'children'
            print(f'Nearest stage: {like.name}. The questions about {which} do not apply to it.')
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
        print('A SIGCHLD ended accept(), and you did not call it again: make diff-part3-v1.3')
    print('Fix that first, and grade it again.')


def grade(command, goal):
    """Run the experiments that the goal, a stage, asks for; return whether none found a bug."""
    start = partial(own_server, command, patience=settings.positive('PATIENCE', PATIENCE))
    part = stages.stages_of(goal.part)
    verdicts = {}
    with console.status('does it serve?') as status:
        pace = try_out(start, 'wsgiapp:app' if goal.arguments else None)
        for experiment in asked_for(goal):
            status.update(f'{experiment.__doc__}?')
            verdicts[experiment] = verdict = measure(experiment, partial(start, pace=pace))
            report(experiment, verdict, part, command)
    summary(verdicts, goal)
    return not any(verdict.outcome in (BUG, *NO_VERDICT) for verdict in verdicts.values())


def changes(command):
    """When each file that the command names was changed."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # the shell will say what is wrong with it
        words = command.split()
    files = [word for word in words if os.path.isfile(word)]
    return [(name, os.stat(name).st_mtime_ns) for name in files if os.path.exists(name)]


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
            print(f'Your server could not be tested: it {failed}', file=sys.stderr)
            if IN_USE in str(failed):
                print('It is started anew for each question: listen on the port in PORT, or set SO_REUSEADDR '
                      'before bind().', file=sys.stderr)
            status = 2
        if not watch:
            return status
        with console.status('waiting until the file changes; Ctrl-C ends'):
            while changes(command) == seen:
                time.sleep(0.2)
        console.rule(time.strftime('%H:%M:%S'), style='dim')


if __name__ == '__main__':
    run(main)
