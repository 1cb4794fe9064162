"""Experiments that ask many things of one WSGI server, and what its application tells them in files."""
import os
from contextlib import contextmanager

from laboratory.instruments import kernel
from laboratory.instruments.client import comes, connect, fetch, read_reply, readable, request
from laboratory.instruments.experiment import NoAnswer, bug, passed
from laboratory.instruments.output import last_lines
from laboratory.instruments.process import A_WHILE
from laboratory.instruments.views import exchange

PROBES = ['wsgi_probes:app']
PLAIN = 5  # plain clients after the first request: a server that fails by itself fails here
LENGTH, CHUNKED = 'Content-Length: ', 'Transfer-Encoding: chunked'


def survives(server):
    """Whether the server answers one more client, though it may have to start a worker for it."""
    try:
        with connect(server) as client:
            client.sendall(request('GET', '/'))
            if not comes(client, server):
                kernel.eventually(lambda: readable(client) or server.has_ended(), A_WHILE)
            return readable(client) and read_reply(client, server).status == 200
    except (ConnectionError, TimeoutError):
        return False


def must_answer(server):
    """Raise NoAnswer if a plain request fails, whatever is done to the server."""
    if not survives(server):
        raise NoAnswer('a plain GET is not answered with 200')


def go_through(server, step, requests, right):
    """Ask all, and whether the next client is served after each; return the Result.

    requests     {case: a function that is given the server and returns a complaint, or nothing}; the
                 first of them is asked before the server has served anybody
    right        the detail if nothing is wrong
    """
    wrong, printed = [], []
    for number, (case, complains) in enumerate(requests.items()):
        for _ in range(PLAIN * (number == 1)):
            must_answer(server)
        server.last_exchange, before = None, server.written()
        complaint, is_over = complains(server), not survives(server)
        if is_over:
            server.let_rest()
            is_busy = not kernel.activity(server.family())[0]
            complaint = ('the server ends' if server.has_ended() else
                         'the next client is not served' + ', and the server is busy' * is_busy)
        if complaint and not wrong:
            step(case, exchange)
            printed = last_lines(server.output(since=before))
        if complaint:
            wrong.append((case, case, complaint))
        if is_over:
            break
    return all_that_is_wrong(wrong, right, len(requests), len(requests) - 1 - number, printed)


def all_that_is_wrong(wrong, right, number, unasked=0, printed=None):
    """The Result of several complaints, or of none.

    wrong       each of them (case, the name of what is wrong, what is wrong with it)
    number      of all that there is to ask, of which some are unasked
    """
    if not wrong:
        return passed(right)
    (case, _, _), *_ = wrong
    detail, *others = [f'{name}: {complaint}' for _, name, complaint in wrong]
    left = f'{len(wrong)} of {number} left' + f', {unasked} not asked' * bool(unasked)
    left += f', also {", ".join(name for _, name, _ in wrong[1:])}' * bool(others)
    return bug(case, detail)._replace(others=tuple(others), left=left, printed=printed)


def replies(data, complains=lambda reply: ''):
    """A request for go_through(): what complains(reply) says of the reply to these bytes."""
    return lambda server: complains(fetch(server, data))


@contextmanager
def fifo(server):
    """A FIFO that the application reads until we let go of it."""
    path = server.folder / 'fifo'
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield
    finally:
        path.unlink()  # first, or an application might wait for a writer that never comes
        os.close(end)


def noted(server, name):
    """The lines that the application has noted under that name: 'closed', for its close()."""
    file = server.folder / name
    return file.read_text().splitlines() if file.exists() else []


def closed_after(server, happens):
    """Whether the server calls the close() of its application when this has happened."""
    before = noted(server, 'closed')
    happens()
    return server.wait_until(lambda: noted(server, 'closed') != before)


TYPED = {  # what printf(1) in single quotes takes for a byte, where that is not the byte itself
    **{byte: f'\\{byte:03o}' for byte in [*range(32), ord("'"), *range(127, 256)]},
    ord('\\'): '\\\\', ord('%'): '%%', ord('\r'): '\\r', ord('\n'): '\\n'}


def as_typed(data):
    """The command that sends these bytes and shows the answer."""
    text = data.decode('latin-1').translate(TYPED)
    return f"(printf '{text}'; sleep 1) | curl -s --max-time 3 telnet://localhost:8888"


def leaving_as_typed(data, is_reset, seconds=0):
    """The command that sends these bytes, and leaves with RST or FIN after so many seconds."""
    sends = f'client.send(b"{repr(data)[2:-1]}"); ' * bool(data) + f'time.sleep({seconds}); ' * bool(seconds)
    resets = 'client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); ' * is_reset
    return ('python3 -c \'import socket, struct, time; client = '
            f'socket.create_connection("localhost:8888".split(":")); {sends}{resets}client.close()\'')
