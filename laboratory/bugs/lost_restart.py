"""answers clients that connect while it restarts"""
import signal

from laboratory.instruments import kernel, process, views, workers, wsgi
from laboratory.instruments.client import GET, one_request, rest_of
from laboratory.instruments.experiment import Case, about, bug, its_own_end, passed


def experiment(server, step):
    (top, old), main = workers.workers_of(server), workers.main_process(server)
    if not old:
        return workers.without_workers(server, 'replaced')
    kernel.suspend(old)
    clients = workers.silent_clients(server, 5)
    for client in clients:
        client.sendall(GET)
    kernel.send(main, signal.SIGHUP)
    server.let_rest()
    step(f'{len(clients)} clients are in the backlog, and the server has got SIGHUP', views.processes)
    kernel.resume(old)
    new = workers.replaced(server, top, old, len(old))
    answered = sum(rest_of(client, process.A_WHILE).status == 200 for client in clients)
    seen = f'{answered} of {len(clients)} clients in the backlog are answered'
    if not new:
        return workers.not_replaced(top, seen)
    return passed(seen) if answered == len(clients) else bug('lost', seen)


def it_restarts(server):
    """SIGHUP, and then one request."""
    server.let_rest()
    old = kernel.children(server.pid)
    kernel.send(server.pid, signal.SIGHUP)
    workers.wait_for_new_workers(server, old)
    one_request(server)


RESTARTS = 'echo {pids}; kill -HUP {pid}; sleep 2; echo {pids}; curl -i -m 2 localhost:8888/process'
CASES = {
    'ends': Case(
        'ends at SIGHUP, instead of restarting', RESTARTS, 'nothing listens',
        'You see "nothing listens", or the second line is without the first pid: SIGHUP has ended your '
        'supervisor. Let it replace the workers instead, and keep the socket in whose backlog they are.', """
        Send SIGHUP to your server, and see what becomes of its processes and clients:
        {see}
        The first pid, the supervisor, should stay. The others should be new, and curl be served.

        A client in the backlog belongs to the listening socket, not to a worker. So the supervisor keeps it
        open all the time. SIGHUP means: make new workers, and ask the old ones to finish and stop.

        In serve_forever(), let signal.sigwait() wait for SIGHUP as well, or give it a handler. Then call
        os.fork() for a new worker in place of each old one, and os.kill() for the old ones, with SIGTERM.
        In a worker, SIGHUP gets a handler that does nothing. The new workers accept() whoever waits."""),
    'unheeded': Case(
        'keeps its workers at SIGHUP', RESTARTS, '',
        'You see the same pids twice. At SIGHUP, wake up, replace the workers, keep the socket open.'),
    'lost': Case(
        'loses clients that connect while it restarts',
        'pid={pid}; pkill -STOP -P $pid; for i in 1 2 3 4 5; do '
        "(curl -s -o /dev/null -w '%{http_code}\\n' -m 5 localhost:8888/ &); done; "
        'sleep 1; kill -HUP $pid; sleep 1; pkill -CONT -P $pid; sleep 5', '',
        'You see 000 instead of 200: the clients were in the backlog of a socket that you have closed.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=its_own_end, scene=it_restarts,
    witness='SIGHUP ends its supervisor; ',
    predict='Five clients wait in the backlog when the server restarts. Are they answered?',
    why='the clients are in the backlog of the listening socket. It outlives the workers, and so do they.')
