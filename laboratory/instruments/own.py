"""The reader's own server: a command that a shell runs, in any language, within bounds."""
import errno
import os
import re
import shlex
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from common import stages
from common.run import FRAMEWORKS
from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, connect, readable
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import APPS, Bounds, ServerFailed, ServerProcess, server_path
from laboratory.instruments.runs import AT_ONCE, alone
from laboratory.instruments.saves import files_in, stamps

SECONDS = 60  # for each experiment; more for a slow server
SLOWEST = 5  # seconds that a reply may take
USUAL = '8888'  # the port of a server that listens where PORT says, for what is typed
BETWEEN = 1.5  # seconds that it may pause
PROCESSES = 200  # at the same time; the experiments need 25, those of part 4 150
OUTPUT = 20_000 * 512  # bytes, in each file
LIMITS = '; '.join([
    'ulimit -n 256',  # descriptors of each process
    f'ulimit -f {OUTPUT // 512}',  # blocks of 512 bytes, in each file that it writes
    '{ echo 5 > /proc/self/autogroup; } 2>/dev/null',  # so that a fork bomb does not starve us, see sched(7)
])


def own_server(command, app=None, pep475='on', env=(), pace=0.0, patience=0.0, own_port=None):
    """A ServerProcess that runs the reader's command, within bounds."""
    port = str(free_port())
    env = {'PORT': port, 'PYTHONPATH': server_path(pep475), 'WORKERS': '2', **dict(env)}
    if app:  # run by the Python that has the frameworks
        env['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    bounds = Bounds(PROCESSES, SECONDS + 50 * pace + patience, OUTPUT)
    command = ['sh', '-c', f'{LIMITS}; {as_run(command, port, app, pep475)}']
    return ServerProcess(command, env, bounds, pace, patience, own_port)


def as_run(command, port, app=None, pep475='on'):
    """The reader's command with its port, and its application, if any, where {app} stands or behind it."""
    command = command.replace('{port}', port)
    if app and '{app}' not in command:  # before a comment, and what would go on in the next line
        command = re.sub(r'(\s#.*|\s*\\)?$', r' {app}\1', command.rstrip(), count=1).rstrip(' \\')
    if pep475 == 'off':  # -s for Python's -I and -E, which would keep the accept() of Python 2 out
        command = re.sub(r'(\bpython[\d.]*(?: +-[a-zA-Z]+)*? +-[a-zA-Z]*)[IE]', r'\1s', command)
    return command.replace('{app}', app or '')


class Tried(NamedTuple):
    """What a first client has found out about a server."""
    pace: float  # the longest pause in its reply, in seconds
    port: str  # one of its own, if it does not listen where PORT says; else 8888, for what is typed
    is_python3: bool
    is_built: bool = False  # whether the command writes a file that it names, as a compiler does

    @property
    def own_port(self):
        """Where it listens whatever PORT says, None for nowhere."""
        return None if self.port == USUAL else int(self.port)

    @property
    def at_once(self):
        """How many of it can be tested at the same time."""
        return 1 if self.is_built or self.own_port else AT_ONCE


def first_client(command, server, look=lambda: None):
    """What try_out() finds out about a server that the command starts; look: as for at_once()."""
    before = stamps(files_in(command))
    tried = alone(partial(try_out, server), look)
    return tried._replace(is_built=stamps(files_in(command)) != before)


def try_out(server):
    """Run a server for one client; return what is Tried. Raises ServerFailed."""
    with server:
        server.pace = SLOWEST / 3  # until its first byte tells how slow it is
        try:
            client = connect(server)
        except OSError as error:
            ended = kernel.eventually(server.is_gone, 1)
            raise ServerFailed(
                f'ended before its first client came{server.exit_status()}' if ended else
                f'refuses a connection to 127.0.0.1, port {server.port}: {error.strerror}',
                server.output()) from None
        times, closed, answered = [time.monotonic()], True, False
        with client, suppress(ConnectionError):
            client.sendall(REQUEST)
            while closed := server.wait_until(partial(readable, client)):
                piece = client.recv(65536)
                answered |= bool(piece)
                times.append(time.monotonic())
                if not piece or times[-1] - times[0] > SLOWEST:
                    break
                server.pace = BETWEEN / 3
        if not answered:
            seconds = time.monotonic() - times[-1]
            ended = kernel.eventually(server.has_ended, 1)
            raise ServerFailed(f'ended when its first client came{server.exit_status()}' if ended else
                               'closed the connection without an answer' if closed else
                               f'did not answer a request in {seconds:.1f} seconds', server.output())
        pace = max(after - before for before, after in pairwise(times))
        port = USUAL if str(server.port) == server.env['PORT'] else str(server.port)
        return Tried(pace, port, kernel.is_python3(server.pid))


def start_line(command, app='', pep475='on', port='8888'):
    """What is typed to start the server in a terminal of its own, with an application or the old accept()."""
    modules = {app.partition(':')[0]} if app else set(re.findall(r'\b(\w+):\w', command))
    folders = [folder for folder in (APPS, 'part2/apps')
               if any((stages.ROOT / folder / f'{module}.py').exists() for module in modules)]
    folders += [stages.PYTHON2_ACCEPT] * (pep475 == 'off')
    variables = [f'PORT={port}', *['PATH=$PWD/.venv/bin:$PATH'] * (modules & {*FRAMEWORKS} != set()),
                 *['PYTHONPATH=' + ':'.join(f'$PWD/{folder}' for folder in folders)] * bool(folders)]
    command = as_run(command, port, app, pep475)
    if not re.fullmatch(r'(?!(\S+=\S* )*exec )[\w./ =:-]+', command):  # exec would replace the reader's shell
        command = f'sh -c {shlex.quote(command)}'
    return ' '.join([*variables, command])


def why_untested(failed):
    """The lines that tell a reader why the server could not be tested, and what it printed."""
    told = f'Your server could not be tested: it {failed.what}.'
    if os.strerror(errno.EADDRINUSE) in str(failed):
        told += (' It is started anew for each experiment, so listen on the port in PORT. If you cannot, set '
                 'SO_REUSEADDR before bind(), and end whatever else listens on your port.')
    return [f'{told} It printed{":" if failed.printed else " nothing."}', *failed.printed]
