"""An application that breaks one promise of PEP 3333 at each path."""
import itertools
import os
import sys

PLAIN = ('Content-Type', 'text/plain')
RESPONSES = {  # path: status, headers, pieces of the body
    '/too-long': ('200 OK', [PLAIN, ('Content-Length', '3')], [b'eleven bytes']),
    '/too-long-later': ('200 OK', [PLAIN, ('Content-Length', '3')], [b'abc', b'eleven bytes']),
    '/too-short': ('200 OK', [PLAIN, ('Content-Length', '11')], [b'abc']),
    '/nothing': ('200 OK', [PLAIN, ('Content-Length', '11')], []),
    '/two-lengths': ('200 OK', [PLAIN, ('Content-Length', '3'), ('Content-Length', '4')], [b'abc']),
    '/negative-length': ('200 OK', [PLAIN, ('Content-Length', '-3')], [b'abc']),
    '/no-content': ('204 No Content', [('Content-Length', '3')], [b'abc']),
    '/reset-content': ('205 Reset Content', [('Content-Length', '3')], [b'abc']),
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
    return BEHAVIOURS.get(environ['PATH_INFO'], answer)(environ, start_response)


def answer(environ, start_response):
    status, headers, body = RESPONSES[environ['PATH_INFO']]
    start_response(status, headers)
    return body


def swallow_errors(environ, start_response):
    """Write more than a client that does not read can take, and go on as if nothing had happened."""
    write = start_response('200 OK', [PLAIN])
    for _ in range(3):
        try:
            write(b'x' * 10_000_000)
        except Exception:
            pass
    return [b'the end']


def swallow_everything(environ, start_response):
    """The same for what is no Exception, once the test lets go of its FIFO."""
    write = start_response('200 OK', [PLAIN])
    try:
        write(b'x' * 10_000_000)
    except BaseException:
        print('swallowed', flush=True)
    with open(f'{os.environ["PROBES"]}/fifo') as fifo:
        fifo.read()
    return []


def swallow_the_length(environ, start_response):
    write = start_response('200 OK', [PLAIN, ('Content-Length', '3')])
    write(b'a')
    try:
        write(b'more than three')
    except ValueError:
        pass
    return []


class FailsToClose(list):
    def close(self):
        raise KeyError('the application cannot close its response')


def fail_to_close(environ, start_response):
    start_response('200 OK', [PLAIN])
    return FailsToClose([b'x' * 200_000])


def close_the_output(environ, start_response):
    sys.stdout.close()
    start_response('200 OK', [PLAIN])
    return [b'']


def go_on_without_end(environ, start_response):
    start_response('200 OK', [PLAIN])
    return itertools.repeat(b'x')


BEHAVIOURS = {
    '/without-end': go_on_without_end,
    '/swallow-errors': swallow_errors,
    '/swallow-everything': swallow_everything,
    '/swallow-the-length': swallow_the_length,
    '/fail-to-close': fail_to_close,
    '/close-the-output': close_the_output,
}
