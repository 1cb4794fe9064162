"""survives EINTR in accept()"""
import errno
from contextlib import suppress

from laboratory.instruments import children, kernel, output, views
from laboratory.instruments import experiment as experiments
from laboratory.instruments.client import REQUEST, ask, read_reply
from laboratory.instruments.experiment import NO_HANDLER, NOT_TESTED, Case, NoAnswer, Result, about, bug


def experiment(server, step):
    listens_before = kernel.listening_inodes(server.listened, server.port)
    reaped_before, caught_before, made = children.reaped(server), False, 0

    def has_reaped():
        return children.reaped(server) != reaped_before

    def one_has_ended():
        return has_reaped() or not all(map(kernel.alive, server.forked))
    for _ in range(children.number_of_clients(server)):  # one is enough where its child waits for the request
        made += 1
        client, child = children.connect_to_child(server)
        server.let_rest()  # in accept(), which the SIGCHLD of this child interrupts
        caught_before |= any(children.handlers(server))
        client.sendall(REQUEST)
        read_reply(client, server)
        client.close()
        has_forked = server.wait_until(lambda: server.forked or has_reaped())
        if child or not has_forked:
            break
    if not has_forked:
        return Result(NO_HANDLER, detail=f'{children.NONE_SEEN}, so no SIGCHLD comes')
    server.wakes_up(one_has_ended, server.forked)
    forks_again = server.wait_until(lambda: len(server.forked) > made + children.CHILDREN)
    step('A child has ended, and its SIGCHLD has interrupted accept()', views.output)
    if forks_again:
        return bug('forks_again', f'it has forked {len(server.forked)} children; clients so far: {made}')
    if server.has_ended():
        return at_the_first('end')
    if by_eintr(server) and not all(map(kernel.alive, server.listened)):
        return bug('ends', 'the first SIGCHLD ends the process that serves, and another one takes its place')
    caught = children.handlers(server)
    if not any(caught) and (None not in caught or children.zombies(server)):
        return Result(NO_HANDLER, detail='its handler is gone after the first SIGCHLD' if caught_before else
                      'nothing handles SIGCHLD, so it interrupts nothing')
    if not one_has_ended():
        return Result(NOT_TESTED, detail='no child has ended, so no SIGCHLD has come')
    if not children.answers(server):
        return at_the_first(why_silent(server, 'once a child has ended, the next client is not answered'))
    if any(map(retries_by_itself, server.own)):
        why = 'its Python does not load common/python2_accept: was it started with -I, -E or -S?'
        return Result(NOT_TESTED, detail=why)
    if listens_before and not listens_before & kernel.listening_inodes(server.processes(), server.port):
        return bug('new_socket', 'after the SIGCHLD it listens on a new socket, '
                                 'and the clients in the old backlog are lost')
    if not survives_one_after_the_other(server):
        what = why_silent(server, 'after three silent clients, one after the other, the next is not answered')
        return bug('one_by_one', f'SIGCHLDs with no client between them {what} the server')
    return experiments.passed('the next client is answered after the SIGCHLD')


def at_the_first(what):
    """The Result where the first SIGCHLD does that: 'end' or 'block' the server."""
    return bug(f'{what}s', f'the first SIGCHLD {what}s the server')


def why_silent(server, otherwise):
    """What EINTR has done to a server that does not answer: 'end' or 'block' it; raises NoAnswer."""
    server.let_rest()
    if server.has_ended():
        return 'end'
    if by_eintr(server):
        return 'block'
    raise NoAnswer(otherwise)


def by_eintr(server):
    """Whether EINTR is the error that the server printed last, or its number the exit status."""
    return output.last_error(server.output()) == 'EINTR' or server.returncode() == errno.EINTR


def when_ended(server, result):
    """EINTR is the bug, and so is an end without an error; another end proves nothing."""
    if by_eintr(server):
        return result if result.case in CASES else at_the_first('end')
    otherwise = experiments.ended(server, result)
    return result if otherwise.cause == experiments.WORDLESS and result.case in CASES else otherwise


def survives_one_after_the_other(server):
    """Let the children of silent clients end one by one; return whether the next client is answered."""
    with suppress(ConnectionError):
        for client in [children.connect_to_child(server)[0] for _ in range(3)]:
            server.let_rest()  # in accept()
            ask(client, server)
        server.let_rest()
        return children.answers(server)


def retries_by_itself(pid):
    """Whether it is a Python 3 in which common/python2_accept, which needs ctypes, is not at work (Linux)."""
    maps = kernel.read(f'/proc/{pid}/maps')
    return kernel.is_python3(pid) and maps and '_ctypes' not in maps


CHILD_ENDS = 'sleep 1 | curl -s -m 1 telnet://localhost:8888; sleep 1'
EINTR = 'a SIGCHLD ended a call such as accept() with EINTR, and you did not call it again.'
CASES = {
    'ends': Case(
        'dies of EINTR',
        f'{CHILD_ENDS}; curl -m 2 localhost:8888/hello',
        r'curl: \(7\)(.|\n)*InterruptedError',
        f'You see curl fail: {EINTR}', """
        Let the children of silent clients end, and see what your server does then:
        {see}
        If it has printed an error, the last lines name it, and the call.

        A signal that has a handler interrupts a system call that waits. The handler runs, and the call
        fails, although nothing is wrong. Today's Python then makes the same call again. Python 2 doesn't,
        and there you have to do that yourself, and nothing else.

        Inside the loop, where accept() fails and the error is EINTR, go back to the top of the loop, see
        accept(2). In Python, put only the line with accept() into a try: except InterruptedError: continue.
        In C: if (errno == EINTR) continue, or SA_RESTART for sigaction()."""),
    'blocks': Case(
        'serves nobody after EINTR', f'{CHILD_ENDS}; curl -m 2 localhost:8888/hello', '',
        f'You see curl time out: {EINTR}'),
    'one_by_one': Case(
        'dies when children end one after the other',
        'for i in 1 2 3; do (sleep 4 | curl -s -m $i telnet://localhost:8888 &) done; sleep 4; '
        'curl -m 2 localhost:8888/hello', '',
        'You see curl fail: a second SIGCHLD has interrupted a second accept(). Go back to the top, always.'),
    'new_socket': Case(
        'opens a new listening socket after EINTR',
        f"ss -tlneH 'sport = :8888'; {CHILD_ENDS}; ss -tlneH 'sport = :8888'", '',
        'You see two different numbers after ino: clients in the backlog of the old one are reset. Keep it.'),
    'forks_again': Case(
        'forks children for nobody after EINTR',
        f'{CHILD_ENDS}; pid={{pid}}; for i in $(seq 50); do ps -o pid=,stat=,args= --ppid $pid; done', '',
        'You see other children all the time, and no client: you fork although accept() has failed.'),
}
BUG = about(
    globals(), pep475='off', when_ended=when_ended,
    witness='the first SIGCHLD ends the server',
    predict='A signal interrupts accept(), with the accept() of Python 2. Does the server survive?',
    why='a signal with a handler interrupts the call that the process is waiting in. Call it again.')
