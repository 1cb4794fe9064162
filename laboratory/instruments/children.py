"""The clients and the children of a server that may fork: connecting, waiting for them, counting zombies."""
import signal
from functools import partial

from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, answer, ask, connect, connected, read_reply, readable
from laboratory.instruments.experiment import NoAnswer
from laboratory.instruments.process import A_WHILE

CHILDREN = 24  # how many end at once, and how many clients come and go
NONE_SEEN = 'it was not seen to fork a child for a client'
SILENT = 'no new child waits for a client that says nothing'


def number_of_clients(server):
    """How many clients come and go: fewer where each reply takes long."""
    return min(CHILDREN, max(4, int(12 / (server.pace or 0.1))))


def connect_to_child(server, threads=lambda: set()):
    """Open a connection that says nothing; return it and the child that serves it (or None).

    Any process may appear meanwhile. The child has the connection, or it has answered and ended.
    """
    server.family()
    before = {*server.forked, *threads()}
    client, found = connected(server), []

    def has_come():
        server.family()
        new = server.forked.keys() - before
        ended = {pid for pid in new if not kernel.alive(pid)} if readable(client) else set()
        found.extend(kernel.holders(client, server.port, new) | ended | threads() - before)
        return found
    server.wait_until(has_come)
    return client, next(iter(found), None)


def connect_to_its_own(server):
    """The same, and it may be a thread that serves it (seen on Linux alone)."""
    return connect_to_child(server, lambda: {
        thread for pid in server.listened for thread in kernel.threads(pid)})


def answers(server):
    with connect(server) as client:
        return bool(ask(client, server))


def answers_in_a_while(client, server, pids=()):
    """Send a request; return whether it is answered, late or not."""
    return bool(ask(client, server)) or answers_late(client, server, pids)


def answers_late(client, server, pids=()):
    """Whether the answer to a request comes after all, of a server that takes its time (comes_to())."""
    return bool(server.comes_to(partial(readable, client), A_WHILE, pids) and answer(client, server).data)


def zombies(server):
    """The children that have ended and were not waited for, in the whole family; an orphan is init's."""
    return kernel.zombies(server.forked.keys() & set(server.family()))


def reaped(server):
    """A number that grows whenever a child is reaped."""
    return sum(map(kernel.faults_of_the_reaped, server.own))


def copies(server):
    """What was forked, without those that run another program than their parent."""
    return {pid for pid, parent in server.forked.items()
            if kernel.program(pid) in ('', kernel.program(parent))}


def forks(server):
    """Whether the server forks for clients that speak at once: three of five make it fork or reap a child.

    And nothing does so in a while without clients: a helper may come every second.
    """
    def now():
        return copies(server), reaped(server)

    def something(before):
        return bool(copies(server) - before[0]) or reaped(server) != before[1]
    server.until_end.close()  # silent clients would be in the way
    server.let_rest()
    seen, begin = [], now()
    while seen.count(True) < 3 and seen.count(False) < 3:
        has_come = partial(something, now())
        with connect(server) as client:
            client.sendall(REQUEST)
            server.wait_until(partial(readable, client), pause=0)  # a child may live for a moment only
            if not read_reply(client, server).data:
                raise NoAnswer('one of three clients that come one after the other is not answered')
        seen.append(server.wait_until(has_come, nap=0))
    if seen.count(True) < 3 or not something(begin):  # they were about to run another program
        return False
    kernel.eventually(lambda: not zombies(server), A_WHILE)
    return not kernel.eventually(partial(something, now()), A_WHILE)


def parents(server):
    """The processes that have forked the children."""
    return set(server.forked.values()) & server.own


def handlers(server):
    """Whether each process that forks has a handler for SIGCHLD; None where the kernel does not tell."""
    return [kernel.catches(pid, signal.SIGCHLD) for pid in parents(server) or server.listened]


def all_end(server):
    """Whether every child that was forked ends within a while."""
    def done():
        server.family()  # notes those that were forked just now
        return not any(map(kernel.alive, server.forked))
    return server.wait_until(done) or server.wakes_up(done, server.forked)


def reaps_later(server):
    """Whether no zombie is left after a while, or when one more client has come."""
    before = zombies(server)

    def left():
        return len(zombies(server) & before)
    while most := left():
        if not server.comes_to(lambda most=most: left() < most, A_WHILE):
            answers(server)
            return server.wait_until(lambda: not left())
    return True


def one_is_silent(server):
    """A client says nothing, and another one sends a request: what several bugs are traced with."""
    connected(server)
    server.let_rest()
    ask(connected(server), server)
    server.let_rest()
