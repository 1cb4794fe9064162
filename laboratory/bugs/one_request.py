"""answers the next request on the same connection"""
from laboratory.instruments import process, views, wsgi
from laboratory.instruments.apps.wsgi_probes import ALL_BYTES
from laboratory.instruments.client import GET, KEPT, OPEN, asking, closes, connect, read_next, readable, send
from laboratory.instruments.experiment import Case, about, bug

FIRST_REQUESTS = {  # what may come before another request on the same connection
    'a GET': KEPT,
    'a body': asking('POST', '/body', body=b'x' * 10_000),
    'a HEAD': asking('HEAD', '/binary'),
    'a 304': asking('GET', '/not-modified'),
    'a 205': asking('GET', '/reset-content'),
    'a response of unknown length': asking('GET', '/write'),
    'a trailer': asking('POST', '/body', wsgi.CHUNKED) + b'1\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n',
}
AT_ONCE = 'two requests in one send'
LAST_REQUESTS = {
    'a client that asks to close': GET,
    'a client that asks to Close': GET.replace(b': close', b': Close'),
    'a client of HTTP/1.0': b'GET /binary HTTP/1.0\r\n\r\n',
}


def followed_by_another(first, at_once=False):
    """For go_through(): whether a request that follows this one on its connection gets its own reply."""
    def complains(server):
        with connect(server) as client:
            send(client, server, first + KEPT * at_once)
            one = read_next(client, server, method=first.partition(b' ')[0].decode())
            server.last_exchange = first, one
            if closes(one):
                return
            if not one.complete:
                return 'its reply never ends'
            if not at_once:
                send(client, server, KEPT)
            two = read_next(client, server, one.extra)
        came = one.data + (two.data or b'\r\n(no second answer)')
        server.last_exchange = first + KEPT, two._replace(data=came)
        if two.body != ALL_BYTES:
            return f'the next request gets {two}'
    return complains


def closed_after(data):
    """For go_through(): whether the connection ends after this request, as its client expects."""
    def complains(server):
        with connect(server) as client:
            client.sendall(data)
            reply = read_next(client, server)
            server.last_exchange = data, reply
            if reply.end == OPEN and not readable(client, process.A_WHILE):
                return 'the connection stays open (RFC 9112, section 9.6)'
    return complains


def experiment(server, step):
    wsgi.must_answer(server)
    with connect(server) as client:
        client.sendall(KEPT)
        reply = read_next(client, server)
        server.let_rest()
        is_closed = readable(client)  # before the look at all connections, which can take a while
        step('The first reply has come, and the client would like to send another request', views.connections)
        if is_closed:
            return bug('closes', 'the connection ends after the first reply')
        if closes(reply):
            return bug('closes', 'the first reply says Connection: close')
    requests = {case: followed_by_another(first) for case, first in FIRST_REQUESTS.items()}
    requests[AT_ONCE] = followed_by_another(KEPT, at_once=True)
    requests |= {case: closed_after(data) for case, data in LAST_REQUESTS.items()}
    return wsgi.go_through(server, step, requests, 'a second request is answered, whatever the first was')


def two_requests(server):
    """Two requests on one connection."""
    with connect(server) as client:
        for _ in range(2):
            server.let_rest()
            client.sendall(KEPT)
            read_next(client, server)
        server.let_rest()
    server.let_rest()


def two_as_typed(first):
    """The command that sends two requests; the page is one of text, for the sake of the terminal."""
    return wsgi.as_typed((first + KEPT).replace(b'/binary', b'/process'))


ONE_REPLY = r'(?s)\A(?!.*HTTP/1\.1 \d.*HTTP/1\.1 \d)'
CASES = {
    'closes': Case(
        'closes the connection after each reply',
        "curl -so /dev/null -o /dev/null -w '%{num_connects} new connection\\n' localhost:8888/a "
        'localhost:8888/b',
        '1 new connection\n1 new connection',
        'You see "1 new connection" for each page: say how long a reply is, and do not close.', """
        Be a client that has two requests:
        {see}
        Both should be answered on one connection. How does each side see where a request or a reply ends?

        If both say where their bodies end, the connection need not end there. Then wait for the next
        request. Its first bytes may have come with the previous one, so keep them. Close only if the client
        asks for it, after an error, or where the client could not see the end.

        In handle_client(), loop over handle_one_request(), with one buffer and one parse_requests(), which
        loops too. In response_head(): Content-Length if the body is one piece (0 for a 205), else chunks:
        b'%x\\r\\n%b\\r\\n' for each, then b'0\\r\\n\\r\\n'. HEAD, 204 and 304 have no body. RFC 9112."""),
    **{case: Case(
        'confuses the requests on one connection', two_as_typed(first), ONE_REPLY,
        'You see no second reply, or a wrong one: read exactly one request, and end each reply.')
        for case, first in {**FIRST_REQUESTS, 'a body': asking('POST', '/body', body=b'a body')}.items()},
    AT_ONCE: Case(
        'loses a request that comes with the one before', two_as_typed(KEPT), ONE_REPLY,
        'You see one reply: your recv() has got the bytes of both requests, and you lose the second.', """
        Send two requests at once:
        {see}
        You see one reply. Your recv() has got the bytes of both requests: where are those of the second?

        What a recv() gives you may be the end of one request and the beginning of the next.

        Make the buffer and the parser once for each connection, in handle_client(). Take from the buffer
        what belongs to this request, and leave the rest of it for the next one."""),
    **{case: Case(
        'keeps a connection that its client wants to end', two_as_typed(data), '',
        'You see two replies: close after the first if the client says so, or speaks HTTP/1.0.', """
        Send a request that is the last one of its client, and another one behind it:
        {see}
        You see two replies. Who could know that the first request is the last one?

        A client can say that this request is its last one, in the header Connection, in large letters or
        small. A client of HTTP/1.0 says the opposite if it wants to go on.

        Split the value of Connection at the commas, and compare strip().lower() of each with 'close'. With
        HTTP/1.0, close unless there is 'keep-alive'. Reply with Connection: close. See RFC 9112, 9.3.""")
        for case, data in LAST_REQUESTS.items()},
}
BUG = about(
    globals(), apps=wsgi.PROBES, scene=two_requests,
    witness='the connection ends after the first reply',
    predict='A client has its reply, and sends a second request on the same connection. Is it answered?',
    why='a reply that says how long it is need not end with the connection. So the next request can follow.')
