"""ends an application that never returns"""
import time
from contextlib import suppress

from laboratory.instruments import kernel, process, views, wsgi
from laboratory.instruments.apps.wsgi_probes import TEN_MEGABYTES
from laboratory.instruments.client import (
    GET,
    OPEN,
    SOON,
    connected,
    narrow,
    read_reply,
    readable,
    request,
    rest_of,
)
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.workers import so_long, wait_for_new_workers, workers_of

STUCK = request('GET', '/stuck')
OTHERS = 4  # clients at a time; a listen backlog may be 5


def experiment(server, step):
    wsgi.must_answer(server)
    _, workers = workers_of(server)
    stuck, others = [connected(server) for _ in workers or [None]], []

    def all_answered():
        ask_again(server, others)
        return all(map(readable, stuck))
    with wsgi.fifo(server):
        for client in stuck:
            client.sendall(STUCK)
            begin = time.monotonic()
            server.let_rest()  # or the same worker could get the next one as well
        step('Each worker is held up by an application that does not return', views.processes)
        ended = kernel.eventually(all_answered, server.patience)
        limit = time.monotonic() - begin
        for client in others:
            client.close()
        server.let_rest()
        step('A while later', views.processes)
        served = ended and wsgi.survives(server)
        if not ended and is_ended_alone(server, len(stuck)):
            return bug('reset', 'as long as others send requests, an application that does not return '
                       f'holds up its worker {so_long(server)}')
    if not ended:
        return bug('stuck', f'an application that does not return holds up its worker {so_long(server)}')
    if server.wait_until(lambda: wsgi.noted(server, 'returned')):
        return bug('still_runs', 'the client is answered, but its application still runs')
    if not served:
        return bug('next_client', 'the next client is not served')
    result = None
    if limit < process.A_WHILE:  # else the others take too long
        result = cut_off(server, limit) or stays_halfway(server)
    return result or passed('the application is ended, and the next client is served')


def ask_again(server, clients):
    """Be clients who ask while applications are stuck: for each that has a reply comes another one."""
    for client in filter(readable, list(clients)):
        clients.remove(client)
        client.close()
    with suppress(TimeoutError, ConnectionError):
        while len(clients) < OTHERS:
            clients.append(connected(server, SOON))
            clients[-1].sendall(GET)


def is_ended_alone(server, number):
    """Whether a worker ends if so many more applications are stuck, and nobody else sends requests."""
    before = server.listeners()
    with suppress(TimeoutError, ConnectionError):
        for _ in range(number):
            connected(server, SOON).sendall(STUCK)
    return kernel.eventually(lambda: before - server.listeners(), process.A_WHILE)


def cut_off(server, seconds):
    """The bug of a time limit of so many seconds that ends what is not stuck, None for none."""
    before = server.listeners()

    def worker_ends():
        return kernel.eventually(lambda: before - server.listeners(), 1.5 * seconds)
    if worker_ends():
        return bug('idle_worker', 'an idle worker ends, although its application has returned')
    client = connected(server)
    narrow(client)
    client.sendall(request('GET', '/ten-pieces'))
    if worker_ends() or len(read_reply(client, server).body) < TEN_MEGABYTES:
        return bug('slow_reader',
                   'a client that takes its time to read is cut off, although no application is stuck')


def stays_halfway(server):
    """The bug of an application that stops in the middle of its reply and is not ended, None for none."""
    client = connected(server)
    with wsgi.fifo(server):
        client.sendall(request('GET', '/stuck-halfway'))
        if rest_of(client, server.patience).end == OPEN:
            return bug('halfway',
                       f'an application that stops in the middle of its reply stays {so_long(server)}')


def an_application_is_stuck(server):
    """A request whose application does not return, until the time limit ends it."""
    server.let_rest()  # the worker starts
    workers = kernel.children(server.pid)
    client = connected(server)
    with wsgi.fifo(server):
        client.sendall(STUCK)
        wait_for_new_workers(server, workers)


CASES = {
    'stuck': Case(
        'waits for ever for its application', 'curl -m 40 localhost:8888/stuck', '',
        'You see curl give up. Start a timer before the call, and end the worker when it fires.', """
        See whom your time limit ends, and when:
        {see}
        If curl gives up first, its worker is still in the application, and serves nobody. In the test,
        APP_TIMEOUT is 0.5: does your server read it?

        A worker cannot end the call that it is in. But the kernel can send it a signal after some time,
        which ends the worker. The supervisor makes a new one.

        Before you call the application: signal.setitimer(signal.ITIMER_REAL, APP_TIMEOUT). SIGALRM then
        ends the process. Set the timer to 0 while you send, as the client may be slow, and in a finally.
        With threads, let one that never calls it look how long the others have been in their calls. Read
        float(os.environ['APP_TIMEOUT'])."""),
    'reset': Case(
        'begins its time limit for an application anew with each request',
        'curl -m 40 localhost:8888/stuck & while kill -0 $!; do curl -so /dev/null localhost:8888/; done',
        '', 'You see curl give up: your timer begins anew with each request. Give each call its own.', """
        Let an application be stuck while others send requests:
        {see}
        Who sets your timer while the application is stuck? When does it fire, if one request follows another?

        A process has one timer, but several calls at a time, if it has threads. The end of one call must not
        stop the clock for another, and its beginning must not set it anew.

        Keep for each call when it began: a dict {thread: time.monotonic()}. Let one thread that never calls
        the application look at all of them from time to time, and end the process if one is too old."""),
    'next_client': Case(
        'serves nobody when its applications were ended',
        'for pid in {pids}; do curl -sS -m 40 localhost:8888/stuck & done; wait; '
        'curl -i -m 5 localhost:8888/', '',
        'You see no answer to the last client: no worker is free, or has come in place of one that ended.'),
    'still_runs': Case(
        'answers for an application that still runs',
        'echo {pids}; curl -i -m 40 localhost:8888/stuck; echo {pids}', '',
        'You see the same pids before and after: one of them still runs the application. End it.'),
    'idle_worker': Case(
        'limits the time of idle workers, too',
        'curl -so /dev/null localhost:8888/; echo {pids}; sleep 35; echo {pids}', '',
        'You see other pids the second time: stop the timer when the application has returned.'),
    'slow_reader': Case(
        'limits the time of slow clients, too',
        'curl -s localhost:8888/ten-pieces | '
        '(for i in $(seq 35); do head -c 100000; sleep 1; done; cat) | wc -c', '',
        'You see a number other than 10000000: your time limit ends the worker. Stop it while you send.'),
    'halfway': Case(
        'does not end an application that stops in the middle of its reply',
        'curl -m 40 localhost:8888/stuck-halfway', '',
        'You see "before," at most, and curl times out: limit the time for each piece of the reply, too.', """
        Be the client of an application that stops in the middle of its reply:
        {see}
        It has returned, and curl gets the first piece. Who makes the next one, and how long may that take?

        The pieces can come from a generator: code of the application, which can get stuck like the call.

        Leave the timer on while your loop asks for the pieces. Stop it while you send one, and start it
        again when it is sent. Stop it for good in a finally, after the loop."""),
}
BUG = about(
    globals(), apps=wsgi.PROBES, env={'APP_TIMEOUT': '0.5'}, scene=an_application_is_stuck,
    witness='an application that does not return holds up its worker for 5 seconds and more',
    predict='An application never returns. How long does its worker wait for it?',
    why='the supervisor only sees workers that end. So a timer ends one whose application does not return.')
