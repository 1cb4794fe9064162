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

from common import stages
from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, connect, readable
from laboratory.instruments.process import Bounds, ServerFailed, ServerProcess, free_port, server_path

SECONDS = 60  # for each question; more for a slow server
SLOWEST = 5  # seconds that a reply may take
BETWEEN = 1.5  # seconds that it may pause
IN_USE = os.strerror(errno.EADDRINUSE)
PROCESSES = 200  # at the same time; the experiments need 25, those of part 4 150
OUTPUT = 20_000 * 512  # bytes, in each file
LIMITS = '; '.join([
    'ulimit -n 256',  # descriptors of each process
    f'ulimit -f {OUTPUT // 512}',  # blocks of 512 bytes, in each file that it writes
    '{ echo 5 > /proc/self/autogroup; } 2>/dev/null',  # so that a fork bomb does not starve us, see sched(7)
])


def own_server(command, app=None, pep475='on', env=(), pace=0.0, patience=0.0):
    """A ServerProcess that runs the reader's command, within bounds."""
    port = str(free_port())
    command = as_run(command, port, app, pep475)
    env = {'PORT': port, 'PYTHONPATH': server_path(pep475), 'WORKERS': '2', **dict(env)}
    if app:  # run by the Python that has the frameworks
        env['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    bounds = Bounds(PROCESSES, SECONDS + 50 * pace + patience, OUTPUT)
    command = ['sh', '-c', f'{LIMITS}; {command}']
    return ServerProcess(command, env=env, bounds=bounds, pace=pace, patience=patience)


def as_run(command, port, app, pep475):
    """The reader's command with its port and its application (None or '' for none)."""
    command = with_app(command.replace('{port}', port), app)
    return heeding_pythonpath(command) if pep475 == 'off' else command


def with_app(command, app=None):
    """The command with the application, if any, where {app} stands, or behind it."""
    if not app or '{app}' in command:
        return command.replace('{app}', app or '')
    # before a comment, and what would go on in the next line
    return re.sub(r'(\s#.*|\s*\\)?$', rf' {app}\1', command.rstrip(), count=1).rstrip(' \\')


def heeding_pythonpath(command):
    """The command with -s for Python's -I and -E, which would keep the accept() of Python 2 out."""
    return re.sub(r'(\bpython[\d.]*(?: +-[a-zA-Z]+)*? +-[a-zA-Z]*)[IE]', r'\1s', command)


def try_out(server):
    """Run a server for one client; return the longest pause in the reply, in seconds. Raises ServerFailed."""
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
            ended = kernel.eventually(server.has_ended, 1)
            raise ServerFailed(f'ended when its first client came{server.exit_status()}' if ended else
                               'closed the connection without an answer' if closed else
                               f'did not answer a request within {SLOWEST} seconds', server.output())
        return max(after - before for before, after in pairwise(times))


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


def files_in(command):
    """The files that the command names."""
    command = re.sub(r'>+\s*\S+', '>', command)  # what it writes to is no file of the reader
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # the shell will say what is wrong with it
        words = command.split()
    return [word for word in words if os.path.isfile(word)]


def why_untested(failed):
    """The lines that tell a reader why the server could not be tested, and what it printed."""
    told = f'Your server could not be tested: it {failed.what}.'
    if IN_USE in str(failed):
        told += (' It is started anew for each question, so listen on the port in PORT. If you cannot, set '
                 'SO_REUSEADDR before bind(), and end whatever else listens on your port.')
    return [f'{told} It printed:', *failed.printed] if failed.printed else [f'{told} It printed nothing.']
