"""frees its port when it ends"""
import signal
import socket
from functools import partial

from laboratory.instruments import children, kernel, views
from laboratory.instruments.client import ask, try_to_connect
from laboratory.instruments.experiment import NOT_TESTED, Case, Result, about, asked_to_end, bug, passed
from laboratory.instruments.process import A_WHILE


def experiment(server, step):
    client, _ = children.connect_to_child(server)
    program = kernel.program(server.pid)
    end(server, client)
    server.returncode()  # a shell around it ends a bit later: until then, an orphan is not found
    if server.listeners():
        server.wait_until(lambda: not server.listeners(), most=A_WHILE)  # workers may end a moment later
    step('The first process has ended, and its client is still connected', who_listens)
    if held := server.listeners():
        other = try_to_connect(server)
        if other and ask(other, server):
            return Result(NOT_TESTED, detail='other processes go on serving when the first one has ended')
        pid = min(held)
        case = 'child' if pid in server.forked and kernel.program(pid) == program else 'process'
        return bug(case, f'the first process has ended, and the {case} {pid} still listens on its port')
    told = 'nobody listens on its port when the first process has ended'
    if not kernel.eventually(partial(is_free, client.family, server.port), 1):  # its threads end a bit later
        told += '; but without SO_REUSEADDR you cannot start it again for a minute or so'
    return passed(told)


def end(server, client):
    """End the first process that listens, as kill does; one that finishes its clients before may do so."""
    for give_in in lambda: None, client.close, lambda: kernel.send(server.pid, signal.SIGKILL):
        kernel.send(server.pid, signal.SIGTERM)
        give_in()
        if server.wait_until(lambda: not kernel.alive(server.pid)):
            break


def who_listens(server):
    """Those of its processes that run, as ps shows them, and whether they listen."""
    rows = views.table('PID', 'PPID', 'STATE', 'LISTENS')
    listeners = server.listeners()
    for pid in server.processes():
        views.add_row(rows, pid, kernel.parent(pid), kernel.status(pid), 'yes' if pid in listeners else 'no',
                      mark='has the listening socket' if pid in listeners else None)
    return rows


def is_free(family, port):
    """Whether a server that asks for it with SO_REUSEADDR would get that port."""
    with socket.socket(family) as probe:
        for option in socket.SO_REUSEADDR, socket.SO_REUSEPORT:
            probe.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True


def first_ends(server):
    """A client says nothing, and the server is ended."""
    client, _ = children.connect_to_child(server)
    end(server, client)


SEE = ('sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; kill {pid}; sleep 1; '
       "ss -tlnp 'sport = :8888'")
CASES = {
    'child': Case(
        'keeps its port in a child', SEE, '',
        'You see a process that still listens: your child has a copy of that socket. Close it there.', """
        While a client is silent, end your server, and see who listens:
        {see}
        Nobody should. Which process is in the last column? Now try to start your server again.

        A child has a copy of every descriptor, and one of them is the listening socket. The port stays taken
        until the last copy is closed. Clients can still connect, and nobody ever accepts them.

        In the child, where os.fork() has returned 0, call listen_socket.close() first of all. In C:
        close() of what socket() has returned."""),
    'process': Case(
        'keeps its port in another process', SEE, '',
        'You see a process that still listens: what you start gets a copy of the listening socket.', """
        End your server, and see who still listens:
        {see}
        Nobody should. What is the process in the last column, and who has started it?

        A program that you start with fork() and exec() keeps your descriptors, unless you say otherwise. It
        doesn't know that it has your listening socket, and the port stays taken as long as it runs.

        In C, open the socket with SOCK_CLOEXEC, or set FD_CLOEXEC with fcntl(). Python does so by itself,
        but not with close_fds=False, and not after a fork() alone: close it there."""),
}
BUG = about(
    globals(), scene=first_ends, when_ended=asked_to_end,
    predict='A client is connected, and you end the server. Is its port free?',
    why='a port is taken as long as any process has a copy of the socket that listens there.')
