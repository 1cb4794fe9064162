"""finishes what it has begun when it gets SIGTERM"""
import signal

from laboratory.instruments import kernel, process, views, wsgi
from laboratory.instruments.apps.wsgi_probes import LARGE, TEN_MEGABYTES
from laboratory.instruments.client import FIN, asking, closes, connected, narrow, read_next, readable, rest_of
from laboratory.instruments.experiment import NOT_TESTED, Case, NoAnswer, Result, about, asked_to_end
from laboratory.instruments.workers import main_process

HOLD = 0.3  # seconds for which an application goes on after SIGTERM; a server may allow it no more


def experiment(server, step):
    main = main_process(server)
    if not main:
        return Result(NOT_TESTED, detail='it has no process that all others descend from')
    pids = main, *kernel.family(main)
    with wsgi.fifo(server):
        reading, working, idle = clients = [connected(server) for _ in range(3)]
        narrow(reading)
        for client, path in zip(clients, ['/ten-pieces', '/stuck', '/binary'], strict=True):
            client.sendall(asking('GET', path))
            server.let_rest()
        begun = {}  # {case: (what the client is, its connection, the length of the body that is due)}
        if readable(reading):
            begun['cut_off'] = 'a client that reads its reply', reading, TEN_MEGABYTES
        if wsgi.noted(server, 'waiting'):
            begun['called'] = 'a client whose application is not done yet', working, len(b'returned')
        if not begun:
            raise NoAnswer('the application is not called, and no long reply begins')
        kept = readable(idle) and not closes(read_next(idle, server))
        step(f'{len(begun)} clients wait for the rest of their replies, and the server gets SIGTERM',
             views.processes)  # before it gets it: a look can take longer than a server's grace
        kernel.send(main, signal.SIGTERM)
        server.let_rest(most=HOLD)
    wrong, patience = [], server.patience
    for case, (name, client, due) in begun.items():
        reply = rest_of(client, patience)
        if len(reply.body) != due:
            wrong.append((case, name, f'{len(reply.body)} of {due} bytes arrive'))
            patience = 0  # what has not come by now does not come
    server.comes_to(lambda: not any(map(kernel.alive, pids)), max(server.patience, process.A_WHILE))
    if left := [pid for pid in pids if kernel.alive(pid)]:
        step('Some processes have not ended', views.processes)
        wrong.append(('never_ends', 'the end', f'{len(left)} of its {len(pids)} processes do not end'))
    elif kept and rest_of(idle, process.A_WHILE).end != FIN:
        wrong.append(('resets', 'a client that is idle', 'it is reset'))
    right = f'{len(begun)} requests that it had begun are finished, and then it ends'
    return wsgi.all_that_is_wrong(wrong, right, len(begun) + 1 + kept)


def it_is_stopped(server):
    """SIGTERM comes while an application waits; then the application returns."""
    client = connected(server)
    with wsgi.fifo(server):
        client.sendall(asking('GET', '/stuck'))
        server.let_rest()
        kernel.send(server.pid, signal.SIGTERM)
        server.let_rest()
    rest_of(client, process.A_WHILE)
    client.close()
    server.wait_until(server.has_ended)


CASES = {
    'cut_off': Case(
        'breaks off replies when it is stopped',
        'curl -s localhost:8888/large | (sleep 1; kill {pid}; sleep 1; wc -c)', rf'(?m)^(?!{LARGE}$)\d+$',
        f'You see a number other than {LARGE}: SIGTERM ends you in the middle of a reply. Let its handler '
        'only note it; then accept nobody any more, finish what you have begun, and end.', """
        Stop your server when it has work to do, such as sending a reply of 20 MB:
        {see}
        kill sends SIGTERM. Which of your processes get it, and what becomes of the clients that they have?

        Accept no new client, finish what has begun, and then end. The supervisor tells its workers, and
        waits for them, but not for ever. A process that sleeps has to wake up when the signal comes.

        Keep a set of a worker's clients. Use signal.signal() to give its SIGTERM a handler that sets a
        flag, and sends a byte into a socketpair of your selector. The loop then closes the listening socket
        and soon those who are idle, and calls os._exit(0) when the set is empty. serve_forever() passes
        SIGTERM on, and waits."""),
    'called': Case(
        'breaks off applications when it is stopped',
        'curl -s -m 9 localhost:8888/wait & sleep 1; kill {pid}; wait', '',
        'You see no "after": you end while an application works. Let it return, and send its reply.'),
    'never_ends': Case(
        'does not end at SIGTERM',
        'curl -s localhost:8888/process; pids=$(echo {pids}); kill {pid}; sleep 3; '
        'ps -o pid,stat,args -p "$pids"', '',
        'You see a process below the first line: it goes on. End it when no connection is left.'),
    'resets': Case(
        'resets idle clients when it is stopped',
        r"(printf 'GET /process HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 3) | "
        'curl -sS -m 9 telnet://localhost:8888 & sleep 1; kill {pid}; wait', '',
        'You see "reset by peer": you end while a client still has a connection. Close it first: '
        'shutdown(socket.SHUT_WR), and close() when recv() has returned nothing.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=asked_to_end, scene=it_is_stopped,
    witness='a client that reads its reply: ',
    predict='Two clients wait for the rest of their replies when the server gets SIGTERM. Do they get it?',
    why='a worker that is killed leaves its clients with half a reply. One that is told to stop can finish.')
