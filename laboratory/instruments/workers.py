"""The workers of a server and their supervisor, and the many clients that they should serve."""
import os
from contextlib import suppress

from laboratory.instruments import kernel
from laboratory.instruments.client import GET, asking, closes, connected, read_next, readable, try_to_connect
from laboratory.instruments.experiment import NO_WORKER, Result, bug
from laboratory.instruments.wsgi import noted

OTHERS = 8  # clients that must be answered: some for each worker
FEW = 6  # processes that a pool may grow by
SHELLS = ['sh', 'ash', 'bash', 'dash', 'ksh', 'zsh']


def silent_clients(server, number):
    """Open so many connections that say nothing, or as many as the listen backlog takes; return them."""
    found = []
    while len(found) < number and (client := try_to_connect(server)):
        found.append(client)
    return found


def accepted(server):
    """How many connections the server has accepted and not closed."""
    found = kernel.connections(server.port)
    return sum(end.laddr.port == server.port and pid is not None for end, pid in found)


def process_each(server, forked, clients, which='silent'):
    """What is seen of a server that forks for each client that it accepts; '' of another."""
    served = accepted(server)
    if forked < max(served // 2, FEW):
        return ''
    return f'{forked} more processes for {clients} {which} clients' + (
        f', of whom it has accepted {served}' if served < clients else '')


def ancestors(server):
    """The processes from which all those descend that listen; the last may be the one that does."""
    server.let_rest()
    pids, parents = server.listeners(), {pid: kernel.parent(pid) for pid in server.family()}

    def line(pid):
        return [*line(parents[pid]), pid] if pid in parents else []
    return [one[0] for one in zip(*map(line, pids), strict=False) if len(set(one)) == 1]


def main_process(server):
    """The process that somebody would send a signal to: the first that is no shell; None for none."""
    return next((pid for pid in ancestors(server)
                 if os.path.basename((kernel.command(pid) or [''])[0]) not in SHELLS), None)


def workers_of(server):
    """The supervisor, which may listen itself, and the others that listen; (None, none) without one."""
    *_, top = ancestors(server) or [None]
    return top, server.listeners() - {top} if top else set()


def without_workers(server, what):
    """The Result of a server that has no workers for which this could happen."""
    orphans = not ancestors(server) and server.listeners()
    return Result(NO_WORKER, detail='the processes that listen have no common parent' if orphans else
                  f'it has no worker that could be {what}')


def replaced(server, top, old, number, most=kernel.LIMIT):
    """Wait until so many workers listen that are not the old ones; return them, none if they do not come."""
    def new():
        return server.listeners() - old - {top}
    server.comes_to(lambda: len(new()) >= number or not kernel.alive(top), min(most, server.patience))
    return found if len(found := new()) >= number else set()


def not_replaced(top, seen):
    """The Result of a server whose workers are still the same after SIGHUP."""
    if kernel.alive(top):
        return bug('unheeded', f'SIGHUP leaves its workers as they are; {seen}')
    return bug('ends', f'SIGHUP ends its supervisor; {seen}')


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
        if not (client := try_to_connect(server)):
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
    return {pid: [client for client in clients if not readable(client)] for pid, clients in found.items()}


def let_applications_wait(server, number):
    """Let an application wait in each of so many workers; return its clients, and others that are kept."""
    kept, waiting = kept_connections(server, number), []
    for _ in range(number):
        busy = noted(server, 'waiting')
        free = [clients for pid, clients in kept.items() if pid not in busy and clients]
        waiting.append(free[0].pop() if free else connected(server))
        waiting[-1].sendall(asking('GET', '/stuck'))
        server.wait_until(lambda busy=busy: noted(server, 'waiting') != busy)
    return waiting, [client for clients in kept.values() for client in clients]


def so_long(server):
    return f'for {server.patience:.0f} seconds and more'


def wait_for_new_workers(server, workers):
    """Wait until there are other workers, or no supervisor, and all is at rest; for a trace."""
    kernel.eventually(lambda: kernel.children(server.pid) - workers or not kernel.alive(server.pid),
                      server.patience)
    server.let_rest()
