"""What clients do while a server is traced: the situation of a scene, as briefly as it can be told.

Each story is given a running server, and returns when all is at rest, whatever the server does.
"""
import signal

from laboratory.experiments.part2 import fifo
from laboratory.experiments.part3 import connect_to_child, connected, parents
from laboratory.experiments.part4 import GET, asking
from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, ask, connect, read_next, readable, request
from laboratory.instruments.timeline import one_request

TOGETHER = 3  # children


def one_is_silent(server):
    """A client says nothing, and another one sends a request."""
    connected(server)
    server.let_rest()
    ask(connected(server), server)
    server.let_rest()


def children_end_together(server):
    """The server is stopped while the children of some clients end."""
    held = [connect_to_child(server)[0] for _ in range(TOGETHER)]
    forking = parents(server)
    kernel.stop(forking)
    for client in held:
        client.sendall(REQUEST)
    server.wait_until(lambda: not any(map(kernel.alive, server.forked)))
    kernel.go_on(forking)
    server.let_rest()


def a_child_is_stopped(server):
    """The child of a silent client is stopped, and another client sends a request."""
    _, child = connect_to_child(server)
    stopped = [child] if child else []
    server.let_rest()
    kernel.stop(stopped)
    ask(connected(server), server)
    kernel.go_on(stopped)
    server.let_rest()


def some_are_silent(server):
    """A few clients say nothing."""
    for _ in range(TOGETHER):
        connected(server)
        server.let_rest()


def a_worker_is_killed(server):
    """One request, and then SIGKILL to the workers, which a supervisor replaces."""
    one_request(server, request('GET', '/binary'))
    workers = kernel.children(server.pid)
    for worker in workers:
        kernel.send(worker, signal.SIGKILL)
    wait_for_new_workers(server, workers)


def an_application_is_stuck(server):
    """A request whose application does not return, until the time limit ends it."""
    server.let_rest()  # the worker starts
    workers = kernel.children(server.pid)
    with fifo(server), connect(server) as client:
        client.sendall(request('GET', '/stuck'))
        wait_for_new_workers(server, workers)


def wait_for_new_workers(server, workers):
    """Wait until there are other workers, which may take a moment, and all is at rest."""
    kernel.eventually(lambda: kernel.children(server.pid) - workers, server.patience)
    server.let_rest()


def an_application_waits(server):
    """An application waits, and another client sends a request; then the application returns."""
    waiting = connected(server)
    with fifo(server):
        waiting.sendall(request('GET', '/stuck'))
        server.let_rest()
        another = connected(server)
        another.sendall(GET)
        server.wait_until(lambda: readable(another))
    server.let_rest()


def two_requests(server):
    """Two requests on one connection."""
    with connect(server) as client:
        for _ in range(2):
            server.let_rest()
            client.sendall(asking('GET', '/binary'))
            read_next(client, server)
        server.let_rest()
    server.let_rest()


STORIES = {  # by the name of the scene; the others are traced with one request
    'silent-client': one_is_silent,
    'lost-signal': children_end_together,
    'stopped-child': a_child_is_stopped,
    'many-processes': some_are_silent,
    'dead-worker': a_worker_is_killed,
    'stuck-worker': an_application_is_stuck,
    'one-request': two_requests,
    'idle-clients': one_is_silent,
    'waiting-application': an_application_waits,
}
