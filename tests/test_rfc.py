"""What HTTP and WSGI ask of a server: RFC 9110, 9112 and 3986, and PEP 3333, a row for each rule."""
import sys

import pytest

from laboratory.instruments.client import FIN, OPEN, RST, Reading, asking, fetch, request
from laboratory.instruments.wsgi import CHUNKED
from tests.helpers import GET, MODULES, ends, names

CHUNKING = list(MODULES)[1:]
REFUSING = [*ends(names('part2')[4:]), 'part4-v1.0']


def line(target, method='GET', version='HTTP/1.1', host='x'):
    return f'{method} {target} {version}\r\nHost: {host}\r\n\r\n'.encode('latin-1')


def with_lines(*lines, body=b'', version='HTTP/1.1', method='POST'):
    """A request with these header lines."""
    return request(method, '/', *lines).replace(b'HTTP/1.1', version.encode()) + body


def lengths(*values):
    return with_lines(*(f'Content-Length: {value}' for value in values), body=b'hello')


def expecting(*values, **others):
    return with_lines('Content-Length: 5', *(f'Expect: {value}' for value in values), **others)


def coded(*values, body=b'0\r\n\r\n', **others):
    return with_lines(*(f'Transfer-Encoding: {value}' for value in values), body=body, **others)


def chunks(body):
    return coded('chunked', body=body)


LINES = ['X-Padding: ' + 'x' * 1000] * 100
EXTENSIONS = [b'1;%b\r\nx\r\n' % (b'e' * 7000)] * 3
REQUESTS = [  # the section, the status, and requests that get it
    ('9112 2.2', 200, [b'\r\n' + GET, b'GET / HTTP/1.1\nHost: x\n\n']),
    ('9112 2.2', 400, [b'\r' + GET, with_lines('X: x\ry'), b'GET / HTTP/1.1\r\n X: x\r\nHost: x\r\n\r\n']),
    ('9112 2.3', 200, [line('/', version='HTTP/1.9')]),
    ('9110 15.6.6', 505, [line('/', version='HTTP/9.1'), line('/', 'HEAD', 'HTTP/2.0')]),
    ('9112 3', 400, [b'mick\r\n\r\n', b'GET /\r\n\r\n', b'\x0b' + GET, b' ' + GET, line(' /'),
                     line('/', 'G(T')]),
    ('9112 3', 200, [line('/', 'MICK'), line('/', 'X' * 5000), line('/' + 'x' * 7000)]),
    ('9112 3', 501, [b'X' * 20_000]),
    ('9112 3', 414, [line('/' + 'x' * 9000), b'GET /' + b'x' * 100_000, line('/' + 'x' * 20_000, 'HEAD')]),
    ('3986 3.3', 400, [line('/' + text) for text in '"#<>\\^`{|}\x7f\xe9']),
    ('3986 3.3', 200, [line(text) for text in ("/-._~!$&'()*+,;=:@%41?/?", '//', '/?a[0]=1', '/http://x/')]),
    ('9112 3.2', 400, [line(text) for text in ('mick', '*', 'x:80', 'ftp://x/')]),
    ('9112 3.2.2', 200, [line(text) for text in ('http://y:80/', 'HTTP://y?x', 'http://[::1]')]),
    ('9110 4.2', 400, [line(text) for text in (
        'http:///', 'http://:80/', 'http://u:p@x/', 'http://a%zz/', 'http://[1]/', 'http://x:y/')]),
    ('9110 9.3.6', 501, [line(text, 'CONNECT') for text in ('/', '*', 'x:80', '[::1]:80', 'http://x/')]),
    ('9110 9.3.7', 200, [line('*', 'OPTIONS')]),
    ('9112 3.2', 400, [b'GET / HTTP/1.1\r\n\r\n', b'HEAD / HTTP/1.1\r\n\r\n', with_lines('Host: localhost'),
                       line('http://y/', host='a b')]),
    ('9112 3.2', 200, [b'GET / HTTP/1.0\r\n\r\n', line('/', host='')]),
    ('3986 3.2.2', 400, [line('/', host=text) for text in (
        'a b', 'u@x', 'a:b:c', '<script>', 'x:99z', 'a"b', 'x\\y', 'x/', 'a%zz', 'a%4', ':80', '[::1', '[1]',
        '[]', '[:::]', '[1::2::3]', '[12345::]', '[::1.2.3.256]', '[::1%25eth0]', '[v1]', '[::1]x', '\xe9')]),
    ('3986 3.2.2', 200, [line('/', host=text) for text in (
        'localhost:8888', 'a_b.example', 'x:', "a'b", 'a%41', '1.2.3.999', '[::1]:8888', '[::ffff:1.2.3.4]',
        '[1:2:3:4:5:6:7:8]', '[v1.a:b]', '[vF.1]:80')]),
    ('9112 5', 400, [with_lines(text) for text in ('mick', ': x', 'X : x', 'X: one\r\n two')]),
    ('9110 5.1', 200, [with_lines('CONTENT-LENGTH: 5', body=b'hello')]),
    ('9110 5.5', 400, [with_lines(f'X: a{byte}b') for byte in '\0\x07\x0b\x7f']),
    ('9110 5.5', 200, [with_lines('X: \xe9\x85')]),
    ('6585 5', 431, [with_lines(*LINES), with_lines(*LINES, method='HEAD')]),
    ('9112 6.3', 400, [lengths(text) for text in ('', 'x', '-1', '+1', '1_0', '1, 1', '0x1', '1.0', '\xb2')]),
    ('9112 6.3', 400, [lengths('1', '1'), *[coded(value) for value in (
        '', 'gzip', 'chunked, gzip', 'xchunked', '\x85chunked', 'chunked;q=1')]]),
    ('9112 6.1', 501, [coded('gzip, chunked')]),
    ('9110 8.6', 200, [lengths('0' * 5000 + '5')]),
    ('9110 15.5.14', 413, [lengths('9' * 5000)]),
    ('9110 10.1.1', 100, [expecting('100-CONTINUE'), expecting('100-continue', '100-continue'),
                          expecting(', 100-continue ,')]),
    ('9110 10.1.1', 417, [expecting('mick'), expecting('100-continue, mick')]),
    ('9110 10.1.1', 200, [expecting('', body=b'hello'),
                          expecting('100-continue', body=b'hello', version='HTTP/1.0')]),
]
CHUNKED_REQUESTS = [  # the same where chunked bodies are read; 0 where no answer is due yet
    ('9112 7', 200, [coded('Chunked'), coded(',chunked , ,'), coded('', 'chunked')]),
    ('9112 6.1', 400, [coded('chunked', 'chunked'), coded('chunked', version='HTTP/1.0'),
                       with_lines(CHUNKED, 'Content-Length: 5', body=b'0\r\n\r\n')]),
    ('9112 7.1', 200, [chunks(b'0' * 5000 + b'1\r\nx\r\n' + b'0' * 5000 + b'\r\n\r\n')]),
    ('9112 7.1', 400, [chunks(size + b'\r\nx\r\n0\r\n\r\n')
                       for size in (b'', b'g', b'+1', b'0x1', b'1 ', b' 1', b'-1', b'1_0', b'0' * 20_000)]),
    ('9112 7.1', 413, [chunks(b'f' * 50 + b'\r\n')]),
    ('9112 7.1', 400, [chunks(body) for body in (
        b'1\nx\r\n0\r\n\r\n', b'1\r\nx\n0\r\n\r\n', b'1\r\nxyz0\r\n\r\n', b'0\r\n\n')]),
    ('9112 7.1', 0, [chunks(b'0\r\n')]),
    ('9112 7.1.1', 200, [chunks(b''.join([*EXTENSIONS[:2], b'0 ;a="b"\r\n\r\n']))]),
    ('9112 7.1.1', 400, [chunks(b''.join(EXTENSIONS))]),
    ('9112 7.1.2', 200, [chunks(b'0\r\nX: x\r\nHost: y\r\n\r\n')]),
    ('9112 7.1.2', 400, [chunks(b'0\r\n' + lines + b'\r\n') for lines in (
        b'X: x\n', b'X : x\r\n', b'X: x\ry\r\n', b'X: x\r\n' * 5000)]),
]


def flat(rows):
    return [(rule, data[:80], status, data) for rule, status, requests in rows for data in requests]


def status_in(protocol, data, size):
    """The status of what the protocol answers, if so many bytes come at a time."""
    buffer = bytearray()
    parser = protocol.parse_requests(buffer)
    try:
        for at in range(0, len(data), size):
            buffer += data[at:at + size]
            if step := next(parser):
                return 100 if step == protocol.CONTINUE else 200
    except protocol.RequestError as error:
        response = protocol.Response(None, send=None)
        response.method = error.method
        answer = response.error(*error.args)
        assert answer.endswith(b'\r\n\r\n') == data.startswith(b'HEAD')
        return int(answer[9:12])
    return 0


@pytest.mark.parametrize('size', [1, 100_000])
@pytest.mark.parametrize('version', MODULES)
def test_each_protocol_answers_every_request_as_the_rfcs_say(version, size):
    rows = flat(REQUESTS + (CHUNKED_REQUESTS if version in CHUNKING else []))
    found = [(rule, begin, status_in(MODULES[version], data, size)) for rule, begin, _, data in rows]
    assert found == [row[:3] for row in rows]


@pytest.mark.parametrize('stage', REFUSING)
def test_part_2_answers_every_request_as_the_rfcs_say(shared, stage):
    server, rows = shared(stage, 'wsgiapp:app'), flat(REQUESTS)
    replies = [fetch(server, data) for *_, data in rows]
    found = [(*row[:2], int(reply.data[9:12] or 0)) for row, reply in zip(rows, replies, strict=True)]
    assert found == [row[:3] for row in rows]
    extra = [row[1] for row, reply in zip(rows, replies, strict=True) if b'HEAD' in row[1] and reply.extra]
    assert (extra == []) == (stage != 'part2-v1.4')


def served(protocol, app, data=GET):
    """The Reply of an application to a request; its end is what a server would make of the connection."""
    read, sent = next(protocol.parse_requests(bytearray(data))), []
    response = protocol.Response(read, sent.append)
    try:
        for piece in response.finish_response(app(response.start_response)):
            sent.append(piece)
    except Exception:
        try:
            sent += [] if response.finished else [response.error('500 Internal Server Error', 'it failed')]
        except protocol.HangUp:
            response.keep_alive = None
    end = {True: OPEN, False: FIN, None: RST}[getattr(response, 'keep_alive', False)]
    reading = Reading(read.method)
    for piece in [*sent, *[b''] * (end == FIN)]:
        reading.take(piece)
    return reading.reply(end)


def answering(*pieces, headers=(), status='200 OK', way=list):
    """An application that sends these pieces: in a list, from an iterator, or with write()."""
    def app(start_response):
        write = start_response(status, [*headers])
        return way(pieces) if way != 'write()' else [write(piece) for piece in pieces][:0]
    return app


LENGTHS = [  # what is announced, the pieces that come, what a client gets of them; None if they are too few
    (3, [b'abc'], b'abc'), (3, [b'a', b'bc', b''], b'abc'), (3, [b'abcdef'], b'abc'), (0, [b'ab'], b''),
    (3, [b'ab', b'cd', b'ef'], b'abc'), (3, [b'', b''], None), (3, [b'a', b'b'], None)]


@pytest.mark.parametrize('way', [list, iter, 'write()'])
@pytest.mark.parametrize('version', MODULES)
def test_no_more_is_sent_than_announced_and_less_is_no_success(version, way):
    """PEP 3333, Handling the Content-Length Header; RFC 9112, section 8."""
    usable = OPEN if version in CHUNKING else FIN
    for length, pieces, body in LENGTHS:
        app = answering(*pieces, headers=[('Content-Length', str(length))], way=way)
        reply = served(MODULES[version], app, asking('GET', '/'))
        if body is not None:
            assert (reply.status, reply.body, reply.extra, reply.end) == (200, body, b'', usable), pieces
        elif way is list or way is iter and not any(pieces):  # nothing has been sent
            assert (reply.status, reply.complete, reply.end) == (500, True, usable), pieces
        else:
            assert (reply.complete, reply.end) == (False, RST), pieces


BROKEN = {  # by their section, applications that do not keep what they promise
    'PEP 3333': [answering(*body) for body in (['text'], ['x' * 100_000], [b'bytes', 'text'])],
    'PEP 3333, Other HTTP Features': [answering(headers=[header]) for header in (
        ('Connection', 'close'), ('Transfer-Encoding', 'gzip'), (b'X', 'x'), ('X', b'x'), ('X', '\u20ac'))],
    '9110 5.5': [answering(headers=[('X', value)]) for value in ('a\r\nY: b', 'a\nb', 'a\0', '\x7f')],
    '9110 5.1': [answering(headers=[(name, 'x')]) for name in ('', 'X Y', 'X:', 'X\r\n', '\xe9', 'X\x1b[2J')],
    '9110 8.6': [answering(headers=[('Content-Length', text)]) for text in ('', '-1', '+1', '1, 1', '\xb2')],
    '9112 4': [answering(status=status) for status in (
        'OK', '200', '2000 OK', '100 Continue', '200 O\x1bK', '200 OK\r\nX: y', '600 OK', b'200 OK')],
}


@pytest.mark.parametrize('version', MODULES)
def test_what_must_not_be_sent_is_a_500(version):
    for rule, apps in BROKEN.items():
        replies = [served(MODULES[version], app) for app in apps]
        assert [(reply.status, reply.body) for reply in replies] == [(500, b'it failed\n')] * len(apps), rule


@pytest.mark.parametrize('version', MODULES)
def test_headers_are_sent_as_they_were_when_they_were_given(version):
    def app(start_response, header=('X-One', 'one')):
        headers = [header := [*header]]
        start_response('200 OK', headers)
        headers.append(('X-Two', 'two'))
        header[1] += '\r\nX-Three: three'
        return []
    reply = served(MODULES[version], app)
    assert [name for name, _ in reply.headers if name.startswith('X-')] == ['X-One']


@pytest.mark.parametrize('version', MODULES)
def test_repeated_headers_are_one_list_and_cookies_one_line(version):
    """RFC 9110, section 5.3; RFC 9113, section 8.2.3."""
    data = with_lines('X-Probe: a', 'Cookie: a=1', 'X-PROBE: b', 'Cookie: b=2')
    headers = next(MODULES[version].parse_requests(bytearray(data))).headers
    assert (headers['x-probe'], headers['cookie']) == ('a, b', 'a=1; b=2')


@pytest.mark.parametrize('version', CHUNKING)
def test_a_list_has_its_length_and_only_a_stream_for_http_1_1_is_chunked(version):
    """RFC 9112, sections 6.1 and 6.3."""
    for data, way, due in [(GET, list, ['Content-Length']), (GET, iter, ['Transfer-Encoding']),
                           (line('/', version='HTTP/1.0'), iter, [])]:
        reply = served(MODULES[version], answering(b'a', b'b', way=way), data)
        sent = [name for name in ('Content-Length', 'Transfer-Encoding') if reply.values(name)]
        assert (sent, reply.complete, reply.body) == (due, True, b'ab')


def test_a_large_body_is_not_copied():
    body = b'x' * 1_000_000
    response = MODULES['part4-final'].Response(None, send=None)
    assert any(piece is body for piece in response.finish_response(answering(body)(response.start_response)))


@pytest.mark.parametrize('version', MODULES)
def test_an_application_can_complain_though_standard_error_is_closed(version, monkeypatch):
    protocol, address = MODULES[version], ('127.0.0.1', 8888)
    monkeypatch.setattr(sys, 'stderr', None)
    read = next(protocol.parse_requests(bytearray(GET)))
    given = (read, address, address, True)
    if version == 'part4-final':
        given = protocol.base_environ(address), read, address
    protocol.get_environ(*given)['wsgi.errors'].write('a complaint')
