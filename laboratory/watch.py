"""Shows, live, the server that listens on PORT: its processes, its connections, what happens to them.

It looks through the kernel and never connects. What comes and goes between two looks is not seen.
"""
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.text import Text

from common import settings
from laboratory.instruments import kernel, views
from laboratory.instruments.terminal import console, run

EVERY = 0.25  # seconds between two looks at the least
SHARE = 0.06  # of one core at the most
BARS = '▁▂▃▄▅▆▇█'
HAPPENED = {  # on coming into a state
    'zombie': 'has ended', 'stopped': 'is stopped', 'CLOSE_WAIT': 'half-closed: the client has closed',
    'FIN_WAIT1': 'half-closed: the server has closed', 'FIN_WAIT2': 'half-closed: the server has closed',
}


class Watch:
    """What was seen of a server until now; pid and port name it."""

    def __init__(self, pid, port):
        self.pid, self.port = pid, port
        self.states, self.log = {}, deque(maxlen=200)
        self.zombies, self.descriptors = deque(maxlen=40), deque(maxlen=40)

    def look(self):
        """Look once; return what has happened since the last time, as words."""
        children = {f'child {pid}': kernel.status(pid) for pid in kernel.children(self.pid)}
        connections = {f'connection :{socket.raddr.port}': socket.status
                       for socket, _ in kernel.connections(self.port) if socket.laddr.port == self.port}
        now = {what: state for what, state in (children | connections).items() if state != 'gone'}
        happened = list(self.events(now))
        self.states = now
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
                yield f'{what} {"reaped" if state == "zombie" else "ended and reaped"}' \
                    if what.startswith('child') else f'{what} gone'

    def screen(self, height):
        """All of it, for a terminal of that many lines."""
        room = max(2, (height - 13) // 3)
        title = Text(f'Watching process {self.pid} on port {self.port}; q ends', 'bold')
        log = Text('\n'.join(list(self.log)[-room:]), 'dim')
        tables = views.processes(self.pid, room), Text(), views.connections(self.port, room)
        graphs = graph('zombies', self.zombies), graph('descriptors', self.descriptors)
        return Group(title, Text(), *tables, Text(), *graphs, Text(), log)


def graph(name, values):
    """A sparkline from 0 to the highest of the values, and the last of them."""
    highest = max(values, default=0) or 1
    bars = ''.join(BARS[value * (len(BARS) - 1) // highest] for value in values)
    return Text(f'{name:<12} {bars} {values[-1] if values else 0}')


@contextmanager
def keys():
    """Gives pressed(seconds): whether q is pressed within that time."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield lambda seconds: bool(select.select([sys.stdin], [], [], seconds)[0]) and os.read(0, 1) in b'qQ'
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def watch(port, pressed):
    """Wait for a server on that port and watch it until it ends or q is pressed."""
    with console.status(f'Nothing listens on port {port} yet: run a stage in another terminal'):
        while not (pid := kernel.who_listens(port)):
            if pressed(1):
                return
    seen = Watch(pid, port)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal, transient=True) as live:
        while kernel.status(seen.pid) not in ('gone', 'zombie'):
            began = time.process_time()
            happened = seen.look()
            if console.is_terminal:
                live.update(seen.screen(console.height), refresh=True)
            else:
                print(*happened, sep='\n', end='\n' if happened else '', flush=True)
            if pressed(max(EVERY, (time.process_time() - began) / SHARE)):
                return
    console.print(f'The server, process {seen.pid}, has ended.')


def main():
    try:
        with keys() as pressed:
            watch(settings.port(), pressed)
    except KeyboardInterrupt:
        pass  # Ctrl-C is a way to end this, as q is


if __name__ == '__main__':
    run(main)
