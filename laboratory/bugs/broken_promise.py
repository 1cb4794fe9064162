"""checks what its application promises"""
from laboratory.instruments.client import OPEN, request
from laboratory.instruments.experiment import Case, about, its_own_end
from laboratory.instruments.wsgi import PROBES, as_typed, go_through, replies


def without(word):
    """A rule for what must not be sent."""
    return lambda reply: f'{word!r} is sent' if word in reply.data else ''


def no_success(reply):
    return f'{reply} instead of 500' if 0 < reply.status < 400 else ''


def no_body(reply):
    return f'{reply.extra[:20]!r} is sent after the headers' if reply.extra else ''


def no_more_than_3(reply):
    return f'{reply.extra!r} is sent after the 3 bytes' if reply.extra else ''


def no_content(reply):
    sent = [name for name in ('Content-Length', 'Transfer-Encoding') if reply.values(name)]
    return ' and '.join(sent) + ' is sent' if sent and reply.status == 204 else no_body(reply)


def visibly_incomplete(reply):
    if not 0 < reply.status < 400:
        return ''
    if reply.complete:
        return f'3 of 11 bytes look complete: {reply}'
    return 'the client waits for the rest, and nothing ends the connection' if reply.end == OPEN else ''


def not_kept(reply):
    sent = reply.status < 400 and 'keep-alive' in ', '.join(reply.values('Connection')).lower()
    return "'keep-alive' is sent" if sent else ''


LENGTH_RULE = 'PEP 3333, Handling the Content-Length Header'
PROMISES = [  # what the application does, for which request, what is wrong with the reply, by which section
    ('a header with a line break', 'GET /break-header', without(b'\nX-Smuggled'), 'RFC 9110, section 5.5'),
    ('a status with a line break', 'GET /break-status', without(b'\nX-Smuggled'), 'RFC 9112, section 4'),
    ('a status with an ESC', 'GET /escape-status', without(b'\x1b'), 'RFC 9112, section 4'),
    ('a header with a NUL', 'GET /nul-header', without(b'one\0'), 'RFC 9110, section 5.5'),
    ('a header that is bytes', 'GET /bytes-header', without(b"b'one'"), 'PEP 3333, A Note On String Types'),
    ('a header name with a space', 'GET /space-name', without(b'X Break:'), 'RFC 9110, section 5.1'),
    ('a header name with a colon', 'GET /colon-name', without(b'X-Break: one'), 'RFC 9110, section 5.1'),
    ('Connection: keep-alive', 'GET /keep-alive', not_kept, 'PEP 3333, Other HTTP Features'),
    ('Transfer-Encoding: chunked', 'GET /own-chunks', lambda reply: reply.problem,
     'PEP 3333, Other HTTP Features'),
    ('no start_response()', 'GET /no-start', no_success, 'PEP 3333, The start_response() Callable'),
    ('start_response() twice', 'GET /start-twice', no_success, 'PEP 3333, The start_response() Callable'),
    ('more than its Content-Length', 'GET /too-much', no_more_than_3, LENGTH_RULE),
    ('less than its Content-Length', 'GET /too-little', visibly_incomplete, LENGTH_RULE),
    ('a Content-Length and a body in a 204', 'GET /no-content', no_content,
     'RFC 9110, sections 8.6 and 15.3.5'),
    ('a body in a 304', 'GET /not-modified', no_body, 'RFC 9110, section 15.4.5'),
    ('a body for HEAD', 'HEAD /closable', no_body, 'RFC 9110, section 9.3.2'),
]


def must_not(line, wrong_with, section):
    """What complains if the reply is one that no server may send, whatever the application does."""
    def complains(reply):
        complaint = wrong_with(reply)
        return complaint and f'{complaint} ({section})'
    return replies(request(*line.split()), complains)


def experiment(server, step):
    requests = {name: must_not(*row) for name, *row in PROMISES}
    return go_through(server, step, requests, f'{len(requests)} broken promises do not reach the client')


SHOWS = {
    'a header with a line break': '(?m)^X-Smuggled: two', 'a status with an ESC': 'HTTP/1.1 200 O\x1bK',
    'more than its Content-Length': 'eleven byte', 'a body for HEAD': 'to be closed',
}
CASES = {
    name: Case(
        'sends what an application must not send', as_typed(request(*line.split())), SHOWS.get(name, ''),
        'You see what the application must not send, or a 200 where an error is due: you send the headers '
        'and the body as they come, and do not check them.',
        """
        The screen says what is wrong with the reply, and by which section. To see all of it:
        {see}
        Which part of it comes from the application? And what does your code do with that before it sends it?

        An application may pass on what its users type, so check it as you check a request. Send no malformed
        status or header, no more bytes than it has announced, and no body where none is allowed.

        In start_response(), before you set headers_set, check status, names and values: re.fullmatch(), and
        wsgiref.util.is_hop_by_hop() for names. If one is wrong, raise ValueError. Send no more of a body than
        its Content-Length says, and none for HEAD, 204, 205 and 304. A 204 has no Content-Length.""")
    for name, line, *_ in PROMISES
}
BUG = about(
    globals(), apps=PROBES, when_ended=its_own_end,
    witness="a header with a line break: b'\\nX-Smuggled' is sent (RFC 9110, section 5.5)",
    predict='An application sends a header whose value has a line break in it. What does the client see?',
    why='a line break ends a header, so what follows it is another one. The server checks before it sends.')
