"""needs no process for each client"""
from laboratory.instruments import views, workers, wsgi
from laboratory.instruments.client import connected
from laboratory.instruments.experiment import NO_WORKER, Case, Result, about, bug, passed

CLIENTS = 100  # that say nothing


def experiment(server, step):
    wsgi.must_answer(server)
    server.let_rest()  # its workers start
    before = len(server.processes())

    def more():
        return len(server.processes()) - before
    clients = len(workers.silent_clients(server, CLIENTS))
    server.wait_until(lambda: more() >= clients)
    forked = more()
    step(f'{clients} clients are connected and say nothing', views.processes)
    if seen := workers.process_each(server, forked, clients):
        return bug('process_each', seen)
    seen = f'{forked} more processes for {clients} silent clients'
    if len(server.listeners()) < 2:
        return Result(NO_WORKER, detail=f'{seen}, but one process serves them all: it has no workers')
    return passed(seen)


def some_are_silent(server):
    """A few clients say nothing."""
    for _ in range(3):
        connected(server)
        server.let_rest()


CASES = {
    'process_each': Case(
        'needs a process for each client',
        'for i in $(seq 20); do (sleep 5 | curl -s -m 6 telnet://localhost:8888 >/dev/null &); done; '
        'sleep 1; ps -A -o ppid | grep -cw {pid}',
        '(?m)^2[0-9]$',
        'You see about 20: each silent client has a process. Fork a few before they come (prefork).', """
        Let twenty clients say nothing, and count the children of your server:
        {see}
        Do it again with thirty. What decides how many there are?

        A process can serve one client after the other. So make a few before the first client comes, and let
        none of them end. They all wait at one listening socket, and the kernel gives each client to one.

        In serve_forever(), call os.fork() WORKERS times before the first accept(). Each child, a worker,
        has the loop: accept(), handle the client, accept() again. The parent only waits, in signal.pause().
        Take WORKERS from os.environ, else os.cpu_count()."""),
}
BUG = about(
    globals(), apps=wsgi.PROBES, scene=some_are_silent,
    witness='100 more processes for 100 silent clients',
    predict='A hundred clients connect and say nothing. How many more processes does the server have then?',
    why='a few workers, forked in advance, share the listening socket. No client makes a new one.')
