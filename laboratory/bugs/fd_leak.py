"""closes its descriptors"""
from laboratory.instruments import children, kernel, process, views
from laboratory.instruments.client import ask, connect
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed


def experiment(server, step):
    with connect(server) as client:
        ask(client, server)
        server.let_rest()
        step('A client has its greeting and waits for the end', views.connections)
    server.let_rest()
    step('The client is gone', views.connections)
    number, waiting_before, pids = children.number_of_clients(server), close_wait(server), server.processes()
    left = come_and_go(server, number, pids)
    waiting = close_wait(server) - waiting_before
    step(f'{number} more clients have come and gone', views.connections)
    before = kernel.descriptors(pids) - left
    if left > 0 and not server.comes_to(lambda: kernel.descriptors(pids) <= before, process.A_WHILE):
        left = come_and_go(server, number, pids)  # what a server keeps for the next clients may have been new
        if 0 < left < number:
            left = come_and_go(server, number, pids)
        if left > 0:
            sockets = min(left, waiting)
            case, those = 'socket' if sockets else 'file', f'{sockets} of them sockets in CLOSE_WAIT'
            return bug(case, f'{left} more descriptors after {number} clients, {those}')
    return passed(f'no more descriptors after {number} clients than before')


def come_and_go(server, number, pids):
    """Let so many clients come and go; return how many descriptors more those processes have then."""
    before = kernel.descriptors(pids)
    for _ in range(number):
        with connect(server) as client:
            if not ask(client, server):
                raise NoAnswer('one of the clients that come and go is not answered')
    server.wait_until(lambda: kernel.descriptors(pids) <= before)
    return kernel.descriptors(pids) - before


def close_wait(server):
    """How many of the server's sockets wait to be closed by it: the client has closed."""
    return sum(socket.status == 'CLOSE_WAIT'
               for pid in server.processes() for socket in kernel.sockets_of(pid))


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

        Find the process that keeps it. If it is the parent, call client_fd.close() there, after os.fork(),
        and keep no list of sockets. End a child that has answered, with os._exit(0). Close files, too."""),
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
