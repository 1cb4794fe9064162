"""What the kernel says of a server at one moment: its threads, descriptors and connections (Linux)."""
import os
import re
import signal
from typing import NamedTuple

from laboratory.instruments import kernel

WHERE = {'hrtimer_nanosleep': 'sleep()', 'do_sys_poll': 'poll()', 'do_select': 'select()'}  # it waits, if there


class Task(NamedTuple):
    """A thread of a process, or its only one."""
    tid: int
    pid: int
    state: str  # R, S, T, t, Z, ..., see proc(5)
    switches: str  # how often it has got a CPU
    blocked: int  # the signals that it blocks, a bit for each
    waits: str  # where in the kernel, '' where it does not tell

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


STATES = {'01': 'ESTABLISHED', '04': 'FIN_WAIT2', '05': 'FIN_WAIT2', '06': 'TIME_WAIT', '07': 'CLOSED',
          '08': 'CLOSE_WAIT', '09': 'CLOSED', '0A': 'LISTEN'}  # FIN_WAIT1 lasts until the other end has heard it


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
    for path in 2 * ['/proc/net/tcp', '/proc/net/tcp6']:  # again: it is read in pieces, and may miss one
        for line in re.findall(rf'.*:{port:04X} .*', kernel.read(path)):
            _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
            ends = tuple(int(end.rpartition(':')[2], 16) for end in (local, remote))
            unsent, unread = (int(size, 16) for size in queues.split(':'))
            found[ends] = Socket(STATES.get(state, state), unsent, unread, f'socket:[{inode}]')
    return found


def is_pending(pid, signum):
    return any(int(kernel.value(f'/proc/{pid}/status', name) or '0', 16) >> (signum - 1) & 1
               for name in ('SigPnd', 'ShdPnd'))
