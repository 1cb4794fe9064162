"""The experiments of part 2: what a WSGI server tells its application, and sends for it.

Like those of part 3, they are given a running server; it runs the application named in `apps`.
"""
import email.utils
import json
import os
import signal
import time

from laboratory.experiments.apps.wsgi_probes import ALL_BYTES
from laboratory.experiments.verdicts import BUG, HOLDS, Verdict, started_with, tell_nobody
from laboratory.instruments import kernel
from laboratory.instruments.client import connect, fetch, get, read_reply, readable, request, reset, status_of

PROBES = ['wsgi_probes:app']


def survives(server):
    """Whether the server answers one more client."""
    return get(server, '/').status == 200


def verdict(wrong, right):
    """Bug, with all that is wrong; or holds, with what is right."""
    return Verdict(BUG, f'wrong: {", ".join(wrong)}') if wrong else Verdict(HOLDS, right)


@started_with(apps=['wsgiapp:app', 'flaskapp:app', 'pyramidapp:app', 'djangoapp:app'])
def hello(server, tell=tell_nobody):
    """hello from bare WSGI, Flask, Pyramid, Django"""
    response = get(server, '/hello')
    if response.status == 200 and response.body.startswith(b'Hello world from '):
        return Verdict(HOLDS, response.body.decode().strip())
    return Verdict(BUG, f'no hello: {response.status!r}')


@started_with(apps=PROBES)
def environ(server, tell=tell_nobody):
    """query string, headers, path decoding"""
    response = get(server, '/caf%C3%A9%20x?a=1&b=%20', 'X-Probe: one', 'X-Probe: two')
    seen = json.loads(response.body or '{}')
    due = {
        'PATH_INFO': '/caf\xc3\xa9 x', 'QUERY_STRING': 'a=1&b=%20', 'SCRIPT_NAME': '',
        'HTTP_X_PROBE': 'one, two', 'HTTP_HOST': 'localhost',
        'SERVER_PROTOCOL': 'HTTP/1.1', 'REMOTE_ADDR': '127.0.0.1',
    }
    wrong = [name for name, value in due.items() if seen.get(name) != value]
    return verdict(wrong, f'{len(due)} variables of the environ are right')


@started_with(apps=PROBES)
def whole_request(server, tell=tell_nobody):
    """body, requests over 1 KiB"""
    body = ALL_BYTES * 16
    data = request('POST', '/body', 'X-Padding: ' + 'x' * 2000, body=body)
    response = fetch(server, data[:1500], data[1500:3000], data[3000:])
    wrong = [] if response.body == body else [f'{len(response.body)} bytes of body for {len(body)}']
    return verdict(wrong, f'{len(data)} bytes of request are read, in three pieces')


def streams(server):
    """whether bytes arrive before the application has made all of them"""
    with connect(server) as client:
        client.sendall(request('GET', '/stop'))
        try:
            server.wait_until(lambda: kernel.status(server.pid) == 'stopped')
            early = readable(client)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        reply = read_reply(client, server)
    return early and reply.body == b'before, after'


def has_true_date(server):
    dates = [email.utils.parsedate_tz(value) for value in get(server, '/').values('Date')]
    return len(dates) == 1 and dates[0] and abs(email.utils.mktime_tz(dates[0]) - time.time()) < 60


def keeps_own_headers(server):
    response = get(server, '/own-headers')
    dates, servers = response.values('Date'), response.values('Server')
    return (dates, servers) == (['Thu, 01 Jan 1970 00:00:00 GMT'], ['a probe'])


def closes(server):
    get(server, '/closable')
    return get(server, '/closed').body == b'1'


def sends_headers_late(server):
    return get(server, '/change-before').status == 500


def raises_again(server):
    return get(server, '/change-after').body == b'sent, raised again'


def writes(server):
    return get(server, '/write').body == b'written, returned'


RESPONSE_RULES = {
    'streaming': streams,
    'Date': has_true_date,
    'Date and Server of the application': keeps_own_headers,
    'close()': closes,
    'exc_info before the headers': sends_headers_late,
    'exc_info after the headers': raises_again,
    'write()': writes,
}


@started_with(apps=PROBES)
def whole_response(server, tell=tell_nobody):
    """write(), exc_info, close(), streaming, Date"""
    wrong = [name for name, keeps in RESPONSE_RULES.items() if not keeps(server)]
    return verdict(wrong, f'{len(RESPONSE_RULES)} rules of PEP 3333 are kept')


@started_with(apps=['wsgi_probes:checked'])
def validator(server, tell=tell_nobody):
    """wsgiref.validate is content"""
    for data in request('GET', '/'), request('POST', '/', 'Content-Type: text/plain', body=b'x'):
        response = fetch(server, data)
        if response.status != 200:
            complaint = response.body.decode() or 'the server ends'
            return Verdict(BUG, f'wsgiref.validate complains: {complaint}')
    return Verdict(HOLDS, 'wsgiref.validate lets GET and POST pass')


@started_with(apps=PROBES)
def binary_body(server, tell=tell_nobody):
    """binary body intact"""
    wrong = [] if get(server, '/binary').body == ALL_BYTES else ['the bytes are not the same']
    return verdict(wrong, 'all 256 bytes arrive as they are')


def reset_while_asking(server):
    client = connect(server)
    client.sendall(b'GET / HTT')
    server.let_rest()
    reset(client)


def reset_while_silent(server):
    client = connect(server)
    server.let_rest()
    reset(client)


def reset_while_reading(server):
    client = connect(server)
    client.sendall(request('GET', '/large'))
    server.wait_until(lambda: readable(client))
    reset(client)


def reset_after_an_error(server):
    client = connect(server)
    client.sendall(b'mick\r\n\r\n')
    server.wait_until(lambda: readable(client))
    reset(client)


@started_with(apps=PROBES)
def bad_requests(server, tell=tell_nobody):
    """survives empty, malformed, oversized requests, resets, an app that raises"""
    for name, data, status in BAD_REQUESTS:
        got = status_of(server, data)
        if got != status:
            return Verdict(BUG, f'{name}: {got or "no status"} instead of {status or "none"}')
        if not survives(server):
            return Verdict(BUG, f'{name}: the server does not answer the next client')
    for hang_up in RESETS:
        hang_up(server)
        if not survives(server):
            return Verdict(BUG, f'{hang_up.__name__}: the server does not answer the next client')
    return Verdict(HOLDS, f'{len(BAD_REQUESTS)} bad requests and {len(RESETS)} resets are survived')


RESETS = [reset_while_silent, reset_while_asking, reset_while_reading, reset_after_an_error]
LENGTH = 'Content-Length: '
BAD_REQUESTS = [  # what it is, its bytes, the status that is due (0 for none)
    ('an empty connection', b'', 0),
    ('a malformed request line', b'mick\r\n\r\n', 400),
    ('a request that stops short', b'GET / HTTP/1.1\r\nHost: x\r\n', 400),
    ('a header without a colon', request('GET', '/', 'mick'), 400),
    ('a folded header', request('GET', '/', 'X-Probe: one', ' two'), 400),
    ('no Host', b'GET / HTTP/1.1\r\n\r\n', 400),
    ('two Hosts', request('GET', '/', 'Host: other'), 400),
    ('a Host with a space', b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400),
    ('a control character in the target', request('GET', '/\x7f'), 400),
    ('a control character in a header', request('GET', '/', 'X-Probe: \x7f'), 400),
    ('lines without carriage returns', b'GET / HTTP/1.1\nHost: x\n\n', 200),
    ('an expectation of HTTP/1.0', b'POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n', 200),
    ('a target without a slash', request('GET', 'mick'), 400),
    ('an empty line in front', b'\r\n' + request('GET', '/'), 200),
    ('HTTP/1.0 without Host', b'GET / HTTP/1.0\r\n\r\n', 200),
    ('a version of the future', b'GET / HTTP/9.1\r\nHost: x\r\n\r\n', 505),
    ('a negative Content-Length', request('POST', '/', LENGTH + '-1'), 400),
    ('a Content-Length in words', request('POST', '/', LENGTH + 'ten'), 400),
    ('two Content-Lengths', request('POST', '/', LENGTH + '1', LENGTH + '2') + b'xx', 400),
    ('a body that stops short', request('POST', '/', LENGTH + '9') + b'x', 400),
    ('a Transfer-Encoding', request('POST', '/', 'Transfer-Encoding: chunked') + b'0\r\n\r\n', 501),
    ('a long request line', request('GET', '/' + 'x' * 100_000), 414),
    ('a large head', request('GET', '/', *['X-Padding: ' + 'x' * 1000] * 100), 431),
    ('a large body', request('POST', '/', LENGTH + '9' * 5000) + b'x' * 100_000, 413),
    ('an app that raises', request('GET', '/raise-before'), 500),
    ('an app that raises late', request('GET', '/raise-after'), 200),
    ('an app that is cancelled', request('GET', '/cancelled'), 500),
    ('an app that calls exit', request('GET', '/exit'), 500),
    ('an app that is refused a connection', request('GET', '/refused'), 500),
    ('an app that breaks a header', request('GET', '/break-header'), 500),
    ('an app that breaks the status', request('GET', '/break-status'), 500),
    ('an app that keeps the connection', request('GET', '/keep-alive'), 500),
    ('an app that does not start', request('GET', '/no-start'), 500),
    ('an app that starts twice', request('GET', '/start-twice'), 500),
]

EXPERIMENTS = [hello, environ, whole_request, whole_response, validator, binary_body, bad_requests]
