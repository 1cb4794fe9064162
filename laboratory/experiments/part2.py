"""The experiments of part 2: what a WSGI server tells its application, and sends for it.

Like those of part 3, they are given a running server; it runs the application named in `apps`.
They take every answer that PEP 3333 and the RFCs 9110 and 9112 allow, and go through all that they
ask about; only where the server has ended do they stop early.
"""
import email.utils
import json
import os
import re
import socket
import time
from contextlib import contextmanager

from laboratory.experiments.apps.wsgi_probes import ALL_BYTES
from laboratory.experiments.verdicts import BUG, PASS, NoAnswer, Verdict, started_with, tell_nobody
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    OPEN,
    connect,
    fetch,
    get,
    read_reply,
    readable,
    request,
    reset,
)
from laboratory.instruments.process import last_lines

PROBES = ['wsgi_probes:app']
A_WHILE = 4  # seconds that the next client waits for a server that is at rest
PLAIN = 5  # plain clients after the first question: a server that fails by itself fails here


def survives(server):
    """Whether the server answers one more client, though it may have to start a worker for it."""
    try:
        with connect(server) as client:
            client.sendall(request('GET', '/'))
            if not server.wait_until(lambda: readable(client)):
                kernel.eventually(lambda: readable(client) or server.has_ended(), A_WHILE)
            return readable(client) and read_reply(client, server).status == 200
    except (ConnectionError, TimeoutError):
        return False


def must_answer(server):
    """Raise NoAnswer if a plain request fails, whatever is done to the server."""
    if not survives(server):
        raise NoAnswer('a plain GET is not answered with 200')


def verdict(wrong, right, printed=None):
    """Bug, with everything that is wrong; or pass, with what is right."""
    return Verdict(BUG, f'wrong: {"; ".join(wrong)}', printed) if wrong else Verdict(PASS, right)


def go_through(server, questions, right, tell):
    """Ask all, and whether the next client is served after each; return the Verdict.

    questions    {name: a function that is given the server and returns a complaint, or nothing}; the
                 first of them is asked before the server has served anybody
    right        the evidence if nothing is wrong
    tell         is told the name of the first one that finds something wrong
    """
    wrong, printed = [], []
    for number, (name, ask) in enumerate(questions.items()):
        if number == 1:
            for _ in range(PLAIN):
                must_answer(server)
        server.last_exchange, before = None, server.written()
        complaint, is_over = ask(server), not survives(server)
        if is_over:
            server.let_rest()
            complaint = 'the server ends' if server.has_ended() else (
                'the next client is not served' + ', and the server is busy' * (not server.is_asleep()))
        if complaint:
            if not wrong:
                tell(name)
                printed = last_lines(server.output(since=before))
            wrong.append(f'{name}: {complaint}')
        if is_over:
            break
    return verdict(wrong, right, printed)


@started_with(apps=['wsgiapp:app', 'flaskapp:app', 'pyramidapp:app', 'djangoapp:app'])
def hello(server, tell=tell_nobody):
    """runs plain WSGI, Flask, Pyramid and Django"""
    response = get(server, '/hello')
    if response.status == 200 and response.body.startswith(b'Hello world from '):
        return Verdict(PASS, response.body.decode().strip())
    return Verdict(BUG, f'there is no hello in the answer: {response}')


ENVIRON = {  # what is due in it, a pattern; None where it may be absent
    'PATH_INFO': '/caf\xc3\xa9 x', 'QUERY_STRING': 'a=1&b=%20', 'SCRIPT_NAME': '|None',
    'HTTP_X_PROBE': 'one, ?two', 'HTTP_HOST': 'localhost', 'SERVER_NAME': '.+', 'SERVER_PORT': '[0-9]+',
    'SERVER_PROTOCOL': 'HTTP/1.1', 'REMOTE_ADDR': '127.0.0.1|::ffff:127.0.0.1|::1|None',
}


@started_with(apps=PROBES)
def environ(server, tell=tell_nobody):
    """passes on the query string, headers and decoded path"""
    response = get(server, '/caf%C3%A9%20x?a=1&b=%20', 'X-Probe: one', 'x-probe: two')
    tell('A client asks the application for its environ')
    try:
        seen = json.loads(response.body)
    except ValueError:
        return Verdict(BUG, f'the application was not run: {response}')
    wrong = [f'{name} is {seen.get(name)!r}' +
             f' instead of {due.replace("?", "")!r}' * (not re.search('[+|]', due))
             for name, due in ENVIRON.items()
             if not isinstance(seen.get(name), str | None) or not re.fullmatch(due, str(seen.get(name)))]
    if wrong:
        wrong[-1] += ' (PEP 3333, environ Variables, and RFC 3875, section 4.1)'
    return verdict(wrong, f'{len(ENVIRON)} variables in the environ are right')


@started_with(apps=PROBES)
def whole_request(server, tell=tell_nobody):
    """reads a whole request, and its body"""
    body = ALL_BYTES * 16
    data = request('POST', '/body', 'X-Padding: ' + 'x' * 2000, body=body)
    response = fetch(server, data[:1500], data[1500:3000], data[3000:])
    tell('A request comes in three pieces; the application answers with the body that it gets')
    got = f'{len(response.body)} bytes' if response.status == 200 else response
    wrong = f'instead of the {len(body)} bytes of the body, the client gets {got}'
    return verdict([wrong] * (response.body != body),
                   f'it reads a request of {len(data)} bytes that comes in three pieces')


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


def streaming(server):
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/wait'))
            early = server.wait_until(
                lambda: readable(client) and b'before, ' in client.recv(65536, socket.MSG_PEEK))
        reply = read_reply(client, server)
    server.last_exchange = request('GET', '/wait'), reply
    if reply.body != b'before, after':
        return str(reply)
    return '' if early else ('a piece of the body is not sent until the next one is ready '
                             '(PEP 3333, Buffering and Streaming)')


def one_true_date(server):
    dates = get(server, '/').values('Date')
    sent = email.utils.parsedate_tz(dates[0]) if len(dates) == 1 else None
    if not sent or abs(email.utils.mktime_tz(sent) - time.time()) > 60:
        return f'{dates or "none"} is sent instead of one Date with the time now (RFC 9110, section 6.6.1)'


def own_headers(server):
    reply = get(server, '/own-headers')
    twice = [name for name in ('Date', 'Server') if len(reply.values(name)) > 1]
    if reply.status != 200:
        return str(reply)
    return ', '.join(f'{name} is sent twice: {reply.values(name)} (RFC 9110, section 5.3)' for name in twice)


def close(server):
    before = times_noted(server, 'closed')
    reply = get(server, '/closable')
    if not server.wait_until(lambda: times_noted(server, 'closed') > before):
        return f'it is not called after {reply} (PEP 3333, Specification Details)'


def noted(server, name):
    """The lines that the application has noted under that name."""
    file = server.folder / name
    return file.read_text().splitlines() if file.exists() else []


def times_noted(server, name):
    """How often the application has noted something under that name: 'closed', for its close()."""
    return len(noted(server, name))


def answers(path, due, section):
    """A question: whether the answer to a GET is that one; due is its status or its body."""
    def ask(server):
        reply = get(server, path)
        if due not in (reply.status, reply.body):
            return f'{reply} instead of {due!r} (PEP 3333, {section})'
    return ask


RESPONSE_RULES = {
    'streaming': streaming,
    'Date': one_true_date,
    'Date and Server of the application': own_headers,
    'close()': close,
    'exc_info before the headers': answers('/change-before', 500, 'The start_response() Callable'),
    'exc_info after the headers': answers('/change-after', b'sent, raised again', 'Error Handling'),
    'write()': answers('/write', b'written, returned', 'The write() Callable'),
}


@started_with(apps=PROBES, judges_ends=True)
def whole_response(server, tell=tell_nobody):
    """sends the whole response: write(), exc_info, close(), streaming, Date"""
    return go_through(server, RESPONSE_RULES, f'it keeps {len(RESPONSE_RULES)} rules of PEP 3333', tell)


@started_with(apps=['wsgi_probes:checked'], judges_ends=True)
def validator(server, tell=tell_nobody):
    """passes wsgiref.validate"""
    for data in request('GET', '/'), request('POST', '/', 'Content-Type: text/plain', body=b'x'):
        before = times_noted(server, 'closed')
        reply = fetch(server, data)
        tell('wsgiref.validate stands between the server and its application, and checks both')
        complaints = server.folder / 'complaints'
        if complaints.exists():
            return Verdict(BUG, f'wsgiref.validate complains: {complaints.read_text().splitlines()[0]}')
        if reply.status != 200:
            return Verdict(BUG, f'{reply} instead of 200')
        if not server.wait_until(lambda before=before: times_noted(server, 'closed') > before):
            return Verdict(BUG, 'wsgiref.validate complains: close() was not called')
    return Verdict(PASS, 'wsgiref.validate accepts GET and POST')


@started_with(apps=PROBES)
def binary_body(server, tell=tell_nobody):
    """leaves a binary body intact"""
    reply = get(server, '/binary')
    tell('The application answers with all 256 byte values')
    wrong = [] if reply.body == ALL_BYTES else [f'{len(reply.body)} bytes arrive, not the 256 that were sent']
    return verdict(wrong, 'all 256 bytes arrive unchanged')


def reset_while_silent(server):
    client = connect(server)
    server.let_rest()
    reset(client)


def reset_while_asking(server):
    client = connect(server)
    client.sendall(b'GET / HTT')
    server.let_rest()
    reset(client)


def reset_while_reading(server):
    client = connect(server)
    client.sendall(request('GET', '/large'))
    server.wait_until(lambda: readable(client))
    reset(client)


def gone_before(data):
    """A question: what about the next client, when this one has reset before the server reads its bytes?"""
    def ask(server):
        pids = server.processes()
        kernel.stop(pids)
        try:
            client = connect(server)
            client.sendall(data)
            reset(client)
        finally:
            kernel.go_on(pids)
        server.let_rest()
    return ask


def reset_after_an_error(server):
    client = connect(server)
    client.sendall(b'mick\r\n\r\n')
    server.wait_until(lambda: readable(client))
    reset(client)


def silent_after_its_reply(server):
    with connect(server) as client:
        client.sendall(request('GET', '/'))
        read_reply(client, server)
        if not survives(server):
            return 'while its socket is open, the next client is not served'


def fails_half_way(server):
    reply = get(server, '/raise-after')
    if reply.status == 200 and reply.complete:
        return f'half a response looks complete to the client: {reply} (RFC 9112, section 8)'


def exits(server):
    get(server, '/exit')
    kernel.eventually(server.has_ended, 1)  # it may end its threads first


def sends(data):
    """A question: whatever the answer to these bytes is, what about the next client?"""
    def ask(server):
        fetch(server, data)
    return ask


RESETS = [reset_while_silent, reset_while_asking, reset_while_reading, reset_after_an_error]
LENGTH = 'Content-Length: '
FAILURES = {  # bytes to send, or a question of its own
    'an empty connection': b'',
    'a request line of one word': b'mick\r\n\r\n',
    'a request line alone': b'GET / HTTP/1.1\r\n',
    'bytes that are not text': b'\xff\xfe\x00\r\n\r\n',
    'a TLS handshake': b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(range(256)) * 2,
    'a head that is cut short': b'GET / HTTP/1.1\r\nHost: x\r\n',
    'a body that is cut short': request('POST', '/body', LENGTH + '9') + b'x',
    'a header without a colon': request('GET', '/', 'mick'),
    'a Content-Length in words': request('POST', '/body', LENGTH + 'ten'),
    'a negative Content-Length': request('POST', '/body', LENGTH + '-1'),
    'a Content-Length of 5000 digits': request('POST', '/body', LENGTH + '9' * 5000) + b'x' * 100_000,
    'a long request line': request('GET', '/' + 'x' * 100_000),
    'a large head': request('GET', '/', *['X-Padding: ' + 'x' * 1000] * 100),
    **{f'a {hang_up.__name__.replace("_", " ")}': hang_up for hang_up in RESETS},
    'a client that has gone before its reply': gone_before(request('GET', '/')),
    'a client that has gone before an error reply': gone_before(b'mick\r\n\r\n'),
    'a client that is silent after its reply': silent_after_its_reply,
    'an app that raises': request('GET', '/raise-before'),
    'an app that raises halfway': fails_half_way,
    'an app that is cancelled': request('GET', '/cancelled'),
    'an app that is refused a connection': request('GET', '/refused'),
    'an app that calls exit': exits,
}


@started_with(apps=PROBES, judges_ends=True)
def outlives(server, tell=tell_nobody):
    """serves the next client, whatever fails"""
    questions = {name: fail if callable(fail) else sends(fail) for name, fail in FAILURES.items()}
    return go_through(server, questions, f'it survives {len(FAILURES)} failures', tell)


def bad_request(reply):
    """400"""
    return reply.status == 400


def refused(reply):
    """an error"""
    return reply.status >= 400 or not reply.status and reply.end != OPEN


def taken(reply):
    """200"""
    return reply.status == 200


def hello_taken(reply):
    """b'hello'"""
    return reply.status == 200 and reply.body == b'hello'


def unchunked(reply):
    """b'hello', or an error"""
    return reply.status == 200 and reply.body == b'hello' or refused(reply)


def spaced(reply):
    """b'one two', or an error"""
    return reply.status == 200 and re.fullmatch(b'one +two', reply.body) or refused(reply)


def overlooked(reply):
    """b'', or an error"""
    return reply.status == 200 and reply.body == b'' or refused(reply)


CHUNKED = 'Transfer-Encoding: chunked'
CHUNKS = b'5\r\nhello\r\n0\r\n\r\n'
MALFORMED = [  # what it is, its bytes, what a server must answer, and by which section
    ('a request line of one word', b'mick\r\n\r\n', refused, 'RFC 9112, section 3'),
    ('no Host', b'GET / HTTP/1.1\r\n\r\n', bad_request, 'RFC 9112, section 3.2'),
    ('two Hosts', request('GET', '/', 'Host: other'), bad_request, 'RFC 9112, section 3.2'),
    ('a Host with a space', b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', bad_request, 'RFC 9112, section 3.2'),
    ('a space before a colon', request('GET', '/', 'X-Probe : x'), bad_request, 'RFC 9112, section 5.1'),
    ('a NUL in a header', request('GET', '/header', 'X-Probe: one\0two'), spaced, 'RFC 9110, section 5.5'),
    ('a CR in a header', request('GET', '/header', 'X-Probe: one\rtwo'), spaced, 'RFC 9112, section 2.2'),
    ('a folded header', request('GET', '/header', 'X-Probe: one', ' two'), spaced, 'RFC 9112, section 5.2'),
    ('a first header that is indented', b'GET /header HTTP/1.1\r\n X-Probe: x\r\nHost: x\r\n\r\n', overlooked,
     'RFC 9112, section 2.2'),
    ('a Content-Length in words', request('POST', '/', LENGTH + 'ten'), bad_request, 'RFC 9112, section 6.3'),
    ('a negative Content-Length', request('POST', '/', LENGTH + '-1'), bad_request, 'RFC 9112, section 6.3'),
    ('a Content-Length with a sign', request('POST', '/', LENGTH + '+1') + b'x', bad_request,
     'RFC 9112, section 6.3'),
    ('a Content-Length with an underscore', request('POST', '/', LENGTH + '1_0') + b'x' * 10, bad_request,
     'RFC 9112, section 6.3'),
    ('two Content-Lengths', request('POST', '/', LENGTH + '1', LENGTH + '2') + b'xx', bad_request,
     'RFC 9112, section 6.3'),
    ('a chunked body', request('POST', '/body', CHUNKED) + CHUNKS, unchunked,
     'RFC 9112, section 6.3'),
    ('a chunked body with a Content-Length',
     request('POST', '/body', LENGTH + '4', CHUNKED) + CHUNKS, unchunked,
     'RFC 9112, section 6.3'),
    ('a chunk without a size', request('POST', '/body', CHUNKED) + b'mick\r\n\r\n0\r\n\r\n', refused,
     'RFC 9112, section 7.1'),
    ('a body that is coded, but not chunked', request('POST', '/body', 'Transfer-Encoding: gzip') + b'x',
     refused, 'RFC 9112, section 6.3'),
]
WELL_FORMED = [  # the same for what a server must not refuse
    ('a host in lower case', b'GET / HTTP/1.1\r\nhost: localhost\r\n\r\n', taken, 'RFC 9110, section 5.1'),
    ('HTTP/1.0 without a Host', b'GET / HTTP/1.0\r\n\r\n', taken, 'RFC 9112, section 3.2'),
    ('a content-length in lower case', request('POST', '/body', LENGTH.lower() + '5') + b'hello', hello_taken,
     'RFC 9110, section 5.1'),
    ('a transfer-encoding in lower case', request('POST', '/body', CHUNKED.lower()) + CHUNKS, unchunked,
     'RFC 9110, section 5.1'),
]


def gets(data, due, section):
    """A question: whether the answer to these bytes is what is due."""
    def ask(server):
        reply = fetch(server, data)
        if not due(reply):
            return f'{reply} instead of {due.__doc__} ({section})'
    return ask


@started_with(apps=PROBES, judges_ends=True)
def refuses(server, tell=tell_nobody):
    """refuses malformed requests"""
    questions = {name: gets(data, due, section) for name, data, due, section in MALFORMED + WELL_FORMED}
    right = f'it refuses {len(MALFORMED)} malformed requests, and only those'
    return go_through(server, questions, right, tell)


def without(*words):
    """A rule for what must not be sent."""
    def broken(reply):
        return next((f'{word!r} is sent' for word in words if word in reply.data), '')
    return broken


def no_success(reply):
    return f'{reply} instead of 500' if 0 < reply.status < 400 else ''


def no_content(reply):
    sent = [name for name in ('Content-Length', 'Transfer-Encoding') if reply.values(name)]
    return ' and '.join(sent) + ' is sent' if sent and reply.status == 204 else no_body(reply)


def no_body(reply):
    return f'{reply.extra[:20]!r} is sent after the headers' if reply.extra else ''


def well_formed(reply):
    return f'{reply.problem}' if reply.problem or reply.extra else ''


def no_more_than_announced(reply):
    return f'{reply.extra!r} is sent after the 3 bytes' if reply.extra else ''


def visibly_incomplete(reply):
    if not 0 < reply.status < 400:
        return ''
    if reply.complete:
        return f'3 of 11 bytes look complete: {reply}'
    return 'the client waits for the rest, and nothing ends the connection' if reply.end == OPEN else ''


def not_kept(reply):
    sent = reply.status < 400 and 'keep-alive' in ', '.join(reply.values('Connection')).lower()
    return "'keep-alive' is sent" if sent else ''


HEAD = 'a body for HEAD'
PROMISES = [  # what the application does, the path, what is wrong with the reply, and by which section
    ('a header with a line break', '/break-header', without(b'\nX-Smuggled'), 'RFC 9110, section 5.5'),
    ('a status with a line break', '/break-status', without(b'\nX-Smuggled'), 'RFC 9112, section 4'),
    ('a status with an ESC', '/escape-status', without(b'\x1b'), 'RFC 9112, section 4'),
    ('a header with a NUL', '/nul-header', without(b'one\0'), 'RFC 9110, section 5.5'),
    ('a header that is bytes', '/bytes-header', without(b"b'one'"), 'PEP 3333, A Note On String Types'),
    ('a header name with a space', '/space-name', without(b'X Break:'), 'RFC 9110, section 5.1'),
    ('a header name with a colon', '/colon-name', without(b'X-Break: one'), 'RFC 9110, section 5.1'),
    ('Connection: keep-alive', '/keep-alive', not_kept, 'PEP 3333, Other HTTP Features'),
    ('Transfer-Encoding: chunked', '/own-chunks', well_formed, 'PEP 3333, Other HTTP Features'),
    ('no start_response()', '/no-start', no_success, 'PEP 3333, The start_response() Callable'),
    ('start_response() twice', '/start-twice', no_success, 'PEP 3333, The start_response() Callable'),
    ('more than its Content-Length', '/too-much', no_more_than_announced,
     'PEP 3333, Handling the Content-Length Header'),
    ('less than its Content-Length', '/too-little', visibly_incomplete,
     'PEP 3333, Handling the Content-Length Header'),
    ('a Content-Length and a body in a 204', '/no-content', no_content, 'RFC 9110, sections 8.6 and 15.3.5'),
    ('a body in a 304', '/not-modified', no_body, 'RFC 9110, section 15.4.5'),
]


def keeps_to(method, path, broken, section):
    """A question: whether the reply is one that the server may send, whatever the application does."""
    def ask(server):
        complaint = broken(fetch(server, request(method, path)))
        return complaint and f'{complaint} ({section})'
    return ask


@started_with(apps=PROBES, judges_ends=True)
def promises(server, tell=tell_nobody):
    """checks what its application promises"""
    questions = {name: keeps_to('GET', *rest) for name, *rest in PROMISES}
    questions[HEAD] = keeps_to('HEAD', '/closable', no_body, 'RFC 9110, section 9.3.2')
    return go_through(server, questions, f'{len(questions)} broken promises do not reach the client', tell)


EXPERIMENTS = [hello, environ, whole_request, whole_response, validator, binary_body,
               outlives, refuses, promises]
