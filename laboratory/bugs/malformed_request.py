"""refuses malformed requests"""
import re
from functools import partial

from laboratory.instruments.client import OPEN, request
from laboratory.instruments.experiment import Case, about, its_own_end
from laboratory.instruments.wsgi import CHUNKED, LENGTH, PROBES, as_typed, go_through, replies


def refused(reply):
    return reply.status >= 400 or not reply.status and reply.end != OPEN


def gives(body, reply):
    return reply.status == 200 and re.fullmatch(body, reply.body)


HELLO, ONE_TWO, NOTHING = (f'{body!r}, or an error' for body in (b'hello', b'one two', b''))
DUE = {  # in words, and whether a reply is that
    '400': lambda reply: reply.status == 400,
    'an error': refused,
    '200': lambda reply: reply.status == 200,
    "b'hello'": lambda reply: gives(b'hello', reply),
    HELLO: lambda reply: gives(b'hello', reply) or refused(reply),
    ONE_TWO: lambda reply: gives(b'one +two', reply) or refused(reply),
    NOTHING: lambda reply: gives(b'', reply) or refused(reply),
}
CHUNKS = b'5\r\nhello\r\n0\r\n\r\n'
post = partial(request, 'POST', '/body')
MALFORMED = [  # what it is, its bytes, what is due, and by which section of an RFC
    ('a request line of one word', b'mick\r\n\r\n', 'an error', 9112, '3'),
    ('no Host', b'GET / HTTP/1.1\r\n\r\n', '400', 9112, '3.2'),
    ('two Hosts', request('GET', '/', 'Host: other'), '400', 9112, '3.2'),
    ('a Host with a space', b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', '400', 9112, '3.2'),
    ('a space before a colon', request('GET', '/', 'X-Probe : x'), '400', 9112, '5.1'),
    ('a NUL in a header', request('GET', '/header', 'X-Probe: one\0two'), ONE_TWO, 9110, '5.5'),
    ('a CR in a header', request('GET', '/header', 'X-Probe: one\rtwo'), ONE_TWO, 9112, '2.2'),
    ('a folded header', request('GET', '/header', 'X-Probe: one', ' two'), ONE_TWO, 9112, '5.2'),
    ('a first header that is indented', b'GET /header HTTP/1.1\r\n X-Probe: x\r\nHost: x\r\n\r\n', NOTHING,
     9112, '2.2'),
    ('a Content-Length in words', request('POST', '/', LENGTH + 'ten'), '400', 9112, '6.3'),
    ('a negative Content-Length', request('POST', '/', LENGTH + '-1'), '400', 9112, '6.3'),
    ('a Content-Length with a sign', request('POST', '/', LENGTH + '+1') + b'x', '400', 9112, '6.3'),
    ('a Content-Length with an underscore', request('POST', '/', LENGTH + '1_0') + b'x' * 10, '400',
     9112, '6.3'),
    ('two Content-Lengths', request('POST', '/', LENGTH + '1', LENGTH + '2') + b'xx', '400', 9112, '6.3'),
    ('a chunked body', post(CHUNKED) + CHUNKS, HELLO, 9112, '6.3'),
    ('a chunked body with a Content-Length', post(LENGTH + '4', CHUNKED) + CHUNKS, HELLO, 9112, '6.3'),
    ('a chunk without a size', post(CHUNKED) + b'mick\r\n\r\n0\r\n\r\n', 'an error', 9112, '7.1'),
    ('a body that is coded, but not chunked', post('Transfer-Encoding: gzip') + b'x', 'an error',
     9112, '6.3'),
]
WELL_FORMED = [  # the same for what a server must not refuse
    ('a host in lower case', b'GET / HTTP/1.1\r\nhost: localhost\r\n\r\n', '200', 9110, '5.1'),
    ('HTTP/1.0 without a Host', b'GET / HTTP/1.0\r\n\r\n', '200', 9112, '3.2'),
    ('a content-length in lower case', post(LENGTH.lower() + '5') + b'hello', "b'hello'", 9110, '5.1'),
    ('a transfer-encoding in lower case', post(CHUNKED.lower()) + CHUNKS, HELLO, 9110, '5.1'),
]


def must_get(data, due, rfc, section):
    """What complains if the reply to these bytes is not what is due."""
    instead = f'instead of {due} (RFC {rfc}, section {section})'
    return replies(data, lambda reply: '' if DUE[due](reply) else f'{reply} {instead}')


def experiment(server, step):
    requests = {name: must_get(*row) for name, *row in MALFORMED + WELL_FORMED}
    right = f'{len(requests)} requests, malformed or not, get what the RFCs allow'
    return go_through(server, step, requests, right)


SHOWS = {
    'no Host': 'HTTP/1.1 200 OK', 'a NUL in a header': 'HTTP/1.1 200 OK',
    'a Content-Length in words': 'ValueError: invalid literal',
    'a chunked body': r'\AHTTP/1.1 200(?!(?s:.*)\nhello)',
}
CASES = {
    **{name: Case(
        'accepts malformed requests', as_typed(data), SHOWS.get(name, ''),
        'You see 200, or no answer, where only an error or the right body is allowed: you split the lines, '
        'and take what comes. Match each line against the grammar, and answer 400.',
        """
        You see a request, what it got, and the section of the RFC that says otherwise. To send it by hand:
        {see}
        Why does your code not notice? It looks for what it needs, and for nothing else.

        Say what a good line looks like, and refuse every other line, before you call the application. Also
        refuse a request that could be read in two ways, such as one with two lengths: do not choose.

        In parse_request(), use re.fullmatch() for the request line and for each header line: NAME:VALUE,
        without control characters. Host has to be one host, and Content-Length [0-9]+. If a line does not
        match, raise an error of your own, and answer with 400 where you catch it.""")
       for name, data, *_ in MALFORMED},
    **{name: Case(
        'refuses well-formed requests', as_typed(data), '',
        'You see an error where the RFCs allow none, or no hello.',
        """
        This request is well-formed. To send it by hand:
        {see}
        Which of your checks refuses it?

        The name of a header means the same in capitals and in small letters. HTTP/1.0 knows no Host.

        In parse_request(), use name.lower() as the key of a header, and require 'host' only in HTTP/1.1.""")
       for name, data, *_ in WELL_FORMED},
}
BUG = about(
    globals(), apps=PROBES, when_ended=its_own_end,
    witness='no Host: 200 instead of 400 (RFC 9112, section 3.2)',
    predict='A request has no Host header, although HTTP/1.1 requires it. What is the status of the reply?',
    why='a server that looks only for what it needs takes all the rest. One that checks each line does not.')
