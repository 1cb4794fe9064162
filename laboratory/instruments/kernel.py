"""What the kernel says of processes: their children, states, descriptors and connections."""
import ctypes
import itertools
import os
import re
import resource
import signal
import socket
import sys
import time
from contextlib import suppress

import psutil

LOOK_EVERY = 0.02  # seconds
LIMIT = 20  # seconds that any wait takes at the most
LINUX = sys.platform == 'linux'
STATES = {  # in /proc, see proc(5)
    'R': 'running', 'S': 'sleeping', 'D': 'disk-sleep', 'T': 'stopped', 't': 'tracing-stop', 'Z': 'zombie'}
ON_SOCKETS = {'inet_csk_accept', 'wait_woken'}  # where accept(), recv() and send() wait in the kernel
PIDFD_GETFD = 438  # see pidfd_getfd(2)
TICKS = os.sysconf('SC_CLK_TCK')  # of CPU time in a second


def seen(look, otherwise):
    """What look() returns, or the other value where the process has ended or is another user's."""
    try:
        return look()
    except (psutil.Error, ProcessLookupError, ChildProcessError, FileNotFoundError, PermissionError):
        return otherwise


def read(path):
    """The text of a file, '' where it cannot be read: one in /proc, when its process has ended."""
    try:
        with open(path, errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def stat(folder):
    """The fields of a process or a thread in /proc, from its state on; [] where it has ended. See proc(5)."""
    return read(f'{folder}/stat').rpartition(')')[2].split()


def tasks(pid):
    """The folders in /proc of the threads of a process (Linux); see proc(5)."""
    return [f'/proc/{pid}/task/{task}' for task in seen(lambda: os.listdir(f'/proc/{pid}/task'), [])]


def children(pid):
    """The pids of its direct children, zombies too."""
    if LINUX:  # psutil would read the parent of every process of the machine
        return {int(child) for task in tasks(pid) for child in read(f'{task}/children').split()}
    return {child.pid for child in seen(lambda: psutil.Process(pid).children(), [])}


def family(pid):
    """{pid: parent's pid} of all descendants of a process, zombies too."""
    found = dict.fromkeys(children(pid), pid)
    for child in list(found):
        found |= family(child)
    return found


def parent(pid):
    """The pid of its parent, 0 for none."""
    return seen(lambda: psutil.Process(pid).ppid(), 0)


def status(pid):
    """The state as psutil names it ('sleeping', 'stopped', 'zombie', ...), or 'gone'."""
    if LINUX:
        return STATES.get(''.join(stat(f'/proc/{pid}')[:1]), 'gone')
    return seen(lambda: psutil.Process(pid).status(), 'gone')


def states(pids):
    """{pid: state} of the processes that are there."""
    return {pid: state for pid in pids if (state := status(pid)) != 'gone'}


def command(pid):
    """The words of the command that the process runs; a file in them that exists is a whole path."""
    folder = seen(lambda: psutil.Process(pid).cwd(), '')
    return [os.path.realpath(path) if os.path.exists(path := os.path.join(folder, word)) else word
            for word in seen(lambda: psutil.Process(pid).cmdline(), [])]


def environ(pid):
    """The environment of the process as it was when its program began, {} where it is exiting."""
    return seen(lambda: psutil.Process(pid).environ(), {})


def is_python3(pid):
    """Whether the process runs a Python 3, which calls accept() again after a signal (PEP 475)."""
    return 'python3' in os.path.basename(seen(lambda: psutil.Process(pid).exe(), ''))


def alive(pid):
    return status(pid) not in (psutil.STATUS_ZOMBIE, 'gone')


def zombies(pids):
    """Those of the processes that have ended and were not waited for."""
    return {pid for pid in pids if status(pid) == psutil.STATUS_ZOMBIE}


def descriptors(pids):
    """How many descriptors the processes have open, all together."""
    return sum(seen(lambda p=pid: psutil.Process(p).num_fds(), 0) for pid in pids)


def anonymous_memory(pids):
    """The bytes that no file has, of all processes together; what they share since fork() counts for each."""
    if LINUX:
        lines = [line.split() for pid in pids for line in read(f'/proc/{pid}/status').splitlines()]
        return sum(int(words[1]) * 1024 for words in lines if words[0] == 'RssAnon:')
    return sum(seen(lambda p=pid: psutil.Process(p).memory_info().rss, 0) for pid in pids)


def first_free(pid):
    """The number of the descriptor that the process would get next."""
    taken = set(seen(lambda: os.listdir(f'/proc/{pid}/fd'), []))
    return next(number for number in itertools.count() if str(number) not in taken)


def limit_descriptors(pid, limit):
    """Let the process open descriptors below that number only (Linux)."""
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, most))


def catches(pid, signum):
    """Whether the process has a handler for that signal; None where the kernel does not tell."""
    for line in read(f'/proc/{pid}/status').splitlines():
        if line.startswith('SigCgt:'):
            return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return None


def waits_for_others(pid):
    """Whether the process does nothing until a client acts or a child ends (Linux, else False).

    All its threads wait in accept(), recv(), send() or wait(), and no clock calls them back.
    """
    waits = {read(f'{task}/wchan') for task in tasks(pid)}
    if not waits or not waits <= {*ON_SOCKETS, 'do_wait'}:
        return False
    timed = catches(pid, signal.SIGALRM) is not False or read(f'/proc/{pid}/timers')
    return not timed and not (waits & ON_SOCKETS and may_time_out(pid))


def naps(pid):
    """Whether a thread of it waits in sleep(), or in a select() without descriptors (Linux, else False)."""
    return any(is_nap(read(f'{task}/wchan'), read(f'{task}/syscall')) for task in tasks(pid))


def is_nap(function, syscall):
    """The same for one thread: where it waits in the kernel, and in which call; see proc(5)."""
    return function == 'hrtimer_nanosleep' or (
        function.startswith('poll_schedule_timeout') and syscall.split()[1:2] == ['0x0'])


def may_time_out(pid):
    """Whether a socket of the process has a timeout, SO_RCVTIMEO or SO_SNDTIMEO, or may have one."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        return any(socket_may_time_out(pidfd, fd) for fd, _ in open_sockets(pid))
    finally:
        os.close(pidfd)


def socket_may_time_out(pidfd, fd):
    """The same for one socket of the process, whose pidfd is given: see pidfd_open(2)."""
    copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0)
    if copy < 0:
        return True
    with socket.socket(fileno=copy) as theirs:
        return any(any(theirs.getsockopt(socket.SOL_SOCKET, option, 16))
                   for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO))


def faults_of_the_reaped(pid):
    """A number that grows whenever the process waits for a child of its own (Linux, else 0).

    It counts the page faults of those children; each has some, since fork() copies on write.
    """
    fields = stat(f'/proc/{pid}')
    return int(fields[8]) if fields else 0


def sockets_of(pid):
    """The TCP sockets of one process, as psutil has them."""
    return seen(lambda: psutil.Process(pid).net_connections('tcp'), [])


def sockets():
    """All TCP sockets, as psutil has them, each with a pid or None: (socket, pid).

    On macOS only root may ask for all at once: there they are those of the user's processes.
    """
    found = seen(lambda: psutil.net_connections('tcp'), None)
    if found is not None:
        return [(socket, socket.pid) for socket in found]
    return [(socket, process.pid) for process in psutil.process_iter() for socket in sockets_of(process.pid)]


def connections(port):
    """The connections to a TCP port, seen from both ends, as sockets() has them; without TIME_WAIT."""
    return [(socket, pid) for socket, pid in sockets() if socket.raddr
            and port in (socket.laddr.port, socket.raddr.port) and socket.status != 'TIME_WAIT']


def who_listens(port):
    """The pid of the server on a port, or None: of a process and its workers that listen there, the first."""
    listening = [pid for socket, pid in sockets() if (socket.status, socket.laddr.port) == ('LISTEN', port)]
    pid = min(filter(None, listening), default=None)
    while pid and port in ports(parent := seen(psutil.Process(pid).ppid, 0)):
        pid = parent
    return pid


def listening(inodes):
    """{inode: port} of those TCP sockets that listen (Linux).

    They are the first in these files. The rest is not read: it can be thousands in TIME_WAIT.
    """
    found = {}
    for name in 'tcp', 'tcp6':
        if inodes <= found.keys():
            break
        with open(f'/proc/net/{name}') as file:
            next(file)
            for _, local, _, state, *rest in map(str.split, file):
                if state != '0A':  # TCP_LISTEN
                    break
                found[rest[5]] = int(local.rpartition(':')[2], 16)
    return found


def listening_inodes(pids, port):
    """The inodes of the sockets on which these processes listen on the port (Linux, else none)."""
    if not LINUX:
        return set()
    inodes = {inode for pid in pids for _, inode in open_sockets(pid)}
    return {inode for inode, listens in listening(inodes).items() if listens == port and inode in inodes}


def open_sockets(pid):
    """The sockets of the process, in the order of their descriptors: (descriptor, inode) (Linux)."""
    files = sorted(map(int, seen(lambda: os.listdir(f'/proc/{pid}/fd'), [])))
    links = [(fd, seen(lambda fd=fd: os.readlink(f'/proc/{pid}/fd/{fd}'), '')) for fd in files]
    return [(fd, link[len('socket:['):-1]) for fd, link in links if link.startswith('socket:')]


def ports(pid):
    """The TCP ports that the process listens on, in the order of its descriptors."""
    if LINUX:
        inodes = [inode for _, inode in open_sockets(pid)]
        found = listening(set(inodes))
        return [found[inode] for inode in inodes if inode in found]
    return [socket.laddr.port for socket in sorted(sockets_of(pid), key=lambda socket: socket.fd)
            if socket.status == psutil.CONN_LISTEN]


def activity(pids):
    """What the processes do: (whether all their threads sleep, the CPU seconds they have used).

    The latter has the grain of the kernel's clock, 10 ms: a timer that ticks now and then is rest.
    """
    asleep, used = True, 0
    for pid in pids:
        if not LINUX:  # psutil calls all that live 'running'; here their context switches tell
            used += seen(lambda p=pid: psutil.Process(p).num_ctx_switches().voluntary / 1000, 0)
        for task in tasks(pid):
            fields = stat(task)
            if fields:
                asleep &= fields[0] not in 'RD'
                used += (int(fields[11]) + int(fields[12])) / TICKS
    return asleep, used


def cpu_time(pids):
    """The CPU seconds that the processes have used, and the children that they have waited for (Linux).

    A child whose parent ignores SIGCHLD is waited for by nobody: its time is lost.
    """
    used = 0
    for pid in pids:
        # the clock of a process, as clock_getcpuclockid(3) names it: it counts nanoseconds, where
        # /proc has 10 ms, and so nothing for a zombie that has served one client
        with suppress(OSError):  # it has ended
            used += time.clock_gettime(~pid << 3 | 2)
        fields = stat(f'/proc/{pid}')
        if fields:
            used += (int(fields[13]) + int(fields[14])) / TICKS  # cutime and cstime, see proc(5)
    return used


def memory(pids):
    """The bytes of memory that the processes use (Linux).

    It is their PSS: a page that three processes share counts as a third for each of them.
    """
    lines = '\n'.join(read(f'/proc/{pid}/smaps_rollup') for pid in pids)
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r'^Pss: +(\d+) kB', lines, re.MULTILINE))


def eventually(condition, seconds=LIMIT):
    """Look until condition() is true, for so many seconds at the most; return what it is."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    return result


def send(pid, signum):
    """Send a signal to a process, which may have ended meanwhile."""
    seen(lambda: os.kill(pid, signum), None)


def stop(pids):
    """Stop the processes, and wait until they are."""
    for pid in pids:
        send(pid, signal.SIGSTOP)
    eventually(lambda: not any(status(pid) in ('running', 'sleeping', 'disk-sleep') for pid in pids))


def go_on(pids):
    """Let the processes run that were stopped."""
    for pid in pids:
        send(pid, signal.SIGCONT)
