"""The experiments of part 4: how a server's processes, time limits and connections hold out.

Like those of part 2, they are given a running server with the application named in `apps`. Where
one is about a time limit, `env` names the one that the stages of part 4 heed; another server has
its own, which it must have reached after server.patience seconds.
"""
import signal
import time
from contextlib import suppress

from laboratory.experiments.apps.wsgi_probes import ALL_BYTES
from laboratory.experiments.part2 import (
    CHUNKED,
    LENGTH,
    PROBES,
    fifo,
    go_through,
    must_answer,
    survives,
    times_noted,
    verdict,
)
from laboratory.experiments.part3 import connected
from laboratory.experiments.verdicts import (
    BUG,
    NO_WORKER,
    PASS,
    Verdict,
    started_with,
    tell_nobody,
)
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    OPEN,
    SOON,
    closes,
    connect,
    fetch,
    read_next,
    read_reply,
    readable,
    request,
    rest_of,
    send,
    take_little,
)

GET = request('GET', '/binary')
BEFORE_BODY = request('POST', '/body', f'{LENGTH}100000')
HALF = b'GET / HTTP/1.1\r\nHost: localhost\r\nX-Drip: '  # of a request
A_WHILE = 3  # seconds in which a supervisor has replaced its workers
CLIENTS = 100  # that say nothing
PAUSE = 0.1  # seconds between what a slow reader takes
SHORT = '0.5'  # seconds, for a time limit
MEGABYTES = 64 * 65536  # bytes of the reply to /megabytes
TEN_MEGABYTES = 10_000_000  # bytes of those to /one-piece and /ten-pieces, more than buffers hold


def try_to_connect(server):
    """A connection that lasts as long as the server, or None where it takes no more."""
    for _ in range(2):
        with suppress(TimeoutError, ConnectionError):
            return server.until_end.enter_context(connect(server, SOON))
        server.let_rest()  # it takes from the backlog what it is going to take
    return None


def silent_clients(server, number):
    """Open so many connections that say nothing, or as many as the listen backlog takes; return them."""
    found = []
    while len(found) < number and (client := try_to_connect(server)):
        found.append(client)
    return found


def listeners(server):
    """The processes of the server that listen on its port now."""
    return {pid for pid in server.processes() if server.port in kernel.ports(pid)}


def listening(server):
    """The same, once it is at rest."""
    server.let_rest()
    return listeners(server)


def ancestors(server):
    """The processes from which all those descend that listen; the last may be the one that does."""
    pids = listening(server)
    parents = {pid: kernel.parent(pid) for pid in server.family()}

    def line(pid):
        return [*line(parents[pid]), pid] if pid in parents else []
    return [one[0] for one in zip(*map(line, pids), strict=False) if len(set(one)) == 1]


def supervisor(server):
    """The last of its ancestors, which may itself be the one that listens; None for none."""
    return next(reversed(ancestors(server)), None)


def workers_of(server):
    """The supervisor, and the other processes that listen; none without a supervisor."""
    top = supervisor(server)
    return top, (listening(server) - {top} if top else set())


@started_with(apps=PROBES)
def few_processes(server, tell=tell_nobody):
    """needs no process for each client"""
    server.let_rest()  # its workers start
    before = len(server.processes())

    def more():
        return len(server.processes()) - before
    clients = len(silent_clients(server, CLIENTS))
    server.wait_until(lambda: more() >= clients)
    tell(f'{clients} clients are connected and say nothing')
    seen = f'{more()} more processes for {clients} silent clients'
    return Verdict(BUG if more() >= clients // 2 else PASS, seen)


def without_workers(server, what):
    """The verdict on a server that has no workers for which this could happen."""
    orphans = not supervisor(server) and listeners(server)
    return Verdict(NO_WORKER, 'the processes that listen have no common parent' if orphans else
                   f'it has no worker that could be {what}')


def kill(server, top, killed):
    """Kill these workers; return how many are missing after a while, less than 0 where too many came."""
    number = len(listeners(server) - {top})
    for pid in killed:
        kernel.send(pid, signal.SIGKILL)
    kernel.eventually(lambda: not any(map(kernel.alive, killed)))
    kernel.eventually(lambda: len(listening(server) - {top}) >= number, A_WHILE)
    return number - len(listening(server) - {top})


@started_with(apps=PROBES, judges_ends=True)
def killed_workers(server, tell=tell_nobody):
    """replaces a worker that is killed"""
    must_answer(server)
    top, workers = workers_of(server)
    if not workers:
        return without_workers(server, 'killed')
    missing = kill(server, top, workers)
    tell('Every worker was killed')
    if not survives(server):
        return Verdict(BUG, f'{len(workers)} workers were killed, and the next client is not answered')
    if missing:
        came = len(workers) - missing
        return Verdict(BUG, f'{len(workers)} workers were killed, and {came} came in their place')
    new = sorted(listening(server) - {top})
    for worker in dict.fromkeys(new[-1:] + new[:1]):
        missing = kill(server, top, [worker])
        if missing or not survives(server):
            tell('One more worker was killed')
            came = f'{1 - missing} came in its place' if missing < 0 else 'no other one serves in its place'
            return Verdict(BUG, f'one more worker was killed, and {came}')
    return Verdict(PASS, f'{len(workers)} workers were killed, and new ones answer')


@started_with(apps=PROBES, ends_it=True)
def killed_supervisor(server, tell=tell_nobody):
    """leaves no worker behind when it is killed"""
    top, workers = workers_of(server)
    if not workers:
        return without_workers(server, 'left behind')
    kernel.send(top, signal.SIGKILL)
    kernel.eventually(lambda: not kernel.alive(top))
    tell('The supervisor was killed')
    kernel.eventually(lambda: not any(map(kernel.alive, workers)), server.patience)
    left = [pid for pid in workers if kernel.alive(pid)]
    for pid in left:
        kernel.send(pid, signal.SIGKILL)
    return Verdict(BUG, f'it was killed, and {len(left)} workers still serve') if left else Verdict(
        PASS, f'its {len(workers)} workers end when it is killed')


def so_long(server):
    return f'for {server.patience:.0f} seconds and more'


@started_with(apps=PROBES, env={'APP_TIMEOUT': SHORT})
def stuck_application(server, tell=tell_nobody):
    """ends an application that never returns"""
    must_answer(server)
    _, workers = workers_of(server)
    stuck, begin = [connected(server) for _ in workers or [None]], time.monotonic()
    with fifo(server):
        for client in stuck:
            client.sendall(request('GET', '/stuck'))
            server.let_rest()  # or the same worker could get the next one as well
        tell('Each worker is held up by an application that does not return')
        ended = kernel.eventually(lambda: all(map(readable, stuck)), server.patience)
        limit = time.monotonic() - begin
        server.let_rest()
        tell('A while later')
        served = ended and survives(server)
    if server.wait_until(lambda: times_noted(server, 'returned')) and ended:
        return Verdict(BUG, 'the client is answered, but its application still runs')
    # with a longer limit these take too long
    if served and limit < A_WHILE and (seen := cut_off(server, limit) or stays_halfway(server)):
        return Verdict(BUG, seen)
    if served:
        return Verdict(PASS, 'the application is ended, and the next client is served')
    return Verdict(BUG, 'the next client is not served' if ended else
                   f'an application that does not return holds up its worker {so_long(server)}')


def cut_off(server, seconds):
    """What a time limit of so many seconds ends although no application is stuck, '' for nothing."""
    before = listeners(server)

    def worker_ends():
        return kernel.eventually(lambda: before - listeners(server), 2 * seconds)
    if worker_ends():
        return 'an idle worker ends, although its application has returned'
    with connect(server) as client:
        take_little(client)
        client.sendall(request('GET', '/megabytes'))
        if worker_ends() or len(read_reply(client, server).body) < MEGABYTES:
            return 'a client that takes its time to read is cut off, although no application is stuck'
    return ''


def stays_halfway(server):
    """What is wrong if an application that stops in the middle of its reply is not ended; '' for nothing."""
    client = connected(server)
    with fifo(server):
        client.sendall(request('GET', '/stuck-halfway'))
        stays = rest_of(client, server.patience).end == OPEN
    return f'an application that stops in the middle of its reply stays {so_long(server)}' if stays else ''


def answer_to_drips(server, begun, tell=tell_nobody):
    """Send the bytes, and then one byte after the other; return the Reply, None if none comes."""
    client = connected(server)
    client.sendall(begun)

    def ended():
        try:
            return readable(client) or not client.send(b'x')
        except ConnectionError:
            return True
    tell('A client sends its request byte by byte')
    in_time = kernel.eventually(ended, server.patience)
    server.let_rest()
    tell('A while later')
    return read_reply(client, server) if in_time else None


@started_with(apps=PROBES, env={'REQUEST_TIMEOUT': SHORT})
def drip(server, tell=tell_nobody):
    """ends a request that comes byte by byte without end"""
    begin = time.monotonic()
    reply, limit = answer_to_drips(server, HALF, tell), time.monotonic() - begin
    if not reply:
        return Verdict(BUG, f'the server waits {so_long(server)} for each byte that comes')
    if 0 < reply.status < 400:
        return Verdict(BUG, f'it is answered before it is whole: {reply}')
    stopped = connected(server)
    stopped.sendall(HALF)
    if not kernel.eventually(lambda: readable(stopped), server.patience):
        return Verdict(BUG, f'the server waits {so_long(server)} for a client that stops halfway')
    if limit < A_WHILE and not answer_to_drips(server, BEFORE_BODY):
        return Verdict(BUG, f'the server waits {so_long(server)} for each byte of a body')
    return Verdict(PASS, f'it is ended after a while: {reply}')


@started_with(apps=PROBES, env={'SEND_TIMEOUT': '3'})  # seconds: much more than a pause, less than all
def slow_client(server, tell=tell_nobody):
    """waits for a slow client"""
    body = bytes(range(256)) * 256
    pieces = [body[at:at + 8192] for at in range(0, len(body), 8192)]
    posted = fetch(server, request('POST', '/body', f'{LENGTH}{len(body)}'), *pieces)
    wrong = [] if posted.body == body else [f'a slow request: {posted}']
    with connect(server) as client:
        take_little(client)
        client.sendall(request('GET', '/one-piece'))
        data, pauses = bytearray(), 40
        with suppress(ConnectionError):
            while readable(client, A_WHILE) and (piece := client.recv(32768)):
                data += piece
                pauses -= 1
                if pauses > 0:
                    time.sleep(PAUSE)
    if data.partition(b'\r\n\r\n')[2].count(b'x') < TEN_MEGABYTES:
        wrong.append(f'a slow reader: {len(data)} of {TEN_MEGABYTES} bytes')
    return verdict(wrong, 'a slow request is answered, and a slow reader gets all of its reply')


def asking(method, path, *headers, body=b''):
    """The bytes of a request that leaves the connection open."""
    return request(method, path, *headers, body=body).replace(b'Connection: close\r\n', b'')


def both_replies(server, first, second, at_once=False):
    """The Replies to two requests on one connection; only the first, if it is incomplete or the last."""
    with connect(server) as client:
        send(client, server, first + second if at_once else first)
        one = read_next(client, server, method=first.partition(b' ')[0].decode())
        server.last_exchange = first, one
        if not one.complete or one.end != OPEN:
            return [one]
        if not at_once:
            send(client, server, second)
        two = read_next(client, server, one.extra)
        came = b'' if two.data else b'\r\n(no second answer)'
        server.last_exchange = first + second, two._replace(data=one.data + two.data + came)
        return [one, two]


BINARY = asking('GET', '/binary')
FIRST_REQUESTS = {  # what may come before another request on the same connection
    'a GET': BINARY,
    'a body': asking('POST', '/body', body=b'x' * 10_000),
    'a HEAD': asking('HEAD', '/binary'),
    'a 304': asking('GET', '/not-modified'),
    'a 205': asking('GET', '/reset-content'),
    'a response of unknown length': asking('GET', '/write'),
    'a trailer': asking('POST', '/body', CHUNKED) + b'1\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n',
}


LAST_REQUESTS = {
    'a client that asks to close': GET,
    'a client that asks to Close': GET.replace(b': close', b': Close'),
    'a client of HTTP/1.0': b'GET /binary HTTP/1.0\r\n\r\n',
}


def followed_by(first, at_once=False):
    """A question: whether a request that follows this one on its connection is answered as it should be."""
    def ask(server):
        one, *another = both_replies(server, first, BINARY, at_once)
        if closes(one):
            return
        if not one.complete:
            return 'its reply never ends'
        if another[0].body != ALL_BYTES:
            return f'the next request gets {another[0]}'
    return ask


def closes_after(data):
    """A question: whether the connection ends after this request, as its client expects."""
    def ask(server):
        with connect(server) as client:
            client.sendall(data)
            reply = read_next(client, server)
            server.last_exchange = data, reply
            if reply.end == OPEN and not kernel.eventually(lambda: readable(client), A_WHILE):
                return 'the connection stays open (RFC 9112, section 9.6)'
    return ask


@started_with(apps=PROBES)
def keep_alive(server, tell=tell_nobody):
    """answers the next request on the same connection"""
    must_answer(server)
    with connect(server) as client:
        client.sendall(BINARY)
        reply = read_next(client, server)
        server.let_rest()
        tell('The first reply has come, and the client would like to send another request')
        if readable(client):
            return Verdict(BUG, 'the connection ends after the first reply')
        if closes(reply):
            return Verdict(BUG, 'the first reply says Connection: close')
    questions = {name: followed_by(first) for name, first in FIRST_REQUESTS.items()}
    questions['two requests in one send'] = followed_by(BINARY, at_once=True)
    questions |= {name: closes_after(data) for name, data in LAST_REQUESTS.items()}
    return go_through(server, questions, 'a second request is answered, whatever the first was', tell)


def gets_body(data, due):
    """A question: whether the application gets that body."""
    def ask(server):
        reply = fetch(server, *data)
        if (reply.status, reply.body) != (200, due):
            return f'{reply} instead of {due!r}'
    return ask


TO_BODY = request('POST', '/body', CHUNKED)
BODIES = {
    'two chunks': gets_body([TO_BODY + b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n'], b'hello world'),
    'chunks that come in pieces': gets_body(
        [TO_BODY + b'5', b'\r', b'\nhel', b'lo\r\n0\r\n', b'\r\n'], b'hello'),
    'an extension and a trailer': gets_body(
        [TO_BODY + b'5;a=b;c="d"\r\nhello\r\n0\r\nX-Trailer: x\r\n\r\n'], b'hello'),
    'a size in capitals': gets_body([TO_BODY + b'000A\r\n0123456789\r\n0\r\n\r\n'], b'0123456789'),
}


@started_with(apps=PROBES)
def chunked_body(server, tell=tell_nobody):
    """reads a chunked body"""
    return go_through(server, BODIES, f'{len(BODIES)} bodies arrive whole', tell)


SMUGGLED = b'GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n'


def to_body(*headers, body):
    return asking('POST', '/body', *headers) + body


def with_length(*headers, body):
    return to_body(f'{LENGTH}{len(body)}', *headers, body=body)


CHUNKS_THEN_SMUGGLED = b'0\r\n\r\n' + SMUGGLED
SMUGGLING = {  # each can be read in two ways, and is a request and another one in one of them
    'a chunked body with a Content-Length': with_length(CHUNKED, body=CHUNKS_THEN_SMUGGLED),
    'chunked twice': with_length(CHUNKED, CHUNKED, body=CHUNKS_THEN_SMUGGLED),
    'chunked and identity': to_body('Transfer-Encoding: chunked, identity', body=CHUNKS_THEN_SMUGGLED),
    'xchunked': to_body('Transfer-Encoding: xchunked', body=CHUNKS_THEN_SMUGGLED),
    'chunked after a vertical tab': to_body('Transfer-Encoding: \x0bchunked', body=CHUNKS_THEN_SMUGGLED),
    'a space before the colon': with_length('Transfer-Encoding : chunked', body=CHUNKS_THEN_SMUGGLED),
    'two Content-Lengths': to_body(f'{LENGTH}0', f'{LENGTH}{len(SMUGGLED)}', body=SMUGGLED),
    'a Content-Length with a sign': to_body(f'{LENGTH}+0', body=SMUGGLED),
    'a Content-Length that is a list': to_body(f'{LENGTH}0, {len(SMUGGLED)}', body=SMUGGLED),
    'a folded Content-Length': to_body('Content-Length:', f' {len(SMUGGLED)}', body=SMUGGLED),
    'a chunk size with 0x': to_body(CHUNKED, body=b'0x0\r\n\r\n' + SMUGGLED),
    'a chunk size with a sign': to_body(CHUNKED, body=b'+0\r\n\r\n' + SMUGGLED),
    'a chunk size that ends with LF': to_body(CHUNKED, body=b'0\n\r\n' + SMUGGLED),
    'an extension that ends with LF': to_body(CHUNKED, body=b'2;\nxx\r\n0\r\n\r\n' + SMUGGLED),
    'a chunk that is longer than its size': to_body(CHUNKED, body=b'1\r\nxxx0\r\n\r\n' + SMUGGLED),
    'a chunk that ends with LF': to_body(CHUNKED, body=b'1\r\nx\n0\r\n\r\n' + SMUGGLED),
    'chunks in HTTP/1.0': to_body('Connection: keep-alive', CHUNKED, body=CHUNKS_THEN_SMUGGLED).replace(
        b'HTTP/1.1', b'HTTP/1.0', 1),
}


def smuggles(data):
    """A question: whether the application is called for what is no request."""
    def ask(server):
        before = times_noted(server, 'smuggled')
        fetch(server, data)
        if times_noted(server, 'smuggled') > before:
            return 'the application gets what is smuggled in it'
    return ask


@started_with(apps=PROBES)
def smuggling(server, tell=tell_nobody):
    """answers no smuggled request"""
    questions = {name: smuggles(data) for name, data in SMUGGLING.items()}
    right = f'{len(questions)} requests that can be read in two ways smuggle nothing'
    return go_through(server, questions, right, tell)


EXPERIMENTS = [few_processes, killed_workers, killed_supervisor, stuck_application, drip, slow_client,
               keep_alive, chunked_body, smuggling]
