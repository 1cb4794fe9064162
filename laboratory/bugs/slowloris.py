"""ends a request that comes byte by byte without end"""
import time

from laboratory.instruments import kernel, process, views, wsgi
from laboratory.instruments.client import connected, read_reply, readable, request
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.workers import so_long

HALF = b'GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: '  # of a request
BEFORE_BODY = request('POST', '/body', f'{wsgi.LENGTH}100000')


def answer_byte_by_byte(server, begun):
    """Send the bytes, and then one byte after the other; return the Reply, None if none comes."""
    client = connected(server)
    client.sendall(begun)

    def ended():
        try:
            return readable(client) or not client.send(b'x')
        except ConnectionError:
            return True
    in_time = kernel.eventually(ended, server.patience)
    server.let_rest()
    return read_reply(client, server) if in_time else None


def experiment(server, step):
    begin = time.monotonic()
    reply, limit = answer_byte_by_byte(server, HALF), time.monotonic() - begin
    step('A client has sent its request byte by byte', views.connections)
    waits = f'the server waits {so_long(server)} for'
    if not reply:
        return bug('each_byte', f'{waits} each byte that comes')
    if 0 < reply.status < 400:
        return bug('answers_early', f'it is answered before it is whole: {reply}')
    stopped = connected(server)
    stopped.sendall(HALF)
    if not readable(stopped, server.patience):
        return bug('halfway', f'{waits} a client that stops halfway')
    if limit < process.A_WHILE and not answer_byte_by_byte(server, BEFORE_BODY):
        return bug('body', f'{waits} each byte of a body')
    return passed(f'it is ended after a while: {reply}')


SLOWLY = 'for i in $(seq 60); do sleep 1; printf x; done'
CURL = 'curl -s -m 40 telnet://localhost:8888; echo "exit status $?"'
CASES = {
    'each_byte': Case(
        'waits as long as one more byte comes',
        rf"(printf 'GET / HTTP/1.1\r\nHost: x\r\nX-Slow: '; {SLOWLY}) | {CURL}", '',
        'You see exit status 28: your limit is for each recv(). Set a deadline for the whole request.', """
        Send a request that is never whole:
        {see}
        Does your server end it, with an error, or is it curl that gives up? When does your limit begin?

        A limit that begins anew with each byte limits the pause, not the request. So decide once, when the
        request begins, at what time it has to be whole, and see before each wait how much time is left.

        In read_request(), before the loop: deadline = time.monotonic() + REQUEST_TIMEOUT. Before each
        recv(), call client_fd.settimeout() with what is left, but more than 0. (An event loop is told the
        deadline.) Then answer 408. float(os.environ['REQUEST_TIMEOUT']) is 0.5 in the test."""),
    'halfway': Case(
        'waits for the rest of a request without end',
        'curl -i -m 40 -H "Content-Length: 99" -d x localhost:8888/body', '',
        'You see curl give up after 40 seconds: give each recv() what is left of the time.'),
    'body': Case(
        'waits as long as one more byte of a body comes',
        rf"(printf 'POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n'; {SLOWLY}) | {CURL}", '',
        'You see exit status 28 after 40 seconds: the deadline of a request is also that of its body.'),
    'answers_early': Case(
        'answers a request before it is whole',
        r"(printf 'GET / HTTP/1.1\r\nHost: x\r\nX-Slow: '; sleep 3) | curl -s -m 4 telnet://localhost:8888",
        '', 'You see a reply before the blank line after the headers has come: wait for it, up to a limit.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, env={'REQUEST_TIMEOUT': '0.5'},
    witness='the server waits for 5 seconds and more for each byte that comes',
    predict='A client sends its request byte by byte, without end. How long does the server wait?',
    why='a time limit for each recv() begins again with each byte. A deadline for the request does not.')
