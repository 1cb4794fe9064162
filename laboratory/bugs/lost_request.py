"""loses no request when it reloads at SIGHUP"""
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from laboratory.instruments import kernel, process, views, workers, wsgi
from laboratory.instruments.client import KEPT, REFUSED, Reply, closes, connect, readable, rest_of
from laboratory.instruments.experiment import Case, about, bug, its_own_end, passed

VISITORS = [1, 1, 10, 10]  # how many requests each of them sends on a connection
PAUSE = 0.005  # seconds between them
ANSWER = 10  # seconds in which a request is answered while the server reloads
RELOADS = 3
HOLD = 1.5  # seconds for which an application goes on; a server may allow it no more


def visit(server, each, stopped, replies):
    """Send requests until the event is set, so many on each connection; append the replies to the list."""
    client, left = None, 0
    while not stopped.wait(PAUSE):
        reply = answer(client) if left and not readable(client) else Reply(end=REFUSED)
        if not reply.data:  # where a kept connection ends, clients ask again (RFC 9110, section 9.2.2)
            with suppress(OSError):
                client, left = connect(server), each
                reply = answer(client)
        replies.append(reply)
        left = 0 if closes(reply) else left - 1
        if client and left <= 0:
            client.close()


def answer(client):
    with suppress(ConnectionError):
        client.sendall(KEPT)
    return rest_of(client, ANSWER)


@contextmanager
def visitors(server):
    """Clients that send requests all the time; yields a list to which they add their replies."""
    stopped, replies = threading.Event(), []
    with ThreadPoolExecutor(len(VISITORS)) as pool:
        for each in VISITORS:
            pool.submit(visit, server, each, stopped, replies)
        try:
            yield replies
        finally:
            stopped.set()


def wait_for_more(replies):
    due = len(replies) + 5 * len(VISITORS)
    kernel.eventually(lambda: len(replies) >= due, process.A_WHILE)


def finishes(server, old):
    """Whether clients are answered whose applications, one in each worker, are not done when it reloads."""
    top, current = workers.workers_of(server)
    with wsgi.fifo(server):
        clients, _ = workers.let_applications_wait(server, len(current))
        kernel.send(workers.main_process(server), signal.SIGHUP)
        workers.replaced(server, top, old, 1, HOLD)  # they may wait until the applications return
        server.let_rest(most=HOLD)
    return bool(clients) and all(rest_of(client, process.A_WHILE).body == b'returned' for client in clients)


def experiment(server, step):
    (top, first), main = workers.workers_of(server), workers.main_process(server)
    if not first:
        return workers.without_workers(server, 'replaced')
    old, new, times, began = set(), first, 0, time.monotonic()
    with visitors(server) as replies:
        while new and times < RELOADS and time.monotonic() < began + server.patience:
            wait_for_more(replies)
            old |= new
            kernel.send(main, signal.SIGHUP)
            new, times = workers.replaced(server, top, old, len(first)), times + 1
        wait_for_more(replies)
    lost = [reply for reply in replies if reply.status != 200 or not reply.complete]
    seen = f'{len(lost)} of {len(replies)} requests are lost'
    step(f'{len(VISITORS)} clients have sent requests while the server got SIGHUP', views.processes)
    if not new:
        return workers.not_replaced(top, seen)
    if lost:
        return bug('lost', f'{seen}: {lost[0]}')
    if not finishes(server, old | new):
        return bug('unfinished',
                   'a client whose application is not done when the server reloads gets no reply')
    return passed(f'{seen} while its workers are replaced {times} times')


RELOADS_ONCE = (
    'echo {pids}; (sleep 1; kill -HUP {pid}) & for i in $(seq 200); do '
    "curl -s -o /dev/null -w '%{http_code}\\n' localhost:8888/; done | sort | uniq -c; echo {pids}")
CASES = {
    'ends': Case(
        'ends at SIGHUP, instead of reloading', RELOADS_ONCE, r'\d+ 000',
        'You see a line with 000, for the requests that were lost, or that the first pid is missing at the '
        'end: SIGHUP has ended your supervisor. Start new workers then, and let the old ones finish.', """
        Send SIGHUP while your server has work to do:
        {see}
        Each 000 is a request that was lost. The first pid should stay, and the others should be new.

        An old worker may stop only when the new one serves, and its own applications have returned. A
        client whose connection you keep may be sending its next request just now: give it a moment.

        Let a new worker tell the supervisor just before its own loop begins, which then sends SIGTERM to an
        old one. When that stops, it sends Connection: close with its last replies, gives idle connections
        half a second, and uses shutdown(socket.SHUT_WR) before close()."""),
    'lost': Case(
        'loses requests when it reloads', RELOADS_ONCE, '',
        'You see a line with 000: requests were lost. Start new workers, then let the old ones finish.'),
    'unheeded': Case(
        'keeps its workers at SIGHUP', RELOADS_ONCE, '',
        'You see the same pids at the end. At SIGHUP, start new workers, and let the old ones finish.'),
    'unfinished': Case(
        'breaks off applications when it reloads',
        'curl -s -m 9 localhost:8888/wait & sleep 1; kill -HUP {pid}; wait', '',
        'You see no "after": an old worker has ended while its application worked. Let it finish.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=its_own_end, witness='SIGHUP ends its supervisor; ',
    predict='Clients send requests all the time, and the server replaces its workers. How many fail?',
    why='a new worker serves before the old one stops, and the old one finishes what it has begun.')
