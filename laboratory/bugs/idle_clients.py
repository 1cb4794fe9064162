"""keeps serving while many clients are idle, with few processes"""
from contextlib import suppress

from laboratory.instruments import children, views, wsgi
from laboratory.instruments.client import GET, request
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.workers import held_up, process_each, silent_clients

BEGINNINGS = [b'', GET[:20], request('POST', '/body', 'Content-Length: 10') + b'x']  # that they send


def experiment(server, step):
    wsgi.must_answer(server)
    before = set(server.family())
    clients = silent_clients(server, 50 * len(BEGINNINGS))
    for number, client in enumerate(clients):
        with suppress(ConnectionError):
            client.sendall(BEGINNINGS[number % len(BEGINNINGS)])
    server.let_rest()
    forked = len(set(server.processes()) - before)
    step(f'{len(clients)} clients are idle, and others send requests', views.processes)
    if seen := process_each(server, forked, len(clients), 'idle'):
        return bug('process_each', seen)
    if others := held_up(server):
        return bug('others_wait', f'{others} while {len(clients)} clients are idle')
    return passed(f'all others are answered while {len(clients)} clients are idle')


ARE_IDLE = 'for i in $(seq 150); do (sleep 9 | curl -s -m 9 telnet://localhost:8888 &); done; sleep 1; '
CASES = {
    'others_wait': Case(
        'lets idle clients hold up the others',
        ARE_IDLE + 'curl -i -m 2 localhost:8888/process', 'timed out',
        'You see curl time out: each idle client holds up a worker. Use an event loop, or threads.', """
        Let 150 clients do nothing, and see who serves the next one:
        {see}
        Where does each of your processes sleep, and for how many clients?

        Sleep in one place only, for all clients at once. Ask the kernel which sockets can be read or
        written now, do what you can without waiting, and ask again. Keep what you know of each client.

        In each worker, loop over selectors.DefaultSelector().select(), with setblocking(False) for all
        sockets. Each client is an object, whose handle_client() is a generator: it yields where recv() or
        send() raises BlockingIOError. Call next() when its socket is ready, or its time is over."""),
    'process_each': Case(
        'needs a process for each idle client', ARE_IDLE + 'ps -A -o ppid | grep -cw {pid}', '',
        'You see about 150: each client has a process. Let a few workers wait for all of them.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, scene=children.one_is_silent,
    witness='8 of 8 other clients get no answer while 150 clients are idle',
    predict='150 clients do nothing, or send their requests slowly. Is another one answered?',
    why='a worker that waits for one client serves no other. An event loop waits for all of them at once.')
