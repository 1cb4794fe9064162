"""The experiments of part 4 about a server that runs for long: how it stops, reloads and endures.

They are given a running server as those of part4.py are.
"""
import os
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress

from laboratory.experiments.part2 import PROBES, fifo, noted, verdict
from laboratory.experiments.part3 import connected
from laboratory.experiments.part4 import (
    A_WHILE,
    GET,
    TEN_MEGABYTES,
    ancestors,
    asking,
    listeners,
    silent_clients,
    without_workers,
    workers_of,
)
from laboratory.experiments.part4_waiting import kept_connections, let_applications_wait
from laboratory.experiments.verdicts import (
    BUG,
    NOT_TESTED,
    PASS,
    NoAnswer,
    Verdict,
    started_with,
    tell_nobody,
)
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    REFUSED,
    Reply,
    closes,
    comes,
    connect,
    read_next,
    readable,
    rest_of,
    take_little,
)

SHELLS = ['sh', 'ash', 'bash', 'dash', 'ksh', 'zsh']
IN_BACKLOG = 5  # clients
VISITORS = [1, 1, 10, 10]  # how many requests each of them sends on a connection
PAUSE = 0.005  # seconds between them
ANSWER = 10  # seconds in which a request is answered while the server reloads
RELOADS = 3
SLOW = 0.2  # seconds for a reply
ROUNDS = 5  # of requests
HANG_UPS = 20  # clients that leave in the middle of a request
TIMES = 3
LEAK = 50  # bytes for each request
NOISE = 65536  # bytes


def main_process(server):
    """The process that somebody would send a signal to: the first that is no shell; None for none."""
    return next((pid for pid in ancestors(server)
                 if os.path.basename((kernel.command(pid) or [''])[0]) not in SHELLS), None)


@started_with(apps=PROBES, ends_it=True)
def stop_mid_reply(server, tell=tell_nobody):
    """finishes what it has begun when it gets SIGTERM"""
    main, pids = main_process(server), server.processes()
    if not main:
        return Verdict(NOT_TESTED, 'it has no process that all others descend from')
    with fifo(server):
        reading, working, idle = clients = [connected(server) for _ in range(3)]
        take_little(reading)
        for client, path in zip(clients, ['/ten-pieces', '/stuck', '/binary'], strict=True):
            client.sendall(asking('GET', path))
            server.let_rest()
        begun = {}  # {what the client is: (its connection, the length of the body that is due)}
        if readable(reading):
            begun['a client that reads its reply'] = reading, TEN_MEGABYTES
        if noted(server, 'waiting'):
            begun['a client whose application is not done yet'] = working, len(b'returned')
        if not begun:
            raise NoAnswer('the application is not called, and no long reply begins')
        kept = readable(idle) and not closes(read_next(idle, server))
        kernel.send(main, signal.SIGTERM)
        server.let_rest()
        tell(f'The server has got SIGTERM, and {len(begun)} clients wait for the rest of their replies')
    wrong, patience = [], server.patience
    for name, (client, due) in begun.items():
        reply = rest_of(client, patience)
        if len(reply.body) != due:
            wrong.append(f'{name} gets {len(reply.body)} of {due} bytes')
            patience = 0  # what has not come by now does not come
    kernel.eventually(lambda: not any(map(kernel.alive, pids)), max(server.patience, A_WHILE))
    if left := [pid for pid in pids if kernel.alive(pid)]:
        tell('Some processes have not ended')
        wrong.append(f'{len(left)} processes do not end')
    elif kept and rest_of(idle, A_WHILE).end != FIN:
        wrong.append('a client that is idle is reset')
    for pid in left:
        kernel.send(pid, signal.SIGKILL)
    return verdict(wrong, f'{len(begun)} requests that it had begun are finished, and then it ends')


def replaced(server, top, old, number):
    """Wait until so many workers listen that are not the old ones; return them, none if they do not come."""
    def new():
        return listeners(server) - old - {top}
    kernel.eventually(lambda: len(new()) >= number or not kernel.alive(top), server.patience)
    return found if len(found := new()) >= number else set()


def not_replaced(top):
    """What SIGHUP did to a server whose workers are still the same."""
    return 'SIGHUP leaves its workers as they are' if kernel.alive(top) else 'SIGHUP ends its supervisor'


@started_with(apps=PROBES, judges_ends=True)
def restart_backlog(server, tell=tell_nobody):
    """answers clients that connect while it restarts"""
    (top, workers), main = workers_of(server), main_process(server)
    if not workers:
        return without_workers(server, 'replaced')
    kernel.stop(workers)
    clients = silent_clients(server, IN_BACKLOG)
    for client in clients:
        client.sendall(GET)
    kernel.send(main, signal.SIGHUP)
    server.let_rest()
    tell(f'{len(clients)} clients are in the backlog, and the server has got SIGHUP')
    kernel.go_on(workers)
    new = replaced(server, top, workers, len(workers))
    answered = sum(rest_of(client, A_WHILE).status == 200 for client in clients)
    seen = f'{answered} of {len(clients)} clients in the backlog are answered'
    if not new:
        return Verdict(BUG, f'{not_replaced(top)}; {seen}')
    return Verdict(PASS if answered == len(clients) else BUG, seen)


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
    """Send a request on a connection; return the Reply."""
    with suppress(ConnectionError):
        client.sendall(asking('GET', '/binary'))
    return rest_of(client, ANSWER)


@contextmanager
def visitors(server):
    """Clients that send requests all the time; yields a list to which they add their replies."""
    stopped, replies = threading.Event(), []
    threads = [threading.Thread(target=visit, args=(server, each, stopped, replies)) for each in VISITORS]
    for thread in threads:
        thread.start()
    try:
        yield replies
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def let_some_more_come(replies):
    """Wait until the visitors have got some more replies."""
    due = len(replies) + 5 * len(VISITORS)
    kernel.eventually(lambda: len(replies) >= due, A_WHILE)


def finishes(server, old):
    """Whether clients are answered whose applications, one in each worker, are not done when it reloads."""
    top, workers = workers_of(server)
    kept = kept_connections(server, len(workers))
    with fifo(server):
        clients = let_applications_wait(server, len(workers), kept)
        kernel.send(main_process(server), signal.SIGHUP)
        replaced(server, top, old, 1)  # more of them may wait until the applications return
        server.let_rest()
    return bool(clients) and all(rest_of(client, A_WHILE).body == b'returned' for client in clients)


@started_with(apps=PROBES, judges_ends=True)
def reload(server, tell=tell_nobody):
    """loses no request when it reloads at SIGHUP"""
    (top, workers), main = workers_of(server), main_process(server)
    if not workers:
        return without_workers(server, 'replaced')
    old, new, times, began = set(), workers, 0, time.monotonic()
    with visitors(server) as replies:
        while new and times < RELOADS and time.monotonic() < began + server.patience:
            let_some_more_come(replies)
            old |= new
            kernel.send(main, signal.SIGHUP)
            new, times = replaced(server, top, old, len(workers)), times + 1
        let_some_more_come(replies)
    lost = [reply for reply in replies if reply.status != 200 or not reply.complete]
    seen = f'{len(lost)} of {len(replies)} requests are lost'
    if not new:
        return Verdict(BUG, f'{not_replaced(top)}; {seen}')
    if lost:
        return Verdict(BUG, f'{seen}: {lost[0]}')
    if not finishes(server, old | new):
        return Verdict(BUG, 'a client whose application is not done when the server reloads gets no reply')
    return Verdict(PASS, f'{seen} while its workers are replaced {times} times')


def answered(server, number):
    """Send so many requests at once on a connection; return how many are answered."""
    with connect(server) as client:
        client.sendall(asking('GET', '/binary') * (number - 1) + GET)
        data = bytearray()
        with suppress(ConnectionError):
            while comes(client, server) and (piece := client.recv(65536)):
                data += piece
    return len(re.findall(rb'HTTP/1\.[01] 200 ', data))


def taken(server):
    """The memory and the descriptors that a server at rest has."""
    server.let_rest()
    pids = server.processes()
    return kernel.anonymous_memory(pids), kernel.descriptors(pids)


def kept_of_hang_ups(server):
    """How many descriptors more the server has when some clients have left in the middle of a request."""
    pids = server.processes()
    before = kernel.descriptors(pids)
    for _ in range(HANG_UPS):
        with connect(server) as client:
            client.sendall(GET[:20])
    server.wait_until(lambda: kernel.descriptors(pids) <= before)
    return kernel.descriptors(pids) - before


@started_with(apps=PROBES)
def flat(server, tell=tell_nobody):
    """uses no more memory and descriptors after many requests"""
    if server.pace > SLOW:
        return Verdict(NOT_TESTED, 'it answers too slowly to be asked so often')
    each, times = (100, 20) if answered(server, 100) == 100 else (1, 30)
    number = each * times
    before, growths = taken(server), []
    for _ in range(ROUNDS):
        if sum(answered(server, each) for _ in range(times)) < number:
            raise NoAnswer(f'not all of {number} requests are answered')
        after = taken(server)
        growths.append([new - old for new, old in zip(after, before, strict=True)])
        before = after
    memory, descriptors = map(min, zip(*growths, strict=True))  # what leaks, leaks in each round
    if memory > max(NOISE, LEAK * number):
        return Verdict(BUG, f'it uses {memory // number} more bytes of memory for each request')
    if descriptors > 1:
        return Verdict(BUG, f'it keeps {descriptors} more descriptors for {times} clients that have left')
    kept = min(kept_of_hang_ups(server) for _ in range(TIMES))  # what leaks, leaks each time
    if kept > 1:
        return Verdict(BUG, f'it keeps {kept} more descriptors for {HANG_UPS} clients that hang up')
    return Verdict(PASS, f'it uses no more than before, even after {ROUNDS * number} requests')


EXPERIMENTS = [stop_mid_reply, restart_backlog, reload, flat]
