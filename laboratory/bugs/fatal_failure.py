"""serves the next client, whatever fails"""
from laboratory.instruments import kernel, wsgi
from laboratory.instruments.client import connect, get, read_reply, request, reset, reset_after
from laboratory.instruments.experiment import Case, about, its_own_end
from laboratory.instruments.wsgi import LENGTH, PROBES, as_typed, closed_after, go_through, replies, survives


def gone_before(data):
    """What sends these bytes, and resets before the server reads them."""
    def hang_up(server):
        pids = server.processes()
        kernel.suspend(pids)
        client = connect(server)
        client.sendall(data)
        reset(client)
        kernel.resume(pids)
        server.let_rest()
    return hang_up


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


def must_close(happens):
    """What complains if close() is not called for an application that is not asked to its end."""
    def complains(server):
        if not closed_after(server, lambda: happens(server)) and not server.has_ended():
            return 'it is not called (PEP 3333, Specification Details)'
    return complains


def exits(server):
    get(server, '/exit')
    server.comes_to(server.has_ended, 1)  # it may end its threads first


BYTES = {  # to which any answer is right
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
}
RESETS = {'a reset while silent': b'', 'a reset while asking': b'GET / HTT',
          'a reset while reading': request('GET', '/large'), 'a reset after an error': b'mick\r\n\r\n'}
GONE = {'a client that has gone before its reply': request('GET', '/'),
        'a client that has gone before an error reply': b'mick\r\n\r\n'}
PATHS = {'an app that raises': '/raise-before', 'an app that raises halfway': '/raise-after',
         'an app that is cancelled': '/cancelled', 'an app that is refused a connection': '/refused',
         'an app that calls exit': '/exit'}
FAILURES = {
    **{name: replies(data) for name, data in BYTES.items()},
    **{name: reset_after(data) for name, data in RESETS.items()},
    **{name: gone_before(data) for name, data in GONE.items()},
    'a client that is silent after its reply': silent_after_its_reply,
    **{name: replies(request('GET', path)) for name, path in PATHS.items()},
    'an app that raises halfway': fails_half_way,
    'close() of an app that raises halfway': must_close(lambda server: get(server, '/raise-after')),
    'close() when a client has gone': must_close(reset_after(request('GET', '/large-closable'))),
    'an app that calls exit': exits,
}


def experiment(server, step):
    return go_through(server, step, FAILURES, f'it survives {len(FAILURES)} failures')


SEE = {
    **{name: as_typed(data) for name, data in BYTES.items()},
    'a TLS handshake': 'curl -s -m 2 https://localhost:8888',
    'a Content-Length of 5000 digits':
        'curl -s -m 2 -H "Content-Length: $(printf %05000d | tr 0 9)" -d x localhost:8888/body',
    'a long request line': 'curl -so /dev/null -m 2 localhost:8888/$(printf %0100000d)',
    'a large head': "printf 'X-Padding: %01000d\\n' $(seq 100) | curl -s -m 2 -H @- localhost:8888 | wc",
    **{name: wsgi.leaving_as_typed(data, is_reset=True, seconds=1) for name, data in RESETS.items()},
    **{name: f'pids={{pids}}; kill -STOP $pids; {wsgi.leaving_as_typed(data, is_reset=True, seconds=1)}; '
             'kill -CONT $pids; sleep 1' for name, data in GONE.items()},
    'a client that is silent after its reply':
        "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 9) | curl -s telnet://localhost:8888 & sleep 1",
    **{name: f'curl -s -m 2 localhost:8888{path}; echo "exit status $?"' for name, path in PATHS.items()},
    'close() of an app that raises halfway': 'curl -s -m 2 localhost:8888/raise-after',
    'close() when a client has gone': 'curl -s -m 2 localhost:8888/large-closable | head -c 9',
}
SHOWS = {'an app that raises halfway': 'exit status 0', **dict.fromkeys(
    ['an empty connection', 'bytes that are not text', *GONE, 'an app that raises', 'an app that calls exit'],
    r'curl: \((7|52|56)\)')}  # at a stage that ends of it
CLOSES = 'close() of an app that raises halfway', 'close() when a client has gone'
TOLD = {
    **dict.fromkeys(FAILURES, (
        'dies or hangs when a client or the application fails',
        'You see no answer to the last client: a failure has ended or blocks your server. Catch it in the '
        'one place where you handle a request.')),
    **dict.fromkeys(GONE, (
        'dies when it sends to a client that has reset',
        'You see no answer to the last client: sending to the one before fails, with BrokenPipeError or '
        'ConnectionResetError. Expect that, also where you send an error.')),
    'a client that is silent after its reply': (
        'waits for a client that has its reply',
        'You see curl time out: once you have sent a reply, give its client only a moment to close.'),
    'an app that raises halfway': (
        'sends half a body as if it were complete',
        'You see exit status 0: FIN is how a body without Content-Length ends, so end it with a reset.'),
    **dict.fromkeys(CLOSES, (
        'does not call close() of an application that is not asked to its end',
        'You see no "close() was called" of your server: call close() in a finally around the loop over what '
        'the application returns.')),
}
HINTS = """
    The screen says what failed, and the traceback says where. To see it by hand:
    {see}
    Does your server still answer the last client? Fix that and save, and you see the next failure.

    An error that nobody catches ends the process. Catch it where you handle one request, close the connection
    and go on. If the application fails, the client gets a 500, or a reset if its response has begun.

    In handle_one_request(), put a try around everything. Catch BaseException, which includes SystemExit,
    and let KeyboardInterrupt through. Print the traceback and answer 500, which may fail too. Close in a
    finally. Call settimeout() after accept(). For a reset, set SO_LINGER to 0 seconds: socket(7)."""
CASES = {name: Case(yours, f'{SEE[name]}; curl -i -m 2 localhost:8888', SHOWS.get(name, ''), look_for, HINTS)
         for name, (yours, look_for) in TOLD.items()}
BUG = about(
    globals(), apps=PROBES, when_ended=its_own_end,
    witness='an empty connection: the server ends',
    predict='A client connects and leaves without a word. Is the next one answered?',
    why='an error that nobody catches ends the process. One that is caught ends only a request.')
