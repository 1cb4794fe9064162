"""The experiments of part 3: what a server does with its clients, sockets and children.

An experiment is a function that is given a running server, as a process id and a port. It acts
as the clients, looks at the process through the kernel, and returns a Verdict. The first line of
its docstring is the question that it answers. It knows nothing else of the server.

It calls tell() with a few words at the moments that matter, for those who want to look then.
"""
import os
import signal
from contextlib import ExitStack
from typing import NamedTuple

from common import kernel
from common.exchange import REQUEST, ask, connect, exchange

HOLDS, BUG = 'holds', 'bug'
NO_CHILD, NO_HANDLER, ENDED = 'no child', 'no handler', 'ended'
CHILDREN = 24  # how many end at once, and how many clients come and go


def started_with(**settings):
    """Marks an experiment with what measure() gives to the server: pep475='off', apps=[...]."""
    def mark(experiment):
        vars(experiment).update(settings)
        return experiment
    return mark


class Verdict(NamedTuple):
    outcome: str  # 'holds', 'bug', or the reason why the question does not arise
    evidence: str  # what was seen


def connect_to_child(stack, pid, port):
    """Open a connection that says nothing; return it and the child that serves it (or None)."""
    before = kernel.children(pid)
    client = stack.enter_context(connect(port))
    kernel.wait_until(lambda: kernel.children(pid) - before, pid)
    return client, next(iter(kernel.children(pid) - before), None)


def close_wait(pid):
    """How many of its sockets wait for the process to close them: the client has closed."""
    return kernel.tcp_states(pid).count('CLOSE_WAIT')


def tell_nobody(moment):
    pass


def has_ended(pid):
    return kernel.status(pid) in ('zombie', 'gone')


def silent_client(pid, port, tell=tell_nobody):
    """answers others while one client is silent"""
    with connect(port), connect(port) as other:
        answer = ask(other, pid)
        tell('One client is connected and says nothing; a second one has sent its request')
        if answer:
            return Verdict(HOLDS, 'a second client is answered while the first says nothing')
        return Verdict(BUG, 'a second client waits for as long as the first says nothing')


def end_of_reply(pid, port, tell=tell_nobody):
    """the client sees the end of the reply (FIN)"""
    reply, finished = exchange(pid, port)
    if finished:
        return Verdict(HOLDS, f'{len(reply)} bytes of reply, then FIN')
    return Verdict(BUG, f'{len(reply)} bytes of reply, then nothing: no FIN')


def descriptors(pid, port, tell=tell_nobody):
    """descriptors are given back"""
    with connect(port) as client:
        ask(client, pid)
        kernel.let_rest(pid)
        tell('A client has the greeting and waits for the end')
    kernel.let_rest(pid)
    tell('The client is gone')
    before, waiting_before = kernel.descriptors(pid), close_wait(pid)
    for _ in range(CHILDREN):
        with connect(port) as client:
            ask(client, pid)
    kernel.wait_until(lambda: kernel.descriptors(pid) <= before, pid)
    tell(f'{CHILDREN} more clients have come and gone')
    left = kernel.descriptors(pid) - before
    if left <= 0:
        return Verdict(HOLDS, f'no descriptor more after {CHILDREN} clients than before')
    waiting = close_wait(pid) - waiting_before
    return Verdict(BUG, f'{left} descriptors more after {CHILDREN} clients, '
                        f'{waiting} of them sockets in CLOSE_WAIT')


def one_child(pid, port, tell=tell_nobody):
    """one child is reaped"""
    with ExitStack() as stack:
        client, child = connect_to_child(stack, pid, port)
        if child is None:
            return Verdict(NO_CHILD, 'no child is forked for a connection')
        tell('A client is connected, and a child waits for its request')
        client.sendall(REQUEST)
        kernel.wait_until(lambda: kernel.status(child) == 'gone', pid)
        tell('The child has answered')
    if kernel.status(child) == 'gone':
        return Verdict(HOLDS, 'the child is gone once it has answered')
    zombie = kernel.status(child) == 'zombie'
    return Verdict(BUG, 'the child has answered and ' + ('is a zombie' if zombie else 'does not end'))


@started_with(pep475='off')
def eintr(pid, port, tell=tell_nobody):
    """survives EINTR in accept()"""
    with ExitStack() as stack:
        client, child = connect_to_child(stack, pid, port)
        if child is None:
            return Verdict(NO_HANDLER, 'no child is forked, so no SIGCHLD comes')
        kernel.let_rest(pid)  # in accept(), which the SIGCHLD of this child interrupts
        client.sendall(REQUEST)
        kernel.wait_until(lambda: kernel.status(child) == 'gone', pid)
        kernel.let_rest(pid)
        tell('A child has ended, and its SIGCHLD has interrupted accept()')
    if kernel.status(child) == 'zombie':
        return Verdict(NO_HANDLER, 'the child stays a zombie: nothing handles SIGCHLD')
    try:
        with connect(port) as client:
            if ask(client, pid):
                return Verdict(HOLDS, 'the next client is answered after the SIGCHLD')
    except ConnectionError:
        pass
    ended = kernel.wait_until(lambda: has_ended(pid), pid)
    return Verdict(BUG, f'the first SIGCHLD {"ends" if ended else "blocks"} the server')


def children_at_once(pid, port, tell=tell_nobody):
    """children that end at once are all reaped"""
    with ExitStack() as stack:
        clients = []
        for _ in range(CHILDREN):
            client, child = connect_to_child(stack, pid, port)
            if child is None:
                return Verdict(NO_CHILD, 'no child is forked for a connection')
            clients.append(client)
        os.kill(pid, signal.SIGSTOP)
        try:
            for client in clients:
                client.sendall(REQUEST)
            kernel.wait_until(lambda: len(kernel.zombies(pid)) == CHILDREN, pid)
            kernel.let_rest(pid)
            ended = len(kernel.zombies(pid))
            tell(f'The server is stopped, and {ended} children have ended meanwhile')
        finally:
            os.kill(pid, signal.SIGCONT)
        kernel.wait_until(lambda: not kernel.zombies(pid), pid)
        tell('The server goes on, and gets one SIGCHLD')
    if has_ended(pid):
        return Verdict(ENDED, 'the server has ended')
    left = len(kernel.zombies(pid))
    outcome = BUG if left else HOLDS
    return Verdict(outcome, f'{left} zombies after {ended} children ended at once')


def stopped_child(pid, port, tell=tell_nobody):
    """survives a stopped child"""
    with ExitStack() as stack:
        silent, child = connect_to_child(stack, pid, port)
        if child is None:
            return Verdict(NO_CHILD, 'no child is forked for a connection')
        os.kill(child, signal.SIGSTOP)
        try:
            kernel.let_rest(pid)
            other = stack.enter_context(connect(port))
            answer = ask(other, pid)
            tell('A child is stopped, not ended; another client has sent its request')
            if answer:
                return Verdict(HOLDS, 'the next client is answered while a child is stopped')
            return Verdict(BUG, 'the next client waits for as long as a child is stopped')
        finally:
            os.kill(child, signal.SIGCONT)


PART3 = [silent_client, end_of_reply, descriptors, one_child, eintr, children_at_once, stopped_child]


def measure(experiment, start, **options):
    """Run an experiment on a server; return the Verdict.

    start     starts the server as the experiment asks: start(app, pep475) gives a ServerProcess
    options   for the experiment

    With several applications (experiment.apps), the bug on any of them is the verdict.
    """
    for app in getattr(experiment, 'apps', [None]):
        with start(app, getattr(experiment, 'pep475', 'on')) as server:
            try:
                verdict = experiment(server.pid, server.port, **options)
            except (OSError, ValueError) as error:
                ended = server.has_ended()
                verdict = Verdict(ENDED if ended else BUG, f'{"the server has ended" if ended else error}')
        if verdict.outcome == BUG:
            break
    return verdict
