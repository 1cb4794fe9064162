"""What the kernel says of processes: their children, states, descriptors and connections."""
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from contextlib import suppress

import psutil

from common.pid import files_of, listening, sockets_on

LOOK_EVERY = 0.04  # seconds
LIMIT = 20  # seconds that any wait takes at the most
LINUX = sys.platform == 'linux'
STATES = {  # in /proc, see proc(5)
    'R': 'running', 'S': 'sleeping', 'D': 'disk-sleep', 'T': 'stopped', 't': 'tracing-stop', 'Z': 'zombie'}
WITHOUT_END = {  # where accept(), recv(), send(), wait(), pause() and the read() of a pipe wait
    'inet_csk_accept', 'wait_woken', 'do_wait', '__do_sys_pause', 'pipe_read', 'anon_pipe_read'}
SOCKETS = {'01': 'sockets in ESTABLISHED', '08': 'sockets in CLOSE_WAIT'}  # in /proc/net/tcp
ENDED = 'sockets whose connection is over'  # which no list has any more
TICKS = os.sysconf('SC_CLK_TCK')  # of CPU time in a second


def unless_gone(look, otherwise):
    """What look() returns, or the other value where the process has ended or is another user's."""
    try:
        return look()
    except (psutil.Error, ProcessLookupError, ChildProcessError, FileNotFoundError, PermissionError):
        return otherwise


def read(path):
    """The text of a file, '' where it cannot be read: one in /proc, when its process has ended."""
    with suppress(OSError), open(path, errors='replace') as file:
        return file.read()
    return ''


def stat(folder):
    """The fields of a process or a thread in /proc, from its state on; [] where it has ended. See proc(5)."""
    return read(f'{folder}/stat').rpartition(')')[2].split()


def value(path, name):
    """What stands behind a name in a file in /proc, without its unit: '1234' for 'Pss:  1234 kB'; or ''."""
    found = re.search(rf'^{name}:\s+(\w+)', read(path), re.MULTILINE)
    return found[1] if found else ''


def tasks(pid):
    """The folders in /proc of the threads of a process (Linux); see proc(5)."""
    return [f'/proc/{pid}/task/{thread}' for thread in threads(pid)]


def threads(pid):
    """The ids of the threads of a process, its own among them (Linux)."""
    return [int(thread) for thread in unless_gone(lambda: os.listdir(f'/proc/{pid}/task'), [])]


def children(pid):
    """The pids of its direct children, zombies too."""
    if LINUX:  # psutil would read the parent of every process of the machine
        return {int(child) for task in tasks(pid) for child in read(f'{task}/children').split()}
    return {child.pid for child in unless_gone(lambda: psutil.Process(pid).children(), [])}


def family(pid):
    """{pid: parent's pid} of all descendants of a process, zombies too."""
    found = dict.fromkeys(children(pid), pid)
    for child in list(found):
        found |= family(child)
    return found


def parent(pid):
    """The pid of its parent, 0 for none."""
    return unless_gone(lambda: psutil.Process(pid).ppid(), 0)


def status(pid):
    """The state as psutil names it ('sleeping', 'stopped', 'zombie', ...), or 'gone'."""
    if LINUX:
        return STATES.get(''.join(stat(f'/proc/{pid}')[:1]), 'gone')
    return unless_gone(lambda: psutil.Process(pid).status(), 'gone')


def states(pids):
    """{pid: state} of the processes that are there."""
    return {pid: state for pid in pids if (state := status(pid)) != 'gone'}


def command(pid):
    """The words of the command that the process runs; a file in them that exists is a whole path."""
    folder = unless_gone(lambda: psutil.Process(pid).cwd(), '')
    return [os.path.realpath(path) if os.path.exists(path := os.path.join(folder, word)) else word
            for word in unless_gone(lambda: psutil.Process(pid).cmdline(), [])]


def variable(pid, name):
    """What the process found in that variable when its program began; None also where it is exiting."""
    if LINUX:  # psutil would read two more files of each process
        found = re.search(rf'(?:\A|\0){name}=([^\0]*)', read(f'/proc/{pid}/environ'))
        return found and found[1]
    return unless_gone(lambda: psutil.Process(pid).environ().get(name), None)


def program(pid):
    """The path of the program that it runs; '' where it has ended."""
    return unless_gone(lambda: psutil.Process(pid).exe(), '')


def is_python3(pid):
    """Whether the process runs a Python 3, which calls accept() again after a signal (PEP 475)."""
    return 'python3' in os.path.basename(program(pid))


def alive(pid):
    return status(pid) not in (psutil.STATUS_ZOMBIE, 'gone')


def zombies(pids):
    """Those of the processes that have ended and were not waited for."""
    return {pid for pid in pids if status(pid) == psutil.STATUS_ZOMBIE}


def descriptors(pids):
    """How many descriptors the processes have open, all together."""
    return sum(unless_gone(lambda p=pid: psutil.Process(p).num_fds(), 0) for pid in pids)


def open_files(pids):
    """How many descriptors of each kind the processes have open: Counter({'sockets in CLOSE_WAIT': 3})."""
    if not LINUX:
        found = Counter(f'sockets in {end.status}' for pid in pids for end in sockets_of(pid))
        return found + Counter({'files': descriptors(pids) - found.total()})
    files = [file for pid in pids for file in files_of(pid)]  # first: what is closed meanwhile is over
    tables = [read(f'/proc/net/{name}') for name in ('tcp', 'tcp6')]
    states = {row[9]: row[3] for table in tables for row in map(str.split, table.splitlines())}
    others = {word for name in ('unix', 'udp', 'udp6') for word in read(f'/proc/net/{name}').split()}

    def kind(file):
        what, _, inode = file.rstrip(']').partition(':[')
        if what != 'socket':
            return 'pipes' if what == 'pipe' else 'files'
        return SOCKETS.get(states.get(inode), 'sockets' if inode in states or inode in others else ENDED)
    return Counter(map(kind, files))


def anonymous_memory(pids):
    """The bytes that no file has, of all processes together; what they share since fork() counts for each."""
    if LINUX:
        return sum(1024 * int(value(f'/proc/{pid}/status', 'RssAnon') or 0) for pid in pids)
    return sum(unless_gone(lambda p=pid: psutil.Process(p).memory_info().rss, 0) for pid in pids)


def first_free(pid):
    """The number of the descriptor that the process would get next (Linux)."""
    taken = set(map(int, unless_gone(lambda: os.listdir(f'/proc/{pid}/fd'), [])))
    return min(set(range(len(taken) + 1)) - taken)


def limit_descriptors(pid, limit):
    """Let the process open descriptors below that number only (Linux)."""
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, most))


def catches(pid, signum):
    """Whether the process has a handler for that signal; None where the kernel does not tell."""
    caught = value(f'/proc/{pid}/status', 'SigCgt')
    return bool(int(caught, 16) >> (signum - 1) & 1) if caught else None


def waits_for_others(pid):
    """Whether its threads wait for a client or a child, and no alarm calls them back (Linux, else False)."""
    waits = {read(f'{task}/wchan') for task in tasks(pid)}
    timed = catches(pid, signal.SIGALRM) is not False or read(f'/proc/{pid}/timers')
    return bool(waits) and waits <= WITHOUT_END and not timed


def waits_for_a_child(pid):
    """Whether a thread of it waits until a child ends, and not for a client (Linux, else False)."""
    return any(read(f'{task}/wchan') == 'do_wait' for task in tasks(pid))


def naps(pid):
    """Its threads that wait in sleep(), or in a select() without descriptors (Linux, else none).

    Each comes with a number that differs when it has waked up meanwhile.
    """
    found = set()
    for task in tasks(pid):
        waits, call = read(f'{task}/wchan'), read(f'{task}/syscall').split()  # its number and arguments
        if waits == 'hrtimer_nanosleep' or waits.startswith('poll_schedule_timeout') and call[1:2] == ['0x0']:
            found.add((task, value(f'{task}/status', 'voluntary_ctxt_switches')))
    return found


def faults_of_the_reaped(pid):
    """A number that grows whenever the process waits for a child of its own (Linux, else 0)."""
    return int((stat(f'/proc/{pid}') or [0] * 9)[8])  # page faults: each child has some, as its writes copy


def sockets_of(pid):
    """The TCP sockets of one process, as psutil has them."""
    return unless_gone(lambda: psutil.Process(pid).net_connections('tcp'), [])


def holders(client, port, pids):
    """Those of the processes that have the server's end of a connection open."""
    number = pids and client.getsockname()[1]
    if not LINUX or not pids:
        return {pid for pid in pids for end in sockets_of(pid)
                if end.raddr and (end.laddr.port, end.raddr.port) == (port, number)}
    row = re.compile(rf':{port:04X} \w+:{number:04X}(?: +\S+){{6}} +(\d+)')
    tables = 2 * ['/proc/net/tcp', '/proc/net/tcp6']  # again: it is read in pieces, and may miss one
    found = next(filter(None, map(row.search, map(read, tables))), None)
    return {pid for pid in pids if found and f'socket:[{found[1]}]' in files_of(pid)}


def connections(port):
    """The connections to a TCP port from both ends, as psutil has them, without TIME_WAIT: (socket, pid)."""
    found = unless_gone(lambda: [(end, end.pid) for end in psutil.net_connections('tcp')], None)
    if found is None:  # on macOS only root may ask for all at once
        found = [(end, pid) for pid in psutil.pids() for end in sockets_of(pid)]
    return [(end, pid) for end, pid in found
            if end.raddr and port in (end.laddr.port, end.raddr.port) and end.status != 'TIME_WAIT']


def listening_inodes(pids, port):
    """The inodes of the sockets on which these processes listen on the port (Linux, else none)."""
    return sockets_on(port) & {file for pid in pids for file in files_of(pid)}


def ports(pid):
    """The TCP ports that the process listens on, in the order of its descriptors."""
    if LINUX:
        sockets = [file for file in files_of(pid) if file.startswith('socket:')]
        found = listening(set(sockets))
        return [found[socket] for socket in sockets if socket in found]
    return [socket.laddr.port for socket in sorted(sockets_of(pid), key=lambda socket: socket.fd)
            if socket.status == psutil.CONN_LISTEN]


def activity(pids):
    """What the processes do: (whether all their threads sleep, the CPU seconds used, in steps of 10 ms)."""
    asleep, used = True, 0
    for pid in pids:
        if not LINUX:  # psutil calls all that live 'running'; here their context switches tell
            used += unless_gone(lambda p=pid: psutil.Process(p).num_ctx_switches().voluntary / 1000, 0)
        for task in tasks(pid):
            if fields := stat(task):
                asleep &= fields[0] not in 'RD'
                used += (int(fields[11]) + int(fields[12])) / TICKS
    return asleep, used


def memory(pids):
    """The bytes of memory that the processes use; a page that three share is a third for each (Linux)."""
    return sum(1024 * int(value(f'/proc/{pid}/smaps_rollup', 'Pss') or 0) for pid in pids)


def eventually(condition, seconds=LIMIT):
    """Look until condition() is true, for so many seconds at the most; return what it is."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    return result


def send(pid, signum):
    """Send a signal to a process, which may have ended meanwhile."""
    unless_gone(lambda: os.kill(pid, signum), None)


def suspend(pids):
    """Stop the processes, and wait until they are."""
    for pid in pids:
        send(pid, signal.SIGSTOP)
    eventually(lambda: not any(status(pid) in ('running', 'sleeping', 'disk-sleep') for pid in pids))


def resume(pids):
    """Let the processes run that were stopped."""
    for pid in pids:
        send(pid, signal.SIGCONT)
