"""outlives clients that leave"""
import re
import socket
from contextlib import suppress
from math import inf

from laboratory.instruments import experiment as experiments
from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.client import REQUEST, SOON, ask, readable, reset, rest_of, try_to_connect
from laboratory.instruments.experiment import TIME_TO_END, Case, NoAnswer, about, bug, its_own_end, passed
from laboratory.instruments.output import RAISED
from laboratory.instruments.process import A_WHILE

CLIENTS = 10  # that leave in the same way
MORE = getattr(socket, 'MSG_MORE', 0)  # Linux: what is sent waits for what follows
WAYS = {  # to leave, the usual ones first: what is sent before, and whether RST follows instead of FIN
    'without a word': (b'', False),
    'after half a request': (REQUEST[:20], False),
    'before the reply': (REQUEST, False),
    'with a reset, without a word': (b'', True),
    'with a reset, before the reply': (REQUEST, True),
}


def experiment(server, step):
    number = max(2, min(CLIENTS, int(2 / (server.pace or 0.1))))
    before, total = kernel.descriptors(server.own), 0
    if not all(is_answered(server) for _ in range(number)):
        raise NoAnswer('one of the clients that come, ask and go is not answered')
    leaks = not server.wait_until(lambda: kernel.descriptors(server.own) <= before)  # that is another bug
    for way in WAYS:
        allowed = inf if leaks else kernel.descriptors(server.own)
        left = leave(server, number, way)
        total += left
        if result := what_is_wrong(server, left, way, allowed):
            step(f'{left} clients have left {way}', views.output if server.has_ended() else views.processes)
            return result._replace(see=see(result.case, way))
    told = f'after {total} clients that have left, the next one is answered'
    if errors := sorted(set(raised(server))):
        told += f'; it has printed {" and ".join(errors)}, and goes on'
    return passed(told)._replace(printed=[])  # so that no error is told twice


def is_answered(server, behind=0):
    """Whether a client is answered who asks properly behind so many others, and stays to the end."""
    client = try_to_connect(server)
    with client or socket.socket():
        late = 3 * behind * server.pace
        came = client and (ask(client, server) or readable(client, late) and rest_of(client, SOON).data)
        if came:
            rest_of(client, SOON)
        return bool(came)


def leave(server, number, way):
    """Let so many clients leave in that way, or as many as the server takes at once; return how many."""
    data, is_reset = WAYS[way]
    # while they are silent, a server without children accepts no other: it gets bytes and RST together
    silent = [try_to_connect(server) for _ in server.listened] if data and is_reset else []
    left = 0
    while left < number and (client := try_to_connect(server)):
        left += 1
        with client, suppress(ConnectionError):  # the server may have ended
            client.sendall(data, 0 if is_reset else MORE)  # FIN goes out with the bytes
            if is_reset:
                reset(client)
    for client in filter(None, silent):
        client.close()
    return left


def what_is_wrong(server, number, way, allowed):
    """The Result where such clients do harm, None where they do none; so many descriptors are allowed."""
    def lost():
        return len(server.listened) - len(server.listeners())

    def kept():
        return kernel.descriptors(server.own) - allowed
    answered = is_answered(server, behind=2 * number)  # in the backlog
    if answered:
        server.wait_until(lambda: kept() <= 0)
    else:
        server.let_rest(most=TIME_TO_END)
    if lost() > 0:
        kernel.eventually(lambda: lost() <= 0 or server.has_ended(), A_WHILE)
    if server.has_ended():
        return bug('ends', f'{experiments.ended(server, None).detail}; a client had just left {way}')
    if lost() > 0:
        count = f'{lost()} of {len(server.listened)} processes that listened'
        return bug('processes', f'{count} have ended, after {number} clients that left {way}')
    if not answered:
        return bug('hangs', f'after {number} clients that left {way}, the next one is not answered')
    if (more := kept()) > max(1, number // 2):
        return bug('descriptors', f'{more} more descriptors after {number} clients that left {way}')


def raised(server):
    """The names of the errors that it has printed, but for those that say nothing."""
    names = [re.match(r'[\w.]+', match[0])[0] for match in RAISED.finditer(server.output())]
    return [name for name in names if name not in ('Error', 'Exception')]


def all_leave(server):
    """A client that leaves in each of the ways."""
    for way in WAYS:
        server.let_rest()
        leave(server, 1, way)
    server.let_rest()


ASKS = 'sleep 1; curl -m 2 localhost:8888/hello'
SEVERAL = f'for i in $(seq {CLIENTS}); do ' + '{client}; done; '
SEE = {  # {case: what to type}
    'ends': '{client}; ' + ASKS,
    'processes': SEVERAL + ASKS + '; ps -o pid,stat,args -p {pids}',
    'hangs': SEVERAL + ASKS,
    'descriptors': SEVERAL + 'sleep 1; for pid in {pids}; do ls /proc/$pid/fd | wc -l; done',
}


def see(case, way='with a reset, without a word'):
    """The command that shows what clients do which leave in that way."""
    return SEE[case].replace('{client}', wsgi.leaving_as_typed(*WAYS[way]))


CASES = {
    'ends': Case(
        'ends when a client leaves', see('ends'), r'curl: \(7\)(.|\n)*ConnectionResetError',
        'You see no answer to the second client: the first one has ended your server.', """
        Be a client that leaves, and then one that asks:
        {see}
        Is the second one answered? If your server has printed an error, that names the call. If it ended
        without a word, type echo $? where it ran: 141 stands for SIGPIPE.

        Clients leave when they like: somebody closes a tab. Then recv() fails, or whatever sends, and an
        error that nobody catches ends the process. In C, sending to a client that has gone ends it without
        a word, by SIGPIPE. So who else is served by the process that serves this client?

        A process for each client, made by os.fork(), ends alone. Or catch the error of one client:
        ConnectionError in Python, the event 'error' of each socket in Node. In C, call
        signal(SIGPIPE, SIG_IGN), or send with MSG_NOSIGNAL, and look at what each call returns."""),
    'processes': Case(
        'loses a process to each client that leaves', see('processes'), '',
        'You see fewer processes than you have started: some have ended with their clients.', """
        Let some clients leave, and then count your processes:
        {see}
        How many did you start? Each has ended because of one client. Who will serve the next ones?

        A worker serves one client after the other. An error that nobody catches ends it, and so does
        SIGPIPE. If as many clients leave as there are workers, nobody is left to serve.

        In the worker's loop, put a try around what it does for one client, and go on with the next after a
        ConnectionError. In C, call signal(SIGPIPE, SIG_IGN) before you fork. Or let the first process
        wait() for its workers, and fork another one for each that has ended.""", cured_by=''),
    'hangs': Case(
        'serves nobody after clients that leave', see('hangs'), '',
        'You see curl time out: your server is busy with clients that have gone.', """
        Let some clients leave, and then ask:
        {see}
        Nobody answers. Does your server wait, or does it use the CPU? Type top in another terminal.

        recv() returns no bytes (b'' in Python, 0 in C) if the client has closed. That is no request, and
        nothing more will come, however often you read. A loop that waits for the rest never ends. And a
        thread of a pool that an error has ended serves nobody either.

        After each recv(), look whether it has returned no bytes. If so, close the socket, forget it (in a
        table, in epoll, in select) and go on with the next client. In a thread of a pool, catch the errors
        of one client in its loop.""", cured_by=''),
    'descriptors': Case(
        'keeps the descriptors of clients that leave', see('descriptors'), '',
        f'You see about {CLIENTS} more than before: close the socket of a client that has gone, too.', """
        Count your descriptors after clients that leave. Type it twice:
        {see}
        The number grows. After clients that ask and get their reply, it does not. What does your code do
        for those, and not for the others?

        recv() returns no bytes if the client has closed. The connection is then half closed (CLOSE_WAIT)
        until you close your side as well. Nobody else can do that for you, as long as you run.

        Close where all ways meet: with client_fd: or a finally in Python. In a loop of events, where recv()
        returns no bytes, take the socket out of your tables, and close it there. Do the same after an
        error.""", cured_by=''),
}
BUG = about(
    globals(), scene=all_leave, when_ended=its_own_end,
    witness='ECONNRESET has ended the server; a client had just left with a reset, without a word',
    predict='Clients leave at any moment, and some reset the connection. Is the next one answered?',
    why='an error that nobody catches ends its process. If that serves one client alone, the others go on.')
