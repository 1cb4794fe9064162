"""A small kernel: processes, their descriptors, and the connections that these lead to.

strace tells which calls were made and what they returned. What follows from that is worked out here: who
still holds a connection, whether FIN goes out, who is a zombie, which signal is pending.
"""
from itertools import count
from typing import NamedTuple

from laboratory.instruments.connection import Connection

FIRST_PID = 101


class File:
    """What descriptors lead to: a copy of a descriptor leads to the same File."""

    def __init__(self, kind, connection=None):
        self.kind, self.connection = kind, connection
        self.is_copied = False  # whether there have been copies
        self.is_servers = False  # whether it is bound to the server's port
        self.lingers = True  # False: close() sends RST, see SO_LINGER in socket(7)

    def __str__(self):
        return f'connection {self.connection.number}' if self.connection else self.kind


class Process:
    """A process, or a thread of one.

    number, name   as they are shown: the same in each run
    state          runs, waits, stopped, zombie or gone; where: the call in which it waits, '' for none
    table          {descriptor: File}; threads share it, and handlers
    handlers       {signal: 'SIG_DFL', 'SIG_IGN' or its address}
    """

    def __init__(self, pid, name, number, parent=None, is_thread=False):
        self.pid, self.name, self.number, self.parent = pid, name, number, parent
        self.main = parent.main if is_thread else self
        self.state, self.where, self.pending = 'runs', '', set()
        self.line = None if is_thread else parent and parent.line
        self.back = None  # the line to which it has come back, shown once it does something there
        self.waits_for = ''  # the client or the children for which it waits, in words
        self.handling = []  # the names of the handlers that run in it
        self.was = 'runs'  # before it was stopped
        self.table = parent.table if is_thread else dict(parent.table) if parent else {}
        self.handlers = parent.handlers if is_thread else dict(parent.handlers) if parent else {}

    @property
    def is_thread(self):
        return self.main is not self

    @property
    def is_alive(self):
        return self.state not in ('zombie', 'gone')

    def handles(self, signal):
        return self.handlers.get(signal, 'SIG_DFL') not in ('SIG_DFL', 'SIG_IGN')

    def shown(self):
        table = sorted(self.table.items(), key=lambda item: int(item[0])) if self.is_alive else []
        return {'pid': self.number, 'parent': self.main.parent and self.main.parent.name, 'state': self.state,
                'in': self.where, 'line': self.line, 'fds': {fd: str(file) for fd, file in table},
                'pending': sorted(self.pending), 'thread_of': self.main.name if self.is_thread else None}


class Closed(NamedTuple):
    """What close() has done."""
    fd: str
    file: File
    holders: list  # the names of the processes that still hold it
    sent: str = ''  # FIN or RST, '' for neither
    unread: int = 0  # bytes that nobody will read


class Kernel:
    """processes by pid; connections in their order; limit of the backlog, None where nobody listens."""

    def __init__(self):
        self.processes, self.connections, self.limit = {}, [], None
        self.numbers = {False: count(1), True: count(1)}  # of children, of threads

    def start(self, pid):
        self.processes[pid] = Process(pid, 'server', FIRST_PID)
        return self.processes[pid]

    def fork(self, parent, pid, is_thread=False):
        name = f'{"thread" if is_thread else "child"} {next(self.numbers[is_thread])}'
        child = self.processes[pid] = Process(pid, name, FIRST_PID + len(self.processes), parent, is_thread)
        for file in child.table.values():
            file.is_copied |= not is_thread
        return child

    def descriptors(self):
        """All of them: (process, descriptor, File)."""
        processes = [each for each in self.processes.values() if each.is_alive and not each.is_thread]
        return [(process, fd, file) for process in processes for fd, file in process.table.items()]

    def holders(self, file):
        """Which processes hold it, each with its descriptor: (process, descriptor)."""
        return [(process, fd) for process, fd, held in self.descriptors() if held is file]

    def holders_of(self, connection):
        return [(process, fd) for process, fd, file in self.descriptors() if file.connection is connection]

    def children(self, process):
        return [child for child in self.processes.values() if child.parent is process.main
                and not child.is_thread and child.state != 'gone']

    def backlog(self):
        """The connections that wait for accept(), the first one first."""
        return [each for each in self.connections if each.in_backlog and each.states['server'] != 'CLOSED']

    def connect(self, port):
        """A client connects from that port: the connection is complete before accept() is called."""
        self.connections.append(Connection(len(self.connections) + 1, port))
        return self.connections[-1]

    def accept(self, process, fd, port=None):
        """Take the connection of that port, or the first one, out of the backlog; None without one."""
        found = next((each for each in self.backlog() if port in (each.port, None)), None)
        if found:
            found.in_backlog = False
            process.table[fd] = File('connection', found)
        return found

    def close(self, process, fd):
        """Take a descriptor away; the last one of a file ends what it leads to. None for an unknown one."""
        file = process.table.pop(fd, None)
        if file is None:
            return None
        holders = [holder.name for holder, _ in self.holders(file)]
        if holders or not file.connection:
            if file.kind == 'listening' and not holders:
                self.stop_listening()
            return Closed(fd, file, holders)
        unread = file.connection.unread['server']
        return Closed(fd, file, [], file.connection.close('server', file.lingers), unread)

    def stop_listening(self):
        """Those that nobody has accepted are reset."""
        for connection in self.backlog():
            connection.in_backlog = False
            connection.closed.add('server')
            connection.reset('server')
        self.limit = None

    def exit(self, process):
        """A process has ended: close what it held, tell its parent; return what was closed."""
        process.where = ''
        if process.is_thread:
            process.state = 'gone'
            return []
        for thread in self.processes.values():
            if thread.main is process:
                thread.state, thread.where = 'gone', ''
        process.state = 'runs'  # it holds its descriptors until they are closed one by one
        closed = [self.close(process, fd) for fd in list(process.table)]
        for child in self.children(process):
            child.parent = None  # init's now, which reaps
            child.state = 'gone' if child.state == 'zombie' else child.state
        parent = process.parent
        is_awaited = parent and parent.is_alive and parent.handlers.get('SIGCHLD') != 'SIG_IGN'
        process.state = 'zombie' if is_awaited else 'gone'
        process.pending.clear()
        return closed

    def reap(self, process):
        process.state = 'gone'

    def note_early(self, sockets):
        """What a send() that waits has sent already: only the kernel knows, until it returns."""
        waiting = [file.connection for process, _, file in self.descriptors() if process.where == 'send()']
        for connection in filter(None, waiting):
            ends = [socket for ports, socket in sockets.items() if connection.port in ports]
            there = sum(end.unread + end.unsent for end in ends)
            connection.early = there - connection.unread['client'] - connection.unread['server']

    def shown(self):
        """All of it as the page shows it."""
        listening = {'port': 8888, 'backlog': len(self.backlog()), 'limit': self.limit}
        return {'processes': {process.name: process.shown() for process in self.processes.values()},
                'connections': {str(each.number): self.connection_shown(each) for each in self.connections},
                'listening': None if self.limit is None else listening}

    def connection_shown(self, connection):
        return {'client': f'client {connection.number}',
                'server_end': connection.states['server'], 'client_end': connection.states['client'],
                'to_server': connection.unread['server'],
                'to_client': connection.unread['client'] + connection.early,
                'in_backlog': connection in self.backlog()}
