"""The experiments of part 3: what a server does with its clients, sockets and children."""
import signal
from functools import partial

from laboratory.experiments.verdicts import (
    BUG,
    FIRST,
    NO_CHILD,
    NO_HANDLER,
    NOT_TESTED,
    PASS,
    NoAnswer,
    Verdict,
    shows_eintr,
    started_with,
    tell_nobody,
)
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    OPEN,
    REQUEST,
    RST,
    Reading,
    ask,
    connect,
    read_on,
    read_reply,
    readable,
)

CHILDREN = 24  # how many end at once, and how many clients come and go
A_WHILE = 3  # seconds in which a server that reaps or closes by a timer has done so
NONE_SEEN = 'it was not seen to fork a child for a client'
NEW_SOCKET = 'after the SIGCHLD it listens on a new socket, and the clients in the old backlog are lost'
SILENT = 'no new child waits for a client that says nothing'


def clients(server):
    """How many clients come and go: fewer where each reply takes long."""
    return min(CHILDREN, max(4, int(12 / server.pace))) if server.pace else CHILDREN


def connected(server):
    """A connection that lasts as long as the server does, or until it is closed."""
    return server.until_end.enter_context(connect(server))


def connect_to_child(server):
    """Open a connection that says nothing; return it and the child that serves it (or None)."""
    before = set(server.family())
    client = connected(server)
    server.wait_until(lambda: set(server.family()) - before)
    return client, next(iter(set(server.family()) - before), None)


def close_wait(server):
    """How many of the server's sockets wait to be closed by it: the client has closed."""
    return sum(socket.status == 'CLOSE_WAIT'
               for pid in server.processes() for socket in kernel.sockets_of(pid))


def answers(server):
    """Whether one more client is answered."""
    with connect(server) as client:
        return bool(ask(client, server))


def zombies(server):
    """The children that have ended and were not waited for, in the whole family."""
    return kernel.zombies(server.forked)


def reaped(server):
    """A number that grows whenever a child is reaped."""
    return sum(map(kernel.faults_of_the_reaped, server.own))


def forks(server):
    """Whether the server forks for clients: three of five make it fork or reap a child."""
    server.until_end.close()  # silent clients would be in the way
    seen = []
    while seen.count(True) < 3 and seen.count(False) < 3:
        before = len(server.forked), reaped(server)

        def something(before=before):
            return (len(server.forked), reaped(server)) != before

        with connect(server) as client:
            at_once = server.wait_until(something, nap=0)  # what comes later may have another reason
            client.sendall(REQUEST)
            server.wait_until(partial(readable, client), pause=0)  # a child may live for a moment only
            if not read_reply(client, server).data:
                raise NoAnswer('one of three clients that come one after the other is not answered')
        seen.append(at_once or server.wait_until(something, nap=0))
    return seen.count(True) == 3


def parents(server):
    """The processes that have forked the children."""
    return set(server.forked.values()) & server.own


def handlers(server):
    """Whether each process that forks has a handler for SIGCHLD; None where the kernel does not tell."""
    return [kernel.catches(pid, signal.SIGCHLD) for pid in parents(server) or server.listeners]


def all_end(server):
    """Whether every child that was forked ends within a while."""
    def done():
        return not any(map(kernel.alive, server.forked))
    return server.wait_until(done) or kernel.eventually(lambda: server.family() and done(), A_WHILE)


def answers_in_a_while(client, server, pids=()):
    """Send a request; return whether it is answered, also by a server that takes its time (comes_to())."""
    return bool(ask(client, server) or server.comes_to(partial(readable, client), A_WHILE, pids)
                and read_reply(client, server).data)


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


def silent_client(server, tell=tell_nobody):
    """answers other clients while one is silent"""
    before, silent = len(server.processes()), connected(server)
    for number in range(clients(server)):  # more than one: a worker of several may be held up
        other, which = connected(server), 'a later' if number else 'a second'
        answer = answers_in_a_while(other, server)
        if number == 0 or not answer:
            tell(f'One client is connected and says nothing; {which} one has sent its request')
        if not answer:
            silent.close()
            if not read_reply(other, server).data:
                raise NoAnswer(f'{which} client is not answered, even after the silent one has gone')
            return Verdict(BUG, f'{which} client waits while another one is silent')
        other.close()  # else the end of it may hold up a worker
        if number == 0:
            server.let_rest()
            reply = read_reply(silent, server) if readable(silent) else None
            if reply and (not reply.data or reply.status == 408):
                return Verdict(BUG, 'the silent client is cut off before it speaks')
            if not reply and not ask(silent, server):
                return Verdict(BUG, 'the silent client is not answered when it speaks')
            silent.close()
            silent = connected(server)
    silent.close()
    server.let_rest()
    left = len(server.processes()) - before
    stay = f'; {left} more processes than before still run' * (left >= clients(server))
    return Verdict(PASS, f'a second client is answered while the first one is silent{stay}')


def end_of_reply(server, tell=tell_nobody):
    """ends its reply: the client sees FIN"""
    for _ in range(4):
        verdict = end_of(exchange_to_the_end(server))
        if verdict.outcome == BUG:
            server.let_rest()
            tell('A client has had its reply, has waited for the end, and is gone')
            break
    return verdict


def exchange_to_the_end(server):
    """Be a client, and wait a while for an end that comes later than the reply; return the Reply."""
    with connect(server) as client:
        client.sendall(REQUEST)
        reading = Reading('GET')
        reply = read_on(client, server, reading)
        if reply.end == OPEN and not reply.complete and server.comes_to(partial(readable, client), A_WHILE):
            reply = read_on(client, server, reading)
        return reply


def end_of(reply):
    """The verdict on the end of one Reply."""
    seen = f'{len(reply.data)} bytes of reply, '
    if not reply.data:
        raise NoAnswer('no byte of reply has come')
    if reply.end == FIN:
        return Verdict(PASS, seen + 'then FIN')
    if reply.complete:
        return Verdict(PASS, seen + 'as its headers announce; then ' +
                       ('a reset (RST)' if reply.end == RST else 'the connection stays open'))
    if reply.end == RST:
        return Verdict(BUG, seen + 'then a reset (RST) instead of FIN')
    return Verdict(BUG, seen + 'then nothing: no FIN')


def come_and_go(server, number, pids):
    """Let so many clients come and go; return how many descriptors more those processes have then."""
    before = kernel.descriptors(pids)
    for _ in range(number):
        with connect(server) as client:
            if not ask(client, server):
                raise NoAnswer('one of the clients that come and go is not answered')
    server.wait_until(lambda: kernel.descriptors(pids) <= before)
    return kernel.descriptors(pids) - before


def descriptors(server, tell=tell_nobody):
    """closes its descriptors"""
    with connect(server) as client:
        ask(client, server)
        server.let_rest()
        tell('A client has its greeting and waits for the end')
    server.let_rest()
    tell('The client is gone')
    number, waiting_before, pids = clients(server), close_wait(server), server.processes()
    left = come_and_go(server, number, pids)
    waiting = close_wait(server) - waiting_before
    tell(f'{number} more clients have come and gone')
    before = kernel.descriptors(pids) - left
    if left > 0 and not server.comes_to(lambda: kernel.descriptors(pids) <= before, A_WHILE):
        left = come_and_go(server, number, pids)  # what a server keeps for the next clients may have been new
        if 0 < left < number:
            left = come_and_go(server, number, pids)
        if left > 0:
            return Verdict(BUG, f'{left} more descriptors after {number} clients, '
                                f'{min(left, waiting)} of them sockets in CLOSE_WAIT')
    return Verdict(PASS, f'no more descriptors after {number} clients than before')


def one_child(server, tell=tell_nobody):
    """reaps a child that has ended"""
    processes = len(server.processes())
    client, child = connect_to_child(server)
    if child:
        tell('A client is connected, and a child waits for its request')
    client.sendall(REQUEST)
    read_reply(client, server)
    server.wait_until(lambda: not any(map(kernel.alive, server.forked)) and not zombies(server))
    tell('The child has answered')
    was_seen = zombies(server)
    client.close()
    if not forks(server):
        return Verdict(NO_CHILD, NONE_SEEN)
    server.wait_until(lambda: not zombies(server))
    if zombies(server) and not reaps_later(server):
        if not was_seen:
            tell('More clients have come and gone')
        return Verdict(BUG, 'the child has answered and is a zombie')
    if not kernel.eventually(lambda: len(server.processes()) < processes + 3, A_WHILE):
        return Verdict(BUG, 'the child has answered and does not end')
    return Verdict(PASS, 'a child that has answered is gone when the next client comes')


@started_with(pep475='off')
def eintr(server, tell=tell_nobody):
    """survives EINTR in accept()"""
    reaped_before, listens_before = reaped(server), kernel.listening_inodes(server.listeners, server.port)
    made, caught_before = 0, False
    for _ in range(clients(server)):  # one is enough where its child waits for the request
        made += 1
        client, child = connect_to_child(server)
        server.let_rest()  # in accept(), which the SIGCHLD of this child interrupts
        caught_before |= any(handlers(server))
        client.sendall(REQUEST)
        read_reply(client, server)
        client.close()
        server.wait_until(lambda: server.forked or reaped(server) != reaped_before)
        if child or not server.forked and reaped(server) == reaped_before:
            break
    if not server.forked and reaped(server) == reaped_before:
        return Verdict(NO_HANDLER, f'{NONE_SEEN}, so no SIGCHLD comes')
    kernel.eventually(lambda: one_has_ended(server) or reaped(server) > reaped_before, A_WHILE)
    too_many = made + CHILDREN
    server.wait_until(lambda: len(server.forked) > too_many)
    tell('A child has ended, and its SIGCHLD has interrupted accept()')
    if len(server.forked) > too_many:
        return Verdict(BUG, f'it has forked {len(server.forked)} children; clients so far: {made}')
    if server.has_ended():
        return Verdict(BUG, FIRST)  # measure() looks for the reason
    caught = handlers(server)
    if not any(caught) and (None not in caught or zombies(server)):
        return Verdict(NO_HANDLER, 'its handler is gone after the first SIGCHLD' if caught_before else
                       'nothing handles SIGCHLD, so it interrupts nothing')
    if not one_has_ended(server) and reaped(server) == reaped_before:
        return Verdict(NOT_TESTED, 'no child has ended, so no SIGCHLD has come')
    if answers(server):
        if any(map(retries_by_itself, server.own)):
            return Verdict(NOT_TESTED, 'its Python does not load common/python2_accept: '
                                       'was it started with -I, -E or -S?')
        if not survives_one_after_the_other(server):
            server.let_rest()
            if not server.has_ended() and not shows_eintr(server):
                raise NoAnswer('after three silent clients, one after the other, the next is not answered')
            what = 'end' if server.has_ended() else 'block'
            return Verdict(BUG, f'SIGCHLDs with no client between them {what} the server')
        listens = kernel.listening_inodes(server.processes(), server.port)
        if listens_before and not listens_before & listens:
            return Verdict(BUG, NEW_SOCKET)
        return Verdict(PASS, 'the next client is answered after the SIGCHLD')
    server.let_rest()
    if server.has_ended():
        return Verdict(BUG, FIRST)
    if not shows_eintr(server):
        raise NoAnswer('once a child has ended, the next client is not answered')
    return Verdict(BUG, 'the first SIGCHLD blocks the server')


def survives_one_after_the_other(server):
    """Let the children of silent clients end one by one; return whether the next client is answered."""
    try:
        silent = [connect_to_child(server)[0] for _ in range(3)]
        for client in silent:
            server.let_rest()  # in accept()
            ask(client, server)
        server.let_rest()
        return answers(server)
    except ConnectionError:
        return False


def one_has_ended(server):
    return not all(map(kernel.alive, server.forked))


def retries_by_itself(pid):
    """Whether it is a Python 3 in which common/python2_accept, which needs ctypes, is not at work (Linux)."""
    maps = kernel.read(f'/proc/{pid}/maps')
    return kernel.is_python3(pid) and maps and '_ctypes' not in maps


def children_at_once(server, tell=tell_nobody):
    """reaps all children that end at the same time"""
    held, served = [], []
    for _ in range(CHILDREN):
        client, child = connect_to_child(server)
        if child is None:
            return without_children(server, len(held))
        held.append(client)
        served.append(child)
    forking = parents(server)
    kernel.stop(forking)
    try:
        for client in held:
            client.sendall(REQUEST)
        server.wait_until(lambda: not any(map(kernel.alive, server.forked)))
        if any(map(kernel.alive, server.forked)):  # they wait for another request
            for client in held:
                client.close()
            all_end(server)
        ended = sum(not kernel.alive(pid) for pid in served)
        tell(f'The server is stopped, and {ended} children have ended meanwhile')
    finally:
        kernel.go_on(forking)
    server.wait_until(lambda: not zombies(server))
    tell('The server goes on, and gets one SIGCHLD')
    if ended < CHILDREN:
        return Verdict(NOT_TESTED, f'{ended} of {CHILDREN} children ended')
    left = len(zombies(server))
    if left and not reaps_later(server):
        return Verdict(BUG, f'{left} zombies after {ended} children ended together')
    return Verdict(PASS, f'0 zombies after {ended} children ended together')


def without_children(server, number):
    """The verdict on children_at_once where only so many silent clients have a child."""
    if not forks(server):
        return Verdict(NO_CHILD, NONE_SEEN)
    all_end(server)
    left = len(zombies(server))
    if left and not reaps_later(server):
        return Verdict(BUG, f'{left} zombies after {len(server.forked)} children ended, one by one')
    few = f'{number} of {CHILDREN} clients have a child, and the next one has none'
    return Verdict(NOT_TESTED, few if number else SILENT)


def stopped_child(server, tell=tell_nobody):
    """keeps serving while a child is stopped"""
    stopped = 0
    for _ in server.listeners:  # one for each worker that may wait for it
        client, child = connect_to_child(server)
        if child is None:
            break
        server.let_rest()  # it waits for the request
        if not any(handlers(server)) and not ask(connected(server), server):
            return Verdict(NOT_TESTED, 'a silent client holds up the next one even before a child is stopped')
        kernel.send(child, signal.SIGSTOP)
        stopped += 1
        server.let_rest()
    if not stopped:
        return Verdict(NOT_TESTED, SILENT) if forks(server) else Verdict(NO_CHILD, NONE_SEEN)
    other = connected(server)
    answered = answers_in_a_while(other, server, parents(server))  # a handler may take its time
    tell('A child is stopped, not ended; another client has sent its request')
    if answered:
        return Verdict(PASS, 'the next client is answered while a child is stopped')
    return Verdict(BUG, 'the next client waits while a child is stopped')


EXPERIMENTS = [silent_client, end_of_reply, descriptors, one_child, eintr, children_at_once, stopped_child]
