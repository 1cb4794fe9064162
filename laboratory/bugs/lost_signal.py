"""reaps all children that end at the same time"""
from contextlib import contextmanager

from laboratory.instruments import children, kernel, views
from laboratory.instruments.children import CHILDREN, zombies
from laboratory.instruments.client import REQUEST, read_reply
from laboratory.instruments.experiment import NO_CHILD, NOT_TESTED, Case, Result, about, bug, passed


def experiment(server, step):
    served = {}  # {connection: child}
    for _ in range(CHILDREN):
        client, child = children.connect_to_child(server)
        if child is None:
            return without_children(server, len(served))
        served[client] = child
    with ended_together(server, served):
        if any(map(kernel.alive, server.forked)):  # they wait for another request
            for client in served:
                client.close()
            children.all_end(server)
        ended = sum(not kernel.alive(pid) for pid in served.values())
        step(f'The server is stopped, and {ended} children have ended meanwhile', views.processes)
    server.wait_until(lambda: not zombies(server))
    step('The server goes on, and gets one SIGCHLD', views.processes)
    if ended < CHILDREN:
        why = '; the others sleep' if any(map(kernel.naps, served.values())) else ''
        return Result(NOT_TESTED, detail=f'{ended} of {CHILDREN} children ended{why}')
    left = len(zombies(server))
    if not children.reaps_later(server):
        case = 'lost' if left < ended else 'none_reaped'
        return bug(case, f'{left} zombies after {ended} children ended together')
    return passed(f'0 zombies after {ended} children ended together')


@contextmanager
def ended_together(server, clients):
    """The children of these clients end while the server is stopped; afterwards it goes on."""
    forking = children.parents(server)
    kernel.suspend(forking)
    try:
        for client in clients:
            client.sendall(REQUEST)
        server.wait_until(lambda: not any(map(kernel.alive, server.forked)))
        yield
    finally:
        kernel.resume(forking)


def without_children(server, number):
    """The Result where only so many silent clients have a child."""
    if number:
        server.until_end.close()
    elif not children.forks(server):
        return Result(NO_CHILD, detail=children.NONE_SEEN)
    children.all_end(server)
    states = list(kernel.states(server.forked).values())
    left = states.count('zombie')
    ended = len(server.forked) - len(states) + left
    if not children.reaps_later(server):
        return bug('none_reaped', f'{left} zombies after {ended} children ended, one by one')
    few = f'{number} of {CHILDREN} clients have a child, and the next one has none'
    return Result(NOT_TESTED, detail=few if number else children.SILENT)


def children_end_together(server):
    """The server is stopped (SIGSTOP) while three children end; then it goes on."""
    clients = []
    for _ in range(3):
        clients.append(children.connect_to_child(server)[0])
        server.let_rest()
    with ended_together(server, clients):
        for client in clients:
            read_reply(client, server)
            client.close()
    server.let_rest()


CASES = {
    'lost': Case(
        'leaves zombies when children end together',
        'make client MAX_CLIENTS=128 HOLD=0; sleep 1; ps -o stat --ppid {pid} | grep -c Z',
        r'(?m)^[1-9]\d*$',
        'You see a number that is not 0: so many zombies are left. SIGCHLD is not queued: one signal may '
        'stand for all that have ended, and you do not reap them all.', """
        Let children end, and look for zombies (Z):
        {see}
        Then look at what happened in the test: how many children ended, and how many zombies are left?

        While one SIGCHLD has not been delivered yet, more of them add nothing. So one run of your handler
        may stand for 24 children: reap all that have ended, and do not wait for those that still run.

        In the handler of SIGCHLD, call waitpid(-1, WNOHANG) in a loop, see waitpid(2). It never waits.
        Return when it gives the pid 0, because the other children still run, or when it fails with ECHILD
        (ChildProcessError in Python), because no child is left."""),
    'none_reaped': Case(
        'leaves zombies',
        'for i in 1 2 3; do curl -s -m 2 localhost:8888/hello; done; sleep 1; '
        'ps -o pid,stat,comm --ppid {pid}', '',
        'You see a zombie (Z) for each client: its child has ended, and you do not wait() for it.',
        cured_by='part3-v1.2'),
}
BUG = about(
    globals(), scene=children_end_together,
    witness='23 zombies after 24 children ended together',
    predict='24 children end at the same moment. How many zombies are left?',
    why='the kernel has one bit for SIGCHLD, not a queue: 24 exits set it once. So reap all that have ended.')
