"""uses no more memory and descriptors after many requests"""
import re
import socket
from contextlib import suppress
from itertools import pairwise

from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.client import GET, KEPT, connect, fetch, read_reply, request
from laboratory.instruments.experiment import NOT_TESTED, Case, NoAnswer, Result, about, bug, passed
from laboratory.instruments.workers import replies_to, silent_clients

SLOW = 0.2  # seconds for a reply
ROUNDS = 5  # of requests
HANG_UPS = 20  # clients that leave in the middle of a request
FIT = 4  # at once, in a listen backlog of 5
TIMES = 3
LEAK = 50  # bytes for each request
NOISE = 65536  # bytes
WHOLE = request('POST', '/binary', body=b'x' * 1_000_000)
CUT = WHOLE[:-100_000]
UPLOADS = 25  # clients that come one after the other
LOOKS = 4  # at the memory, each after so many; what is collected as garbage from time to time is seen as well
MOST = 40_000_000  # bytes that the bodies of some clients and garbage may take

EACH = 3_000_000  # bytes more for each process, which keeps room for the next body


def answered(server, number):
    """Send so many requests at once on a connection; return how many are answered."""
    with connect(server) as client:
        client.sendall(KEPT * (number - 1) + GET)
        return len(re.findall(rb'HTTP/1\.[01] 200 ', read_reply(client, server).data))


def warm_up(server):
    """Have each worker answer a request: what it takes for its first ones is no leak."""
    clients = silent_clients(server, len(server.listeners()))
    for client in clients:
        client.sendall(GET)
    replies_to(server, clients)


def taken(server):
    """The memory and the descriptors that a server at rest has."""
    server.let_rest()
    pids = server.processes()
    return kernel.anonymous_memory(pids), kernel.descriptors(pids)


def least_growth(amounts):
    return min(after - before for before, after in pairwise(amounts))  # what leaks, leaks each time


def kept_of_hang_ups(server):
    """How many descriptors more the server has when some clients have left in the middle of a request."""
    pids = server.processes()
    before = kernel.descriptors(pids)
    for _ in range(HANG_UPS // FIT):
        for _ in range(FIT):
            with connect(server) as client:
                client.sendall(GET[:20])
        wsgi.must_answer(server)  # behind them in the backlog: all of them have been accepted
    server.wait_until(lambda: kernel.descriptors(pids) <= before)
    return kernel.descriptors(pids) - before


def upload(server, data):
    """Be a client that sends a body, or the beginning of one."""
    with connect(server) as client, suppress(OSError):  # it may have answered, and closed
        client.sendall(data)
        if data == CUT:
            client.shutdown(socket.SHUT_WR)
        read_reply(client, server)


def kept_of_uploads(server, data):
    """How many bytes of memory more the server has at the most while clients come that send these bytes."""
    before, most = taken(server)[0], 0
    for _ in range(LOOKS):
        for _ in range(UPLOADS):
            upload(server, data)
        most = max(most, taken(server)[0])
    return most - before


def experiment(server, step):
    if server.pace > SLOW:
        return Result(NOT_TESTED, detail='it answers too slowly to be asked so often')
    each, times = (100, 20) if answered(server, 100) == 100 else (1, 30)
    number, most = each * times, max(NOISE, LEAK * each * times)
    for _ in range(2):
        warm_up(server)
    amounts, memory = [taken(server)], 0
    while len(amounts) <= ROUNDS or memory > most and len(amounts) <= 3 * ROUNDS:
        if sum(answered(server, each) for _ in range(times)) < number:
            raise NoAnswer(f'not all of {number} requests are answered')
        amounts.append(taken(server))
        memory, descriptors = map(least_growth, zip(*amounts, strict=True))
    asked = number * (len(amounts) - 1)
    step(f'{asked} requests have been answered', views.processes)
    if memory > most:
        return bug('memory', f'it uses {memory // number} more bytes of memory for each request')
    if descriptors > 1:
        kept = f'it keeps {descriptors} more descriptors for {times} clients that have left'
        return bug('descriptors', kept)
    kept = min(kept_of_hang_ups(server) for _ in range(TIMES))
    if kept > 1:
        step(f'{TIMES * HANG_UPS} clients have left in the middle of a request', views.processes)
        return bug('hang_ups', f'it keeps {kept} more descriptors for {HANG_UPS} clients that hang up')
    if fetch(server, WHOLE).status == 200:
        for data, what in (WHOLE, 'clients have sent'), (CUT, 'clients have left before the end of'):
            most = MOST + EACH * len(server.processes())
            if (memory := kept_of_uploads(server, data)) > most:
                told = f'{LOOKS * UPLOADS} {what} a body of 1 MB, one after the other'
                step(told, views.processes)
                return bug('bodies', f'it uses {memory // 10**6} MB more of memory when {told}')
    return passed(f'it uses no more than before, even after {asked} requests')


OPEN = 'for pid in {pids}; do ls /proc/$pid/fd | wc -l; done'
MANY = r'(?m)^([3-9]\d|\d{3})$'
CASES = {
    'memory': Case(
        'leaks memory',
        "for i in 1 2 3 4; do curl -s -o /dev/null 'localhost:8888/binary?[1-9000]'; "
        "ps -o rss= -p {pids}; echo; done", '',
        'You see kilobytes that grow each time: you keep something of a request that is over.', """
        Let many clients come and go, and look at your processes:
        {see}
        Each number is the memory of a process, or its descriptors. Type it again: which of them grows?

        Something stays when a request is over: an entry in a list, a table or a set, a socket, a copy of
        it. What you add or open for a client has to go when it goes, also after an error or a time limit.

        In a finally of handle_client(), remove the entry in each list, dict and set, unregister() the
        socket and close() it. os.dup() and os.fork() make copies, which have to be closed too. tracemalloc
        (Python docs) shows which line has taken the memory."""),
    'descriptors': Case(
        'leaks descriptors',
        'for i in $(seq 100); do curl -s -o /dev/null localhost:8888/binary; done; ' + OPEN, MANY,
        'You see about 100, in one number or in all together: close what you open for a client.'),
    'hang_ups': Case(
        'leaks the descriptors of clients that hang up',
        'for i in $(seq 100); do '
        "(curl -s -m 1 -H 'Content-Length: 9' -d x localhost:8888/body &); done; sleep 3; " + OPEN, MANY,
        'You see about 100, in one number or in all together: close it, too, when a client hangs up.'),
    'bodies': Case(
        'keeps the bodies of requests that are over',
        'for i in $(seq 400); do head -c 1000000 /dev/zero | '
        'curl -s -o /dev/null --data-binary @- localhost:8888/binary; done; ps -o rss= -p {pids}',
        r'(?m)^ *([6-9]\d|\d{3,})\d{3}$',
        'You see more than 60,000 kilobytes: the bodies of clients that have gone are still there.', """
        Let some hundred clients send a body of a megabyte, one after the other, and look at the memory:
        {see}
        Then let them leave before the end of the body. How many megabytes does the server need for a
        client that has gone?

        A body should go when its client goes. In Python it stays as long as something leads to it: a
        variable of a thread that waits, a table, or two objects that know each other. Those go only when
        the garbage collector comes, and it counts objects, not megabytes.

        At the end of handle_client(), and where you wait for the next client, set what has known the
        request to None; a method that you keep, self.write, knows its object too. gc.get_referrers()
        shows what keeps a thing."""),
}
BUG = about(
    globals(), apps=wsgi.PROBES,
    predict='Ten thousand requests have been answered. How much more memory does the server need now?',
    why='what belongs to a request goes with it, whether the client gets its reply or hangs up before.')
