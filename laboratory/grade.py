"""Tests a server of your own with every experiment, and says which stage it behaves like.

The command is run by a shell, with PORT in its environment; {port} in it is replaced too. The exit
status is 0 when the stage is reached, 1 when it is not, 2 when the server could not be tested.
"""
import argparse
import os
import random
import re
import shlex
import socket
import sys
import time
from functools import partial

from rich.padding import Padding
from rich.text import Text

from common import stages
from common.exchange import exchange
from common.experiments import BUG, ENDED, eintr, measure
from common.process import Bounds, ServerFailed, ServerProcess
from common.stages import python_path
from laboratory.hints import HINTS
from laboratory.matrix import COLUMNS, STYLES
from laboratory.terminal import console, run

SECONDS = 50  # for the whole of it
PROCESSES = 100  # at the same time; the experiments need 25
LIMITS = '; '.join([
    'ulimit -n 256',  # descriptors of each process
    'ulimit -f 20000',  # blocks of 512 bytes, in each file that it writes
    '{ echo 5 > /proc/self/autogroup; } 2>/dev/null',  # so that a fork bomb does not starve us, see sched(7)
])


def free_port():
    """A port below those that kernels give to clients: nobody else takes it by chance."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', random.randrange(10_000, 32_000)))
            except OSError:
                continue
            return probe.getsockname()[1]


def own_server(command, deadline, app=None, pep475='on'):
    """A ServerProcess that runs the reader's command, within bounds."""
    port = str(free_port())
    command = f'{LIMITS}; {command.replace("{port}", port)} {app or ""}'
    env = {'PORT': port, 'PYTHONPATH': python_path(pep475)}
    if app:  # run by the Python that has the frameworks
        env['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    return ServerProcess(['sh', '-c', command], env=env, bounds=Bounds(PROCESSES, deadline))


def try_out(server):
    """Be one client; a server that does not answer is broken."""
    try:
        reply, _ = exchange(server.pid, server.port)
    except OSError as error:
        reply = b''
        server.broken = f'refuses a connection to 127.0.0.1, port {server.port}: {error.strerror}'
    if not reply:
        server.broken = server.broken or 'did not answer a request'


def required(stage):
    """The experiments that find no bug in this stage and in all after it."""
    rows = stages.expected(stage.part)
    later = list(rows)[list(rows).index(stage.name):]
    return [experiment for experiment in COLUMNS[stage.part]
            if all(rows[name][experiment.__name__] != BUG for name in later)]


def status_line(stage):
    """What a stage's page says of it: 'gives descriptors back; leaves zombies'."""
    page = (stages.ROOT / stage.folder / 'README.md').read_text()
    return re.search(r'^\*\*Status: (.*?)\.?\*\*$', page, re.MULTILINE)[1]


def report(experiment, verdict, part):
    """Print a verdict and, for a bug, how to see and how to cure it."""
    console.print(f'[{STYLES.get(verdict.outcome, "dim")}]{verdict.outcome:<10}[/] {experiment.__doc__}')
    console.print(Padding(Text(verdict.evidence, 'dim'), (0, 0, 0, 11)))
    if verdict.outcome == BUG:
        hint = HINTS[experiment.__name__]
        cure = next(stage for stage in part if experiment in required(stage))
        console.print(f'           type: {hint.command}', markup=False, soft_wrap=True)
        console.print(Padding(Text(hint.look), (0, 0, 0, 11)))
        console.print(f'           cure: make diff-{cure.name}')


def grade(command, goal):
    """Run the experiments that the goal, a stage, asks for; return whether none finds a bug."""
    deadline = time.monotonic() + SECONDS
    start = partial(own_server, command, deadline)
    part = stages.stages_of(goal.part)
    bugs, ended = set(), False
    with console.status('does it serve?') as status:
        with start('wsgiapp:app' if goal.part == 'part2' else None) as server:
            try_out(server)
        for experiment in required(goal):
            status.update(f'{experiment.__doc__}?')
            verdict = measure(experiment, start)
            report(experiment, verdict, part)
            ended |= verdict.outcome == ENDED
            if verdict.outcome == BUG:
                bugs.add(experiment)
    if ended and eintr not in bugs:
        raise ServerFailed('ended while it was tested')
    reached = [stage for stage in part if not bugs & set(required(stage))]
    if not reached:
        console.print(f'\nYours behaves like no stage yet. First: {part[0].name}')
    else:
        like = min(reached[-1], goal, key=part.index)
        console.print(f'\n[bold]Yours behaves like {like.name}[/]: {status_line(like)}.')
        if like != part[-1]:
            following = part[part.index(like) + 1]
            console.print(f'Next: {following.name}, make diff-{following.name}')
    return not bugs


def changes(command):
    """When each file that the command names was changed."""
    files = [word for word in shlex.split(command) if os.path.isfile(word)]
    return [(name, os.stat(name).st_mtime_ns) for name in files if os.path.exists(name)]


def main():
    parser = argparse.ArgumentParser(prog='make grade', description=__doc__)
    parser.add_argument('--server', default=os.environ.get('SERVER'), help='the command')
    parser.add_argument('--part', choices=['2', '3'], default=os.environ.get('PART', '3'))
    parser.add_argument('--stage', default=os.environ.get('STAGE'), help='grade up to this one')
    parser.add_argument('--watch', action='store_true', default=os.environ.get('WATCH', '') not in ('', '0'),
                        help='again whenever the file changes')
    args = parser.parse_args()
    if not args.server:
        parser.error("name your server: make grade SERVER='python3 my_server.py'")
    goals = {stage.name: stage for part in COLUMNS for stage in stages.stages_of(part)}
    goal = goals.get(args.stage or f'part{args.part}-final')
    if goal is None:
        parser.error(f'no such stage, or none with experiments: name one of {", ".join(goals)}')
    while True:
        seen = changes(args.server)
        try:
            status = 0 if grade(args.server, goal) else 1
        except ServerFailed as failed:
            print(f'Your server could not be tested: it {failed}', file=sys.stderr)
            status = 2
        if not args.watch:
            return status
        with console.status('waiting until the file changes; Ctrl-C ends'):
            while changes(args.server) == seen:
                time.sleep(0.2)


if __name__ == '__main__':
    run(main)
