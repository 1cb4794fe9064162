"""Prints the pids of the processes that listen on PORT, one a line, the oldest first.

    python3 -m common.pid

The first is the server, or the supervisor of its workers. The exit status is 1 where there is none.
"""
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

from common.output import show

PROC = os.path.exists('/proc/net/tcp')  # as on Linux


def listeners(port):
    """The pids of the processes that listen on a TCP port, the oldest first.

    A None behind them stands for other users' processes, which we may not see; macOS leaves them out.
    """
    if not PROC:
        return sorted(map(int, output('lsof', '-nPt', f'-iTCP:{port}', '-sTCP:LISTEN').split()))
    listening, found = sockets_on(port), {}
    for pid in filter(str.isdigit, os.listdir('/proc') if listening else []):
        if theirs := listening.intersection(files_of(pid)):
            with suppress(OSError):  # it has just ended
                started = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]  # see proc(5)
                found[int(started), int(pid)] = theirs
    hidden = listening.difference(*found.values()) & sockets_on(port)  # and not just closed
    return [pid for _, pid in sorted(found)] + [None] * bool(hidden)


def sockets_on(port):
    """The sockets that listen on the port, as the links in /proc/*/fd name them."""
    return {socket for socket, number in listening().items() if number == port}


def listening(among=None):
    """{socket: port} of all sockets that listen; at least of those among the given ones, which is quicker."""
    found = {}
    for path in 2 * ['/proc/net/tcp', '/proc/net/tcp6']:  # again: it is read in pieces, and may miss one
        if not os.path.exists(path) or among is not None and among <= found.keys():
            continue
        with open(path) as file:
            for _, local, _, state, *rest in map(str.split, islice(file, 1, None)):
                if state != '0A':  # TCP_LISTEN; these come first, and the others can be thousands
                    break
                found[f'socket:[{rest[5]}]'] = int(local.rpartition(':')[2], 16)
    return found


def files_of(pid):
    """The links in /proc/*/fd of a process, in the order of its descriptors; of other users' none."""
    with suppress(OSError):
        for fd in os.scandir(f'/proc/{pid}/fd'):
            with suppress(OSError):  # it has just been closed
                yield os.readlink(fd)


def command(pid):
    """What a process runs, in at most 80 characters; '' where it has ended, or ps is not installed."""
    return ' '.join(output('ps', '-o', 'args=', '-p', str(pid)).split())[:80]


def output(*words):
    """What a command prints; '' where it is not installed."""
    return (subprocess.run(words, text=True, errors='replace', capture_output=True).stdout
            if shutil.which(words[0]) else '')


def main():
    from common import settings  # which asks this module who has the port
    port = settings.port(lowest=1)
    pids = listeners(port)
    if not any(pids):
        who = "another user's server" if pids else 'nothing'
        sys.exit(f'{who} listens on PORT={port}')
    show(map(str, filter(None, pids)))


if __name__ == '__main__':
    main()
