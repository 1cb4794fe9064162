"""What is shown of a server, at a moment or over time: tables in the way of ps and netstat, its output."""
import time
from collections import Counter, deque
from contextlib import suppress

import psutil
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.stages import stage_of
from laboratory.instruments import kernel
from laboratory.instruments.client import WORDS
from laboratory.instruments.output import error_in, last_lines, printable

MEANING = {
    'zombie': 'ended, not waited for',
    'stopped': 'stopped, not ended',
    'CLOSE_WAIT': 'not closed on this side',
    'FIN_WAIT2': 'closed on this side only',
}
BARS = '▁▂▃▄▅▆▇█'
HAPPENED = {  # on coming into a state
    'zombie': 'has ended', 'stopped': 'is stopped', 'CLOSE_WAIT': 'half-closed: the client has closed',
    'FIN_WAIT1': 'half-closed: the server has closed', 'FIN_WAIT2': 'half-closed: the server has closed',
}


def table(*columns):
    """A table without lines; a last column is for what is worth a mark."""
    return Table(*columns, '', box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style='dim')


def add_row(rows, *cells, mark=None):
    texts = [Text(printable(str(cell))) for cell in cells]
    rows.add_row(*texts, f'<-- {mark}' if mark else '', style='bold red' if mark else None)


def processes(server, most=3):
    """The server and its children (the first of them) as ps shows them."""
    rows = table('PID', 'PPID', 'STATE', 'FDS', 'COMMAND')
    children = kernel.states(kernel.children(server.pid))
    for pid in [server.pid, *sorted(children)[:most]]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            state = children.get(pid) or kernel.status(pid)
            descriptors = '' if state == 'zombie' else kernel.unless_gone(process.num_fds, '')
            parent, name = kernel.unless_gone(process.ppid, ''), kernel.unless_gone(process.name, '')
            is_end = state == 'zombie' and pid == server.pid
            mark = 'the server itself has ended' if is_end else MEANING.get(state)
            add_row(rows, pid, parent, state, descriptors, name, mark=mark)
    if len(children) > most:
        dead = list(children.values()).count('zombie')
        add_row(rows, '...', '', '', '', '', mark=f'{len(children)} children, {dead} of them zombies')
    return rows


def connections(server, most=4):
    """The connections of a server (the first of them) as netstat shows them, from both ends."""
    port = server.port

    def mark(socket, pid):
        is_waiting = socket.laddr.port == port and pid is None and socket.status == 'ESTABLISHED'
        return 'in the backlog, not accepted' if is_waiting else MEANING.get(socket.status)

    rows = table('LOCAL', 'FOREIGN', 'STATE', 'OF')
    found = sorted(kernel.connections(port), key=lambda end: (end[0].laddr.port != port, end[0].raddr))
    if len(found) > most:
        found.sort(key=lambda end: not mark(*end))
    for socket, pid in found[:most]:
        side = 'server' if socket.laddr.port == port else 'client'
        add_row(rows, f':{socket.laddr.port}', f':{socket.raddr.port}', socket.status, side,
                mark=mark(socket, pid))
    if not found:
        add_row(rows, '(none)', '', '', '')
    if len(found) > most:
        states = Counter(socket.status for socket, _ in found)
        add_row(rows, '...', '', '', '', mark=', '.join(f'{n} {state}' for state, n in states.items()))
    return rows


def output(server, most=6):
    """The last lines that a server printed; errors of the kernel are marked with their names."""
    lines = [(line, error_in(line)) for line in last_lines(server.output(), most)]
    text = Text('\n').join(Text(f'{line}  <-- {error}', 'bold red') if error else Text(line)
                           for line, error in lines)
    text.rstrip()
    return text


def exchange(server):
    """What a client has sent last, and what it got, in the way of curl -v; without it, the processes."""
    sent, reply = server.last_exchange or (b'', None)
    if reply is None:
        return processes(server)
    got, shown = reply.data or f'({WORDS[reply.end]})'.encode(), []
    for mark, data, most in ('>', sent or b'(nothing)', 10), ('<', got, 7):
        lines = data.decode(errors='backslashreplace').removesuffix('\r\n').split('\r\n')
        shown += [f'{mark} {line[:100]}' + '...' * (len(line) > 100) for line in map(printable, lines[:most])]
        if len(lines) > most:
            shown.append(f'{mark} ... {len(lines) - most} more lines')
    return Text('\n'.join(shown).rstrip(), no_wrap=True)


class Watch:
    """What was seen of a server until now; pid and port name it, as for a ServerProcess."""

    def __init__(self, pid, port):
        self.pid, self.port = pid, port
        stage = stage_of(kernel.command(pid))
        self.title = f'Watching {stage.name if stage else "a server"}, process {pid} on port {port}'
        self.states, self.log = {}, deque(maxlen=200)
        self.zombies, self.descriptors = deque(maxlen=40), deque(maxlen=40)

    def look(self):
        """Look once; return what has happened since the last time, as words."""
        children = kernel.states(kernel.children(self.pid))
        now = {f'child {pid}': state for pid, state in children.items()}
        now |= {f'connection :{socket.raddr.port}': socket.status
                for socket, _ in kernel.connections(self.port) if socket.laddr.port == self.port}
        happened, self.states = list(self.events(now)), now
        self.log.extend(f'{time.strftime("%H:%M:%S")} {words}' for words in happened)
        self.zombies.append(list(children.values()).count('zombie'))
        self.descriptors.append(kernel.descriptors([self.pid, *kernel.family(self.pid)]))
        return happened

    def events(self, now):
        """What must have happened for the states to become these."""
        for what, state in now.items():
            before = self.states.get(what)
            if before is None:
                yield f'{what} {"forked" if what.startswith("child") else "opened"}'
            if state != before and state in HAPPENED and HAPPENED.get(before) != HAPPENED[state]:
                yield f'{what} {HAPPENED[state]}'
        for what, state in self.states.items():
            if what not in now:
                end = 'reaped' if state == 'zombie' else 'ended and reaped'
                yield f'{what} {end if what.startswith("child") else "gone"}'

    def screen(self, height):
        """All of it, for a terminal of that many lines."""
        room = max(2, (height - 13) // 3)
        return Group(
            Text(f'{self.title}; q ends\n', 'bold'),
            processes(self, room), Text(),
            connections(self, room), Text(),
            graph('zombies', self.zombies), graph('descriptors', self.descriptors), Text(),
            Text('\n'.join(list(self.log)[-room:]), 'dim'))


def graph(name, values):
    """A sparkline from 0 to the highest of the values, and the last of them."""
    highest = max(values, default=0) or 1
    bars = ''.join(BARS[value * (len(BARS) - 1) // highest] for value in values)
    return Text(f'{name:<12} {bars} {values[-1] if values else 0}')
