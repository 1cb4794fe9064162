"""Tables of what the kernel says, in the way of ps and netstat."""
from collections import Counter

import psutil
from rich.table import Table
from rich.text import Text

from laboratory.instruments import kernel
from laboratory.instruments.client import WORDS
from laboratory.instruments.process import last_lines, printable

MEANING = {
    'zombie': 'ended, not waited for',
    'stopped': 'stopped, not ended',
    'CLOSE_WAIT': 'not closed on this side',
    'FIN_WAIT2': 'closed on this side only',
}


def table(*columns):
    """A table without lines; a last column is for what is worth a mark."""
    return Table(*columns, '', box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style='dim')


def add_row(rows, *cells, mark=None):
    texts = [Text(printable(str(cell))) for cell in cells]
    rows.add_row(*texts, f'<-- {mark}' if mark else '', style='bold red' if mark else None)


def processes(pid, most=3, states=None):
    """The server and its children (the first of them) as ps shows them.

    states    {child: state} as seen a moment ago; looked up now if not given
    """
    rows = table('PID', 'PPID', 'STATE', 'FDS', 'COMMAND')
    states = kernel.states(kernel.children(pid)) if states is None else states
    children = sorted(states)
    for shown in [pid, *children[:most]]:
        process = kernel.seen(lambda p=shown: psutil.Process(p), None)
        if process:
            state = states.get(shown) or kernel.status(shown)
            descriptors = '' if state == 'zombie' else kernel.seen(process.num_fds, '')
            known = kernel.seen(process.ppid, ''), state, descriptors, kernel.seen(process.name, '')
            mark = 'the server itself has ended' if (shown, state) == (pid, 'zombie') else MEANING.get(state)
            add_row(rows, shown, *known, mark=mark)
    if len(children) > most:
        dead = list(states.values()).count(psutil.STATUS_ZOMBIE)
        add_row(rows, '...', '', '', '', '', mark=f'{len(children)} children, {dead} of them zombies')
    return rows


def connections(port, most=4):
    """The connections to a port (the first of them) as netstat shows them, from both ends."""
    rows = table('LOCAL', 'FOREIGN', 'STATE', 'OF')
    def mark(socket, pid):
        is_waiting = socket.laddr.port == port and pid is None and socket.status == 'ESTABLISHED'
        return 'in the backlog, not accepted' if is_waiting else MEANING.get(socket.status)

    found = sorted(kernel.connections(port), key=lambda end: (end[0].laddr.port != port, end[0].raddr))
    if len(found) > most:
        found.sort(key=lambda end: not mark(*end))
    for socket, pid in found[:most]:
        side = 'server' if socket.laddr.port == port else 'client'
        ports = f':{socket.laddr.port}', f':{socket.raddr.port}'
        add_row(rows, *ports, socket.status, side, mark=mark(socket, pid))
    if not found:
        add_row(rows, '(none)', '', '', '')
    if len(found) > most:
        states = Counter(socket.status for socket, _ in found)
        add_row(rows, '...', '', '', '', mark=', '.join(f'{n} {state}' for state, n in states.items()))
    return rows


def output(server, most=6):
    """The last lines that a server printed; the error that ended it is marked."""
    text = Text()
    for line in last_lines(server.output(), most):
        error = line.startswith('InterruptedError')
        text.append(f'{line}  <-- EINTR\n' if error else f'{line}\n', 'bold red' if error else '')
    text.rstrip()
    return text


def exchange(sent, reply):
    """What a client has sent, and what it got: the first lines, marked as curl -v marks them."""
    text = Text(no_wrap=True)
    got = reply.data or f'({WORDS[reply.end]})'.encode()
    for mark, data, most in ('>', sent or b'(nothing)', 10), ('<', got, 7):
        lines = data.decode('latin-1').removesuffix('\r\n').split('\r\n')
        for line in map(printable, lines[:most]):
            text.append(f'{mark} {line[:100]}' + '...' * (len(line) > 100) + '\n')
        if len(lines) > most:
            text.append(f'{mark} ... {len(lines) - most} more lines\n')
    text.rstrip()
    return text


def is_empty(seen):
    """Whether a view is a table without rows, as of a server that has ended."""
    return getattr(seen, 'row_count', 1) == 0


VIEWS = {  # by name, of a running server
    'processes': lambda server: processes(server.pid),
    'connections': lambda server: connections(server.port),
    'output': output,
}
