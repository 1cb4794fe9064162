"""An application that breaks one promise of PEP 3333 at each path."""

PLAIN = ('Content-Type', 'text/plain')
RESPONSES = {  # path: status, headers, pieces of the body
    '/too-long': ('200 OK', [PLAIN, ('Content-Length', '3')], [b'eleven bytes']),
    '/too-long-later': ('200 OK', [PLAIN, ('Content-Length', '3')], [b'abc', b'eleven bytes']),
    '/too-short': ('200 OK', [PLAIN, ('Content-Length', '11')], [b'abc']),
    '/two-lengths': ('200 OK', [PLAIN, ('Content-Length', '3'), ('Content-Length', '4')], [b'abc']),
    '/negative-length': ('200 OK', [PLAIN, ('Content-Length', '-3')], [b'abc']),
    '/no-content': ('204 No Content', [('Content-Length', '3')], [b'abc']),
    '/not-modified': ('304 Not Modified', [('Content-Length', '3')], [b'abc']),
    '/status-of-two-lines': ('200 OK\r\nX-Smuggled: two', [PLAIN], [b'']),
    '/status-with-nul': ('200 O\0K', [PLAIN], [b'']),
    '/status-with-escape': ('200 \x1b[2J', [PLAIN], [b'']),
    '/status-of-bytes': (b'200 OK', [PLAIN], [b'']),
    '/status-in-words': ('OK', [PLAIN], [b'']),
    '/header-of-two-lines': ('200 OK', [('X-Break', 'one\r\nX-Smuggled: two')], [b'']),
    '/header-of-bytes': ('200 OK', [(b'Content-Type', b'text/plain')], [b'']),
    '/header-in-its-name': ('200 OK', [('Content-Type: x; y', 'text/plain')], [b'']),
    '/chunked-in-a-name': ('200 OK', [('Transfer-Encoding: chunked, x', '')], [b'']),
    '/header-outside-latin-1': ('200 OK', [('X-Price', '3 €')], [b'']),
    '/keep-alive': ('200 OK', [('Connection', 'keep-alive')], [b'']),
    '/chunked': ('200 OK', [('Transfer-Encoding', 'chunked')], [b'0\r\n\r\n']),
    '/text': ('200 OK', [PLAIN], ['text instead of bytes']),
    '/megabytes': ('200 OK', [PLAIN], [b'x' * 20_000_000]),
}


def app(environ, start_response):
    status, headers, body = RESPONSES[environ['PATH_INFO']]
    start_response(status, headers)
    return body
