"""closes its descriptors"""
from collections import Counter

from laboratory.instruments import children, kernel, process, views
from laboratory.instruments.client import ask, connect
from laboratory.instruments.experiment import NOT_TESTED, Case, NoAnswer, Result, about, bug, passed


def experiment(server, step):
    with connect(server) as client:
        ask(client, server)
        server.let_rest()
        step('A client has its greeting and waits for the end', views.connections)
    server.let_rest()
    step('The client is gone', views.connections)
    number, pids = children.number_of_clients(server), server.processes()
    before = kernel.descriptors(pids)
    left = come_and_go(server, number, pids)
    step(f'{number} more clients have come and gone', views.connections)
    if left and not closes_later(server, pids, before):
        left = come_and_go(server, number, pids)  # what a server keeps for the next clients may have been new
        if 0 < left.total() < number:
            left = come_and_go(server, number, pids)
        if left and left.total() <= sleeping(pids):
            return Result(NOT_TESTED, detail='as many threads sleep, and may close them when they wake up')
        if left:
            kinds = ', '.join(f'{count} of them {kind}' for kind, count in left.most_common())
            case = next((case for case in KINDS if KINDS[case] in left), 'file')
            return bug(case, f'{left.total()} more descriptors after {number} clients, {kinds}')
    return passed(f'no more descriptors after {number} clients than before')


def closes_later(server, pids, number):
    """Whether those processes come to have no more descriptors than that, also when a thread has slept."""
    def done():
        return kernel.descriptors(pids) <= number
    return server.comes_to(done, process.A_WHILE) or sleeping(pids) > 0 and server.wakes_up(done, pids)


def sleeping(pids):
    """How many threads of the processes sleep."""
    return sum(len(kernel.naps(pid)) for pid in pids)


def come_and_go(server, number, pids):
    """Let so many clients come and go; return what those processes have more then: {kind: descriptors}."""
    before = kernel.open_files(pids)
    for _ in range(number):
        with connect(server) as client:
            if not ask(client, server):
                raise NoAnswer('one of the clients that come and go is not answered')
    server.wait_until(lambda: kernel.descriptors(pids) <= before.total())
    after = kernel.open_files(pids)
    return after - before if after.total() > before.total() else Counter()


KINDS = {'socket': 'sockets in CLOSE_WAIT', 'shut': kernel.ENDED}


CASES = {
    'socket': Case(
        'leaks descriptors',
        "curl -m 1 localhost:8888/hello; ss -tan 'sport = :8888'",
        'CLOSE-WAIT',
        'You see a CLOSE-WAIT line for every client that has gone: you have not closed its socket.', """
        Send requests, and see what your server still has open:
        {see}
        Repeat it: what is new each time? CLOSE-WAIT means that the client has closed its end, and your
        server has not. (macOS has no ss: type lsof -nPi :8888.)

        A process keeps a descriptor until it closes it, or ends. Your server doesn't end. So whatever it
        opens for a client, it has to close again, in every process that has a copy of it.

        Find the process that keeps it. If it is the parent, close it there, after the fork, with
        client_fd.close(), and keep no list of sockets. A child that has answered has to end, with
        os._exit(0) or _exit(0). Close files, too."""),
    'shut': Case(
        'keeps sockets whose connections are over',
        'for i in 1 2 3; do curl -s -m 2 localhost:8888/hello; done; '
        'for pid in {pids}; do ls -l /proc/$pid/fd; done', '',
        'You see a socket for every client that has gone, and ss lists none: shutdown() has ended the '
        'connection, and you have not closed the socket.', """
        Send requests, and see what your server still has open:
        {see}
        Repeat it: what is new each time? ss has no connection for these sockets any more. Why not?

        shutdown() ends the connection for all processes that share it, so the client sees FIN. But each of
        them keeps its descriptor until it closes it, or ends. Only close() gives it back.

        Find the process that keeps the socket. If it is the parent, close it there, after the fork, and keep
        no list of sockets.""", cured_by='part3-v1.1'),
    'file': Case(
        'leaks descriptors that are no connections',
        'for i in 1 2 3; do curl -s -m 2 localhost:8888/hello; done; '
        'for pid in {pids}; do ls -l /proc/$pid/fd; done', '',
        'You see a descriptor for every client that has gone: you opened it, and did not close it.',
        cured_by=''),
}
BUG = about(
    globals(),
    witness='24 more descriptors after 24 clients, 24 of them sockets in CLOSE_WAIT',
    predict='24 clients come and go. How many more descriptors does the server have open then?',
    why='after fork() parent and child each have a descriptor of the socket: each has to close its own.')
