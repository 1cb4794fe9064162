"""answers others while an application waits"""
from laboratory.instruments import kernel, process, views, wsgi
from laboratory.instruments.client import GET, connected, read_next, readable, request
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed
from laboratory.instruments.workers import held_up, let_applications_wait, workers_of


def experiment(server, step):
    with wsgi.fifo(server):
        waiting, kept = let_applications_wait(server, len(workers_of(server)[1]) or 1)
        if not wsgi.noted(server, 'waiting'):
            raise NoAnswer('the application is not called')
        step('In each worker an application waits, and others send requests', views.processes)
        others = held_up(server, kept)
    if others:
        return bug('others_wait', f'{others} while an application waits in each worker')
    kernel.eventually(lambda: all(map(readable, waiting)), process.A_WHILE)
    if any(not readable(client) or read_next(client, server).status != 200 for client in waiting):
        return bug('no_reply', 'the reply of an application that has waited does not come')
    return passed('all others are answered while an application waits in each worker')


def an_application_waits(server):
    """An application waits, and another client sends a request; then the application returns."""
    waiting = connected(server)
    with wsgi.fifo(server):
        waiting.sendall(request('GET', '/stuck'))
        server.let_rest()
        another = connected(server)
        another.sendall(GET)
        server.wait_until(lambda: readable(another))
    server.let_rest()


CASES = {
    'others_wait': Case(
        'lets an application that waits hold up the others',
        'for pid in {pids}; do (curl -s -m 9 localhost:8888/stuck &); sleep 0.2; done; '
        'curl -i -m 2 localhost:8888/process', 'timed out',
        'You see curl time out: a worker whose application waits serves nobody. Let another thread run the '
        'loop meanwhile.', """
        Ask for pages whose applications wait:
        {see}
        curl gives up. In each worker, one thread is in the application. Which one is in the loop?

        Make a lock the turn: who holds it may use the loop. A thread lets go of it to call the application.
        If the call still runs a moment later, another thread takes the turn. The first one comes back, and
        takes it again. If it cannot, it hands its client over, wakes up the loop, and ends.

        In run_application(), call release() before the application, acquire(blocking=False) after it. If
        that fails, yield: the client goes into a deque, a byte into a socket.socketpair() of your selector.
        The main thread waits for a call, then 1 ms. If the lock is free, it starts a threading.Thread,
        which takes it."""),
    'no_reply': Case(
        'forgets the reply of an application that has waited', 'curl -i -m 9 localhost:8888/wait', '',
        'You see curl time out: the application has returned, and nothing wakes up the loop. Send a byte '
        'into a socketpair of your selector.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, scene=an_application_waits,
    witness='other clients get no answer while an application waits in each worker',
    predict='In each worker an application waits for something. Are other clients answered?',
    why='a thread that waits in the application cannot run the loop. So it lets go of it, and another one '
        'takes its turn.')
