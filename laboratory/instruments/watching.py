"""What was seen of a server over time, and the screen that shows it."""
import time
from collections import deque

from rich.console import Group
from rich.text import Text

from common.stages import stage_of
from laboratory.instruments import kernel, views

BARS = '▁▂▃▄▅▆▇█'
HAPPENED = {  # on coming into a state
    'zombie': 'has ended', 'stopped': 'is stopped', 'CLOSE_WAIT': 'half-closed: the client has closed',
    'FIN_WAIT1': 'half-closed: the server has closed', 'FIN_WAIT2': 'half-closed: the server has closed',
}


class Watch:
    """What was seen of a server until now; pid and port name it."""

    def __init__(self, pid, port):
        self.pid, self.port = pid, port
        stage = stage_of(kernel.command(pid))
        self.title = f'Watching {stage.name if stage else "a server"}, process {pid} on port {port}'
        self.states, self.children, self.log = {}, {}, deque(maxlen=200)
        self.zombies, self.descriptors = deque(maxlen=40), deque(maxlen=40)

    def look(self):
        """Look once; return what has happened since the last time, as words."""
        self.children = kernel.states(kernel.children(self.pid))
        children = {f'child {pid}': state for pid, state in self.children.items()}
        connections = {f'connection :{socket.raddr.port}': socket.status
                       for socket, _ in kernel.connections(self.port) if socket.laddr.port == self.port}
        now = children | connections
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
        title = Text(f'{self.title}; q ends', 'bold')
        log = Text('\n'.join(list(self.log)[-room:]), 'dim')
        tables = views.processes(self.pid, room, self.children), Text(), views.connections(self.port, room)
        graphs = graph('zombies', self.zombies), graph('descriptors', self.descriptors)
        return Group(title, Text(), *tables, Text(), *graphs, Text(), log)


def graph(name, values):
    """A sparkline from 0 to the highest of the values, and the last of them."""
    highest = max(values, default=0) or 1
    bars = ''.join(BARS[value * (len(BARS) - 1) // highest] for value in values)
    return Text(f'{name:<12} {bars} {values[-1] if values else 0}')
