"""What the kernel says of a process: its children, zombies, descriptors and connections."""
import sys
import time

import psutil

LOOK_EVERY = 0.02  # seconds
REST = 0.3  # seconds without activity, after which nothing more is awaited
LIMIT = 20  # seconds that any wait takes at the most
AT_REST = ['sleeping', 'idle', 'stopped'] + ['running'] * (sys.platform == 'darwin')  # see activity()


def seen(look, otherwise):
    """What look() returns, or the other value where the process has ended or is another user's."""
    try:
        return look()
    except (psutil.Error, ProcessLookupError, ChildProcessError, PermissionError):
        return otherwise


def children(pid):
    """The pids of its direct children, zombies too."""
    return {child.pid for child in seen(lambda: psutil.Process(pid).children(), [])}


def status(pid):
    """The state as psutil names it ('sleeping', 'stopped', 'zombie', ...), or 'gone'."""
    return seen(lambda: psutil.Process(pid).status(), 'gone')


def zombies(pid):
    """The pids of its children that have ended and were not waited for."""
    return {child for child in children(pid) if status(child) == psutil.STATUS_ZOMBIE}


def family(pid):
    """The process and all its descendants, without zombies."""
    parent = seen(lambda: [psutil.Process(pid)], [])
    relatives = parent + seen(lambda: psutil.Process(pid).children(recursive=True), [])
    return [relative for relative in relatives if status(relative.pid) not in ('zombie', 'gone')]


def descriptors(pid):
    """How many descriptors the process and its descendants have open, all together."""
    return sum(seen(process.num_fds, 0) for process in family(pid))


def tcp_states(pid):
    """The TCP states of its sockets: ['LISTEN', 'CLOSE_WAIT', ...]."""
    connections = seen(lambda: psutil.Process(pid).net_connections('tcp'), [])
    return [connection.status for connection in connections]


def sockets():
    """All TCP sockets, as psutil has them, each with a pid or None: (socket, pid).

    On macOS only root may ask for all at once: there they are those of the user's processes.
    """
    found = seen(lambda: psutil.net_connections('tcp'), None)
    if found is not None:
        return [(socket, socket.pid) for socket in found]
    return [(socket, process.pid) for process in psutil.process_iter()
            for socket in seen(lambda p=process: p.net_connections('tcp'), [])]


def connections(port):
    """The connections to a TCP port, seen from both ends, as sockets() has them; without TIME_WAIT."""
    return [(socket, pid) for socket, pid in sockets() if socket.raddr
            and port in (socket.laddr.port, socket.raddr.port) and socket.status != 'TIME_WAIT']


def who_listens(port):
    """The pid of the process that listens on a port, or None."""
    listening = [pid for socket, pid in sockets() if (socket.status, socket.laddr.port) == ('LISTEN', port)]
    return next(filter(None, listening), None)


def listener(processes):
    """(pid, port) of the first of these psutil.Processes that listens, or None."""
    for process in processes:
        for connection in seen(lambda p=process: p.net_connections('tcp'), []):
            if connection.status == psutil.CONN_LISTEN:
                return process.pid, connection.laddr.port
    return None


def activity(pid):
    """A value that stays the same for as long as the whole family is at rest; None while it is not.

    On macOS, where psutil calls all that live 'running', the context switches alone must tell.
    """
    marks = []
    for process in family(pid):
        state, switches = status(process.pid), seen(process.num_ctx_switches, None)
        if state not in AT_REST:
            return None
        marks.append((process.pid, state, switches))
    return marks


def eventually(condition, seconds=LIMIT):
    """Look until condition() is true, for so many seconds at the most; return what it is."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    return result


def wait_until(condition, pid):
    """Wait until condition() is true; return whether it became so.

    Gives up once the server (pid) and its descendants have been at rest for REST seconds. What
    they do later of their own accord, by a timer, is not seen; but a busy machine, on which they
    want to run and cannot, makes the wait longer and not wrong.
    """
    limit = time.monotonic() + LIMIT
    before, asleep_since = None, time.monotonic()
    while not condition():
        now, time_now = activity(pid), time.monotonic()
        if now is None or now != before:
            before, asleep_since = now, time_now
        if time_now - asleep_since > REST or time_now > limit:
            return False
        time.sleep(LOOK_EVERY)
    return True


def let_rest(pid):
    """Wait until the server and its descendants have been at rest for REST seconds."""
    wait_until(lambda: False, pid)
