"""What the kernel says of a server at one moment: its threads, descriptors and connections (Linux)."""
import os
import re
import signal
from typing import NamedTuple

from laboratory.instruments import kernel
from laboratory.instruments.connection import GONE
from laboratory.instruments.sentences import called

WHERE = {  # what a thread waits in, by the place in the kernel, where no call that is traced tells
    'hrtimer_nanosleep': 'sleep()', 'do_sigtimedwait': 'sigwait()', 'futex_wait_queue': 'a lock'}


class Task(NamedTuple):
    """A thread of a process, or its only one."""
    tid: int
    pid: int
    state: str  # R, S, T, t, Z, ..., see proc(5)
    switches: str  # how often it has got a CPU
    blocked: int  # the signals that it blocks, a bit for each
    waits: str  # where in the kernel, '' where it does not tell

    def __str__(self):
        return f'{self.state} in {self.waits}'

    def is_at_a_line(self):
        """Whether it waits for its turn, see common/marked_lines."""
        is_open = not self.blocked >> (signal.SIGRTMAX - 1) & 1
        return self.state == 'S' and is_open and 'sigtimedwait' in self.waits


class Look(NamedTuple):
    tasks: dict  # {tid: Task}
    files: dict  # {pid: {descriptor: link}}
    sockets: dict  # {(port, port of the other end): Socket} of both ends
    pending: dict  # {pid: whether SIGCHLD is}


class Socket(NamedTuple):
    state: str  # see STATES
    unsent: int
    unread: int  # of a socket that listens the clients that wait for accept()
    link: str  # as descriptors name it

    def __str__(self):
        return f'{self.state}, {self.unread} unread'


STATES = {  # FIN_WAIT1 and LAST_ACK last until the other end has heard the FIN, and count as what comes then
    '01': 'ESTABLISHED', '04': 'FIN_WAIT2', '05': 'FIN_WAIT2', '06': 'TIME_WAIT', '07': 'CLOSED',
    '08': 'CLOSE_WAIT', '09': 'CLOSED', '0A': 'LISTEN'}


def tasks_of(pids):
    """The threads of these processes."""
    return [task for pid in pids for folder in kernel.tasks(pid) if (task := read_task(pid, folder))]


def read_task(pid, folder):
    """The Task in a folder of /proc, None where it has ended."""
    status = dict(re.findall(r'^(\w+):\s+(\S+)', kernel.read(f'{folder}/status'), re.MULTILINE))
    if not status:
        return None
    switches = '{voluntary_ctxt_switches} {nonvoluntary_ctxt_switches}'.format_map(status)
    return Task(int(os.path.basename(folder)), pid, status['State'], switches, int(status['SigBlk'], 16),
                kernel.read(f'{folder}/wchan'))


def look(tasks, port):
    """The Look at these tasks, and at what is connected to the port."""
    pids = {task.pid for task in tasks}
    return Look({task.tid: task for task in tasks}, {pid: files(pid) for pid in pids}, sockets(port),
                {pid: is_pending(pid, signal.SIGCHLD) for pid in pids})


def files(pid):
    """{descriptor: what it leads to} of a process."""
    folder = f'/proc/{pid}/fd'
    names = kernel.unless_gone(lambda: os.listdir(folder), [])
    return {name: kernel.unless_gone(lambda n=name: os.readlink(f'{folder}/{n}'), '') for name in names}


def sockets(port):
    """The TCP sockets with that port at one end, as in a Look; that which listens has no other end (0)."""
    found = {}
    for path in '/proc/net/tcp', '/proc/net/tcp6':
        for line in filter(lambda line: f':{port:04X} ' in line, kernel.read(path).splitlines()):
            _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
            ends = tuple(int(end.rpartition(':')[2], 16) for end in (local, remote))
            unsent, unread = (int(size, 16) for size in queues.split(':'))
            found[ends] = Socket(STATES.get(state, state), unsent, unread, f'socket:[{inode}]')
    return found


def is_pending(pid, signum):
    return any(int(kernel.value(f'/proc/{pid}/status', name) or '0', 16) >> (signum - 1) & 1
               for name in ('SigPnd', 'ShdPnd'))


def differences(kernel, look, port):
    """Where a model (see model.py) does not agree with what the kernel has said: a list of sentences."""
    found = [f'{called(process.name)}: {words}' for pid, process in kernel.processes.items()
             for differ in (state_differs, files_differ, pending_differs)
             if (words := differ(process, pid, look, port))]
    found += [words for connection in kernel.connections for words in ends_differ(connection, look, port)]
    listening, backlog = look.sockets.get((port, 0)), len(kernel.backlog())
    if (kernel.limit is None) != (listening is None) or listening and listening.unread != backlog:
        found.append(f'the backlog: {backlog}, in the kernel {listening}')
    return found


def state_differs(process, pid, look, port):
    """'' where they agree."""
    task = look.tasks.get(pid)
    fits = {'gone': 'X', 'zombie': 'Z', 'stopped': 'Tt', 'runs': 'SR', 'waits': 'S'}[process.state]
    if (task.state if task else 'X') not in fits or process.state == 'waits' and task.is_at_a_line():
        return f'{process.state}, in the kernel {task}'
    return ''


def files_differ(process, pid, look, port):
    """The same for the descriptors that lead to connections, or to the listening socket."""
    if process.is_thread or not process.is_alive:
        return ''
    ports = {socket.link: other for (own, other), socket in look.sockets.items() if own == port}
    there = {fd: ports[link] for fd, link in look.files.get(pid, {}).items() if link in ports}
    here = {fd: file.connection.port if file.connection else 0 for fd, file in process.table.items()
            if file.kind == 'listening' or file.connection and file.connection.states['server'] not in GONE}
    return f'descriptors {here}, in the kernel {there}' if here != there else ''


def pending_differs(process, pid, look, port):
    if process.is_thread or not process.is_alive or not process.handles('SIGCHLD'):
        return ''
    here, there = 'SIGCHLD' in process.pending, look.pending.get(pid, False)
    return f'SIGCHLD pending: {here}, in the kernel: {there}' if here != there else ''


def ends_differ(connection, look, port):
    """The same for both ends of a connection, a sentence for each. FIN counts as a byte until it is read."""
    for end, name in ('server', (port, connection.port)), ('client', (connection.port, port)):
        state, unread = connection.states[end], connection.unread[end] + connection.early * (end == 'client')
        there, other = look.sockets.get(name), look.sockets.get(name[::-1])
        if state in GONE:
            fits = not there or there.state == state  # TIME_WAIT may be over
        else:
            most = there and there.unread + (other.unsent if other else 0)
            fits = there and there.state == state and there.unread - (state == 'CLOSE_WAIT') <= unread <= most
        if not fits:
            yield f'connection {connection.number}: {end} {state}, {unread} unread, in the kernel {there}'
