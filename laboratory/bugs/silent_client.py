"""answers other clients while one is silent"""
import time

from laboratory.instruments import children, kernel
from laboratory.instruments.client import REQUEST, answer, ask, connected, fetch, readable, send
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed
from laboratory.instruments.views import connections

MOMENT = 0.5  # seconds for which a client may say nothing
LINE, REST = REQUEST[:21], REQUEST[21:]  # of a request as somebody types it
ONE_MORE = 'Some clients say nothing, or not all; another one has sent its request'
STEPS = {
    'waits': 'One client is connected and says nothing; a second one has sent its request',
    'later_client': 'One client is connected and says nothing; a later one has sent its request'}


def experiment(server, step):
    """One client is silent, then more and more, while others come; at last some of them speak."""
    silent = {}  # {client: when it came}
    result = fill(server, step, silent)
    seen = f'others are answered while {len(silent)} clients are silent'
    return result or let_speak(server, step, silent) or passed(seen)


def fill(server, step, silent):
    """Let clients be silent while others come; return the Result where one of those waits, or None.

    A third of those come while one is silent: it may hold up just the worker that a later one gets. Then
    one more is silent for each that comes.
    """
    number = children.number_of_clients(server)
    for other in range(number):
        if not other or other > number // 3:
            silent[connected(server)] = time.monotonic()
        if len(silent) > 1:
            case = 'pool'
            words = f'the next client waits while {len(silent)} are silent; with one fewer, it is answered'
        elif other:
            case, words = 'later_client', 'a later client waits while another one is silent'
        else:
            case, words = 'waits', 'a second client waits while another one is silent'
        if result := serve_another(server, step, silent, case, words):
            return result


def let_speak(server, step, silent):
    """Let some send a request, in one piece or two; return the Result where it is not answered, or None."""
    replies = send_lines(server, silent)
    if result := end_early(server, silent) or serve_another(
            server, step, silent, 'halfway', 'a client waits while others have sent one line of a request'):
        return result
    due = fetch(server, REQUEST)
    if not due.data:
        raise NoAnswer('a client that comes after silent ones is not answered')
    speaking = [client for client in list(silent)[::2] if not readable(client)]
    for client in speaking:
        send(client, server, REQUEST)
    going_on = [client for client, reply in replies.items() if not reply and not readable(client)]
    for client in going_on:
        send(client, server, REST)
    if not all(answer(client, server).data for client in speaking):
        return bug('cut_off', 'a silent client is not answered when it speaks')
    replies |= {client: answer(client, server) for client in going_on}
    for reply in filter(None, replies.values()):
        if not reply.data or reply.status != due.status:
            return bug('in_pieces', f'a client that sends its request in two pieces gets {reply}')


def send_lines(server, silent):
    """Take every third client out of `silent` and let it send a line; return {client: its Reply, or None}."""
    clients = list(silent)[::3]
    for client in clients:
        del silent[client]
        send(client, server, LINE)
    server.wait_until(lambda: any(map(readable, silent)), nap=0)
    replies = {client: answer(client, server) if readable(client) else None for client in clients}
    kernel.eventually(lambda: any(map(readable, silent)),
                      min(silent.values(), default=0) + MOMENT - time.monotonic())
    return replies


def serve_another(server, step, silent, case, words):
    """Let one more client come; return the Result where it waits, or costs a silent one its connection."""
    other = connected(server)
    is_prompt = ask(other, server)
    is_answered = is_prompt or children.answers_late(other, server)
    if case == 'waits' or not is_answered:
        step(STEPS.get(case, ONE_MORE), connections)
    if not is_answered:
        if case == 'waits' and any(map(kernel.waits_for_a_child, children.parents(server))):
            case = 'later_client'  # it has forked, and its parent waits
        for client in silent:
            client.close()
        if case != 'halfway' and not answer(other, server).data:
            raise NoAnswer('the next client is not answered, even after the silent ones have gone')
        return bug(case, words)
    other.close()  # else the end of it may hold up a worker
    return end_early(server, silent, for_another=not is_prompt)


def end_early(server, silent, for_another=False):
    """Take those out of `silent` that were answered or cut off; return the Result, None where that may be.

    A client may be cut off that was silent for long, but not for another one that waits.
    """
    for client in filter(readable, list(silent)):
        age, reply = time.monotonic() - silent.pop(client), answer(client, server)
        if reply.data and reply.status < 400:
            return bug('unasked', f'a client that has sent nothing gets {reply}')
        if for_another or age < MOMENT + server.pace:
            return bug('cut_off', 'a silent client is cut off before it speaks')
    return None


CASES = {
    'waits': Case(
        'waits for a silent client',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; curl -m 2 localhost:8888/hello',
        r'curl: \(28\)',
        'You see curl time out: while you wait for one client, you serve nobody else.', """
        Let a client say nothing for a while:
        {see}
        Who gets no greeting? Where in your code is the server while a client is silent?

        While a process waits for the silent client, it can do nothing else. So give each client a process
        of its own, and let the first process take the next client at once, without waiting for it.

        After accept(), call fork(), which is os.fork() in Python. It returns 0 in the new process, the child:
        call handle_request() there, close the socket, and end with os._exit(0), or the child goes on in your
        loop. The parent goes straight back to accept()."""),
    'later_client': Case(
        'waits for the child of a silent client',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; '
        'for i in 1 2; do curl -m 2 localhost:8888/hello; sleep 1; done', '',
        'You see a curl time out: something waits for the silent client, such as a wait() for its child, or '
        'a worker that gets clients of its own.', """
        One client is silent, and two more come, one after the other:
        {see}
        If your server forks for each client, the child of the silent one still runs. Who waits for its end?

        If your server waits for its children, anywhere, it also waits for that of the silent client, which
        doesn't end. It may only ask whether one has ended.

        Look for wait(), and for waitpid() without WNOHANG. With WNOHANG, waitpid() never waits: it gives the
        pid 0 if there are children, but none has ended. Then leave your loop.""",
        cured_by='part3-final'),
    'cut_off': Case(
        'cuts off a client that is silent for a moment',
        r"(sleep 2; printf 'GET /hello HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 1) | "
        'curl -s -m 5 telnet://localhost:8888', '',
        'You see no greeting: you make room for others at the cost of this client. Serve both at once.'),
    'pool': Case(
        'serves only so many clients at once',
        'for i in $(seq 16); do (sleep 5 | curl -s -m 5 telnet://localhost:8888 &); done; sleep 1; '
        'curl -m 2 localhost:8888/hello', '',
        'You see curl time out: 16 silent clients hold all of your threads or processes.', """
        Let 16 clients say nothing, and ask for a page:
        {see}
        How many threads or processes serve clients, and what does each of them wait for?

        A pool of N serves N clients at once, and N silent ones fill it. Nobody knows how many will come.

        Start a child or a thread when a client has come, instead of some in advance. Or wait for all clients
        at once in an event loop: poll(), epoll or kqueue tell which of them have sent something.""",
        cured_by='part3-v1.1-fd-leak'),
    'halfway': Case(
        'waits for the rest of a request',
        r"(printf 'GET /hello HTTP/1.1\r\n'; sleep 5) | curl -s -m 5 telnet://localhost:8888 & sleep 1; "
        'curl -m 2 localhost:8888/hello', '',
        'You see curl time out: you wait for the rest of one request, and serve nobody meanwhile.', """
        Let a client send the first line of a request, and another one all of its own:
        {see}
        Where does your server wait for the rest? An event loop may begin to read, and then wait in there.

        A client that has begun may pause like one that has not. So nothing but the wait for all clients at
        once may wait for one of them, unless it has a process or a thread of its own.

        In an event loop, make the sockets non-blocking, and keep what has come of each request until its
        blank line is there. No readline() and no loop around recv(). Otherwise fork() for each client."""),
    'in_pieces': Case(
        'loses a request that comes in two pieces',
        r"(printf 'GET /hello HTTP/1.1\r\n'; sleep 1; printf 'Host: x\r\n\r\n'; sleep 1) | "
        'curl -s -m 5 telnet://localhost:8888', '',
        'You see no reply, or another one than to a request in one piece: collect the pieces.', """
        Send a request as somebody types it, one line and then the other:
        {see}
        What has the first recv() returned, and what do you take it for?

        TCP carries bytes, not messages: one recv() may return a part of a request, and the rest comes later.
        A request is there when its blank line is there.

        Put what comes behind what has come before from this client, and look in all of it for the blank
        line, \\r\\n\\r\\n. Before that, neither answer nor close the connection."""),
    'unasked': Case(
        'answers before it is asked',
        'sleep 2 | curl -s -m 2 telnet://localhost:8888', '',
        'You see a reply, though nobody has asked: read the request first.', """
        Connect and say nothing:
        {see}
        Who speaks first in HTTP? What becomes of the request that comes after your reply?

        A client sends its request, then the server replies. If you reply and close before you have read the
        request, the kernel answers it with a reset, and the client may lose your reply.

        Call recv() on the client's socket before you send anything.""", cured_by=''),
}
BUG = about(
    globals(), scene=children.one_is_silent,
    witness='a second client waits while another one is silent',
    predict='One client is connected and says nothing. Is the next one answered?',
    why='one process cannot wait for two clients. A child for each client can.')
