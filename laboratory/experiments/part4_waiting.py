"""The experiments of part 4 about waiting: for clients, applications, time and descriptors, all at once.

They are given a running server as those of part4.py are.
"""
import time
from contextlib import suppress

from laboratory.experiments.part2 import PROBES, fifo, noted, survives, verdict
from laboratory.experiments.part3 import connected
from laboratory.experiments.part4 import (
    A_WHILE,
    GET,
    asking,
    listeners,
    listening,
    silent_clients,
    supervisor,
    try_to_connect,
    workers_of,
)
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
from laboratory.instruments.client import Reply, closes, read_next, readable, request, take_little
from laboratory.instruments.process import WORK

OTHERS = 8  # clients that must be answered: some for each worker
IDLE = 50  # clients of each kind
BEGINNINGS = [b'', GET[:20], request('POST', '/body', 'Content-Length: 10') + b'x']  # that they send
NON_READERS = 24  # more than the threads of most servers
BEGUN = {'a client that has sent nothing': 0, 'a client that has sent half of its request': 20}  # bytes of it
TRIES = 5  # on a busy machine a server may reach its time limit before it is stopped
SPARE = 6  # descriptors that a process may still open


def replies_to(server, clients):
    """{client: its Reply}, of those that get one; each leaves then, for which some servers wait."""
    replies = {}

    def all_answered():
        for client in clients:
            if client not in replies and readable(client):
                replies[client] = read_next(client, server)
                client.close()
        return len(replies) == len(clients)
    server.wait_until(all_answered)
    return replies


def held_up(server, kept=()):
    """Be several clients, on new connections and on kept ones; say how many wait in vain, '' for none."""
    clients = [client for client in kept if not readable(client)]  # or the server has closed it
    due = len(clients) + OTHERS
    clients += silent_clients(server, OTHERS)
    for client in clients:
        with suppress(ConnectionError):
            client.sendall(GET)
    waiting = due - sum(reply.status == 200 for reply in replies_to(server, clients).values())
    return f'{waiting} of {due} other clients get no answer' if waiting else ''


def kept_connections(server, workers):
    """{a process that answers: [connections to it that stay open]}, two for each worker if possible."""
    found = {}
    for _ in range(10 * workers):
        client = try_to_connect(server)
        if not client:
            break
        client.sendall(asking('GET', '/process'))
        reply = read_next(client, server)
        if not reply.complete or closes(reply):
            client.close()
            break
        found.setdefault(reply.body.decode(), []).append(client)
        if len(found) == workers and min(map(len, found.values())) > 1:
            break
    server.let_rest()  # now it has closed those that it does not keep
    return {pid: kept for pid, clients in found.items()
            if (kept := [client for client in clients if not readable(client)])}


def let_applications_wait(server, number, kept):
    """Ask for so many applications that wait, each in another worker if possible; return the clients."""
    waiting = []
    for _ in range(number):
        busy = noted(server, 'waiting')
        free = [clients for pid, clients in kept.items() if pid not in busy and clients]
        client = free[0].pop() if free else connected(server)
        client.sendall(asking('GET', '/stuck'))
        server.wait_until(lambda busy=busy: noted(server, 'waiting') != busy)
        waiting.append(client)
    return waiting


@started_with(apps=PROBES)
def idle_clients(server, tell=tell_nobody):
    """keeps serving while many clients are idle, with few processes"""
    clients = silent_clients(server, IDLE * len(BEGINNINGS))
    for number, client in enumerate(clients):
        with suppress(ConnectionError):
            client.sendall(BEGINNINGS[number % len(BEGINNINGS)])
    server.let_rest()
    tell(f'{len(clients)} clients are idle, and others send requests')
    if len(server.forked) >= len(clients) // 2:
        return Verdict(BUG, f'it has forked {len(server.forked)} processes for {len(clients)} idle clients')
    if others := held_up(server):
        return Verdict(BUG, f'{others} while {len(clients)} clients are idle')
    return Verdict(PASS, f'all others are answered while {len(clients)} clients are idle')


@started_with(apps=PROBES)
def waiting_application(server, tell=tell_nobody):
    """answers others while an application waits"""
    workers = len(workers_of(server)[1]) or 1
    kept = kept_connections(server, workers)
    with fifo(server):
        waiting = let_applications_wait(server, workers, kept)
        if not noted(server, 'waiting'):
            raise NoAnswer('the application is not called')
        tell('In each worker an application waits, and others send requests')
        others = held_up(server, [client for clients in kept.values() for client in clients])
    if others:
        return Verdict(BUG, f'{others} while an application waits in each worker')
    kernel.eventually(lambda: all(map(readable, waiting)), A_WHILE)
    if any(not readable(client) or read_next(client, server).status != 200 for client in waiting):
        return Verdict(BUG, 'the reply of an application that has waited does not come')
    return Verdict(PASS, 'all others are answered while an application waits in each worker')


@started_with(apps=PROBES)
def non_reader(server, tell=tell_nobody):
    """answers others while clients do not read"""
    deaf = []
    while len(deaf) < NON_READERS and (client := try_to_connect(server)):
        take_little(client)
        client.sendall(request('GET', '/ten-pieces' if len(deaf) % 6 else '/one-piece'))
        deaf.append(client)
    server.let_rest()
    tell(f'{len(deaf)} clients have asked for 10 MB, and do not read')
    if others := held_up(server):
        return Verdict(BUG, f'{others} while {len(deaf)} clients do not read')
    return Verdict(PASS, f'all others are answered while {len(deaf)} clients do not read')


def begin(server, each):
    """So many clients of each kind in the middle of things: [(kind, connection, what it has not sent)]."""
    clients = []
    for kind, sent in list(BEGUN.items()) * each:
        clients.append((kind, connected(server), GET[sent:]))
        clients[-1][1].sendall(GET[:sent])
    return clients


def time_limits(server):
    """{a kind of clients: after how many seconds the server ends one of them}, where it does."""
    began, limits, clients = time.monotonic(), {}, begin(server, each=1)

    def all_end():
        for kind, client, _ in clients:
            if readable(client):
                limits.setdefault(kind, time.monotonic() - began)
        return len(limits) == len(clients)
    kernel.eventually(all_end, server.patience)
    server.until_end.close()
    return limits


@started_with(apps=PROBES, env={'REQUEST_TIMEOUT': '1', 'IDLE_TIMEOUT': '1'})  # seconds
def late_clock(server, tell=tell_nobody):
    """does not cut off a client that was in time"""
    top, limits = supervisor(server), time_limits(server)
    if not limits:
        return Verdict(NOT_TESTED, f'it waits for a client longer than {server.patience:.0f} seconds')
    for _ in range(TRIES):
        clients = begin(server, each=4)
        server.wait_until(lambda: kernel.activity(server.processes())[0])  # now it waits for the clients
        kernel.stop(server.processes())
        if not any(readable(client) for _, client, _ in clients):
            break
        kernel.go_on(server.processes())
        server.until_end.close()
    else:
        return Verdict(NOT_TESTED, 'it reaches its time limit before it can be stopped')
    for _, client, rest in clients:
        client.sendall(rest)
    tell(f'The server is stopped, and {len(clients)} clients have sent the rest of their requests')
    time.sleep(1.25 * max(limits.values()))  # until it is too late for what has not come
    kernel.go_on(listeners(server) - {top} or {top})  # first, or their supervisor could take them for stuck
    connections = [client for _, client, _ in clients]
    replies = replies_to(server, connections)
    kernel.go_on(server.processes())
    replies |= replies_to(server, [client for client in connections if client not in replies])
    wrong = {kind: reply for kind, client, _ in clients if kind in limits
             and (reply := replies.get(client, Reply())).status != 200}
    return verdict([f'{kind}: {reply}' for kind, reply in wrong.items()],
                   'what has come in time is answered, even if it is read late')


@started_with(apps=PROBES, judges_ends=True)
def no_descriptors(server, tell=tell_nobody):
    """rests when it has no descriptors left"""
    if not kernel.LINUX:
        return Verdict(NOT_TESTED, 'this needs prlimit(2), which only Linux has')
    pids = listening(server)
    limits = {pid: kernel.first_free(pid) + SPARE for pid in pids}
    for pid, limit in limits.items():
        kernel.limit_descriptors(pid, limit)
    before = kernel.activity(pids)[1]
    clients = silent_clients(server, SPARE * len(pids) + OTHERS)
    works_on = server.wait_until(lambda: kernel.activity(pids)[1] - before > WORK / 2)
    reached = any(kernel.first_free(pid) >= limit for pid, limit in limits.items())
    tell(f'{len(clients)} clients are connected')
    if works_on:
        return Verdict(BUG, 'it tries to accept again and again, and keeps a core busy')
    server.until_end.close()  # they leave
    served = kernel.eventually(lambda: survives(server) or server.has_ended(), server.patience)
    if not all(map(kernel.alive, pids)):
        return Verdict(BUG, 'a process ends when it has no descriptor left')
    if not served:
        return Verdict(BUG, 'it serves nobody any more, although its clients have left')
    if not reached:
        return Verdict(NOT_TESTED, f'{len(clients)} clients at once do not take all its descriptors')
    return Verdict(PASS, 'it rests as long as no descriptor is left, and serves on when clients leave')


EXPERIMENTS = [idle_clients, waiting_application, non_reader, late_clock, no_descriptors]
