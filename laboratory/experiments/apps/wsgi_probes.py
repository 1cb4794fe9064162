"""The application that the part 2 experiments run: what it does is chosen by the path."""
import asyncio
import json
import os
import signal
import sys
from wsgiref.validate import validator

TEXT = [('Content-Type', 'text/plain')]
ALL_BYTES = bytes(range(256))


class Closable:
    """An iterable that counts how often a server has called close()."""
    closed = 0

    def __iter__(self):
        yield b'to be closed'

    def close(self):
        Closable.closed += 1


def app(environ, start_response):
    behaviour = BEHAVIOURS.get(environ['PATH_INFO'].partition('?')[0], show_environ)
    return behaviour(environ, start_response)


def show_environ(environ, start_response):
    start_response('200 OK', TEXT)
    text = {name: value for name, value in environ.items() if isinstance(value, str)}
    return [json.dumps(text).encode()]


def show_body(environ, start_response):
    start_response('200 OK', TEXT)
    return [environ['wsgi.input'].read(1_000_000)]


def use_write(environ, start_response):
    write = start_response('200 OK', TEXT)
    write(b'written, ')
    return [b'returned']


def change_status_before_headers(environ, start_response):
    def body():
        yield b''
        try:
            raise KeyError
        except KeyError:
            start_response('500 Changed', TEXT, sys.exc_info())
        yield b'changed'
    start_response('200 OK', TEXT)
    return body()


def change_status_after_headers(environ, start_response):
    def body():
        yield b'sent, '
        try:
            raise KeyError
        except KeyError:
            try:
                start_response('500 Changed', TEXT, sys.exc_info())
            except KeyError:
                yield b'raised again'
    start_response('200 OK', TEXT)
    return body()


def stop_between_chunks(environ, start_response):
    def body():
        yield b'before, '
        os.kill(os.getpid(), signal.SIGSTOP)
        yield b'after'
    start_response('200 OK', TEXT)
    return body()


def closable(environ, start_response):
    start_response('200 OK', TEXT)
    return Closable()


def count_closed(environ, start_response):
    start_response('200 OK', TEXT)
    return [b'%d' % Closable.closed]


def own_date_and_server(environ, start_response):
    date = ('Date', 'Thu, 01 Jan 1970 00:00:00 GMT')
    start_response('200 OK', [*TEXT, date, ('server', 'a probe')])
    return [b'own']


def binary(environ, start_response):
    start_response('200 OK', [('Content-Type', 'image/png')])
    return [ALL_BYTES]


def large(environ, start_response):
    start_response('200 OK', TEXT)
    return (b'x' * 65536 for _ in range(300))


def raise_before_headers(environ, start_response):
    raise KeyError('before the headers')


def raise_after_headers(environ, start_response):
    start_response('200 OK', TEXT)
    yield b'the first bytes'
    raise KeyError('after the headers')


def exit_the_process(environ, start_response):
    sys.exit('an application must not end its server')


def cancelled(environ, start_response):
    raise asyncio.CancelledError


def no_content(environ, start_response):
    start_response('204 No Content', [])
    return [b'content']


def refused_connection(environ, start_response):
    raise ConnectionRefusedError('the database of the application, not the client')


def break_a_header(environ, start_response):
    start_response('200 OK', [('X-Break', 'one\r\nX-Smuggled: two')])
    return [b'']


def break_the_status(environ, start_response):
    start_response('200 OK\r\nX-Smuggled: two', TEXT)
    return [b'']


def keep_alive(environ, start_response):
    start_response('200 OK', [('Connection', 'keep-alive')])
    return [b'']


def do_not_start(environ, start_response):
    return [b'never started']


def start_twice(environ, start_response):
    start_response('200 OK', TEXT)
    start_response('200 OK', TEXT)
    return [b'']


BEHAVIOURS = {
    '/body': show_body,
    '/write': use_write,
    '/change-before': change_status_before_headers,
    '/change-after': change_status_after_headers,
    '/stop': stop_between_chunks,
    '/closable': closable,
    '/closed': count_closed,
    '/own-headers': own_date_and_server,
    '/binary': binary,
    '/large': large,
    '/raise-before': raise_before_headers,
    '/raise-after': raise_after_headers,
    '/exit': exit_the_process,
    '/cancelled': cancelled,
    '/no-content': no_content,
    '/refused': refused_connection,
    '/break-header': break_a_header,
    '/break-status': break_the_status,
    '/keep-alive': keep_alive,
    '/no-start': do_not_start,
    '/start-twice': start_twice,
}


complaints = []
sys.unraisablehook = complaints.append  # where wsgiref.validate says that close() was not called


def checked(environ, start_response):
    """An application inside wsgiref.validate; answers 500 once that has complained."""
    if complaints:
        start_response('500 wsgiref.validate complains', TEXT)
        return [str(complaints[0].exc_value).encode()]
    return validator(show_body)(environ, start_response)
