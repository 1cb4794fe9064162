"""The application that the experiments of parts 2 and 4 run: the path chooses what it does.

It works in any number of processes: what the experiment holds or wants to know is in the files of a
folder, which the server is given as PROBES. A reader who runs it by hand needs none.
"""
import json
import os
import sys
import time
from contextlib import suppress
from wsgiref.validate import validator

TEXT = [('Content-Type', 'text/plain')]  # copied for each answer: the server may change its list
ALL_BYTES = bytes(range(256))
MEGABYTE = b'x' * 1_000_000
FOLDER = os.environ.get('PROBES')


class Cancelled(BaseException):
    """What is not an Exception, as the CancelledError of asyncio."""


def note(name, text, environ):
    """Append a line to a file of the folder; without one, print it where the server prints."""
    if not FOLDER:
        print(text, file=environ['wsgi.errors'], flush=True)
        return
    with open(f'{FOLDER}/{name}', 'a') as file:
        file.write(f'{text}\n')


def wait_for_the_experiment():
    """Wait until the experiment lets go of its FIFO; without one, two seconds."""
    if not FOLDER:
        time.sleep(2)
        return
    with suppress(FileNotFoundError):  # it lets go at any moment: then there is no FIFO, or no writer
        fd = os.open(f'{FOLDER}/fifo', os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(fd, True)
        with open(fd) as fifo:
            fifo.read()


class Noted:
    """The iterable of an application, that notes when a server calls its close()."""
    def __init__(self, iterable, environ):
        self.iterable, self.environ = iterable, environ

    def __iter__(self):
        return iter(self.iterable)

    def close(self):
        note('closed', 'close() was called', self.environ)
        if hasattr(self.iterable, 'close'):
            self.iterable.close()


def app(environ, start_response):
    behaviour = BEHAVIOURS.get(environ['PATH_INFO'].partition('?')[0], show_environ)
    return behaviour(environ, start_response)


def answer(status, *headers, body=(b'a body',)):
    """An application that gives always the same answer."""
    def behaviour(environ, start_response):
        start_response(status, [*TEXT, *headers])
        return list(body)
    return behaviour


def fail(error):
    """An application that raises."""
    def behaviour(environ, start_response):
        raise error
    return behaviour


def show_environ(environ, start_response):
    start_response('200 OK', [*TEXT])
    return [json.dumps(environ, default=repr).encode()]


def show_header(environ, start_response):
    start_response('200 OK', [*TEXT])
    return [environ.get('HTTP_X_PROBE', '').encode('latin-1')]


def show_process(environ, start_response):
    start_response('200 OK', [*TEXT])
    return [str(os.getpid()).encode()]


def show_body(environ, start_response):
    length = environ.get('CONTENT_LENGTH') or (1_000_000 if environ['REQUEST_METHOD'] == 'POST' else 0)
    body = environ['wsgi.input'].read(int(length))
    start_response('200 OK', [*TEXT])
    return [body]


def use_write(environ, start_response):
    write = start_response('200 OK', [*TEXT])
    write(b'written, ')
    return [b'returned']


def change_status_before_headers(environ, start_response):
    def body():
        yield b''
        try:
            raise KeyError
        except KeyError:
            start_response('500 Changed', [*TEXT], sys.exc_info())
        yield b'changed'
    start_response('200 OK', [*TEXT])
    return body()


def change_status_after_headers(environ, start_response):
    def body():
        yield b'sent, '
        try:
            raise KeyError
        except KeyError:
            try:
                start_response('500 Changed', [*TEXT], sys.exc_info())
            except KeyError:
                yield b'raised again'
    start_response('200 OK', [*TEXT])
    return body()


def wait_between_chunks(environ, start_response):
    def body():
        yield b'before, '
        wait_for_the_experiment()
        yield b'after'
    start_response('200 OK', [*TEXT])
    return body()


def wait_without_end(environ):
    """Wait until the experiment lets go of its FIFO, and note that; without one, an hour."""
    if FOLDER and os.path.exists(f'{FOLDER}/fifo'):
        note('waiting', os.getpid(), environ)
        wait_for_the_experiment()
        note('returned', 'the application was not ended', environ)
    else:
        time.sleep(3600)


def do_not_return(environ, start_response):
    wait_without_end(environ)
    start_response('200 OK', [*TEXT])
    return [b'returned']


def stop_halfway(environ, start_response):
    start_response('200 OK', [*TEXT])
    yield b'before, '
    wait_without_end(environ)
    yield b'after'


def note_smuggled(environ, start_response):
    note('smuggled', 'the application was called with /smuggled', environ)
    start_response('200 OK', [*TEXT])
    return [b'smuggled']


def closable(environ, start_response):
    start_response('200 OK', [*TEXT])
    return Noted([b'to be closed'], environ)


def large(environ, start_response):
    start_response('200 OK', [*TEXT])
    return (b'x' * 65536 for _ in range(300))


def megabytes(environ, start_response):
    start_response('200 OK', [*TEXT])
    return (b'x' * 65536 for _ in range(64))


def ten_pieces(environ, start_response):
    start_response('200 OK', [*TEXT])
    return (MEGABYTE for _ in range(10))


def one_piece(environ, start_response):
    start_response('200 OK', [*TEXT])
    return [MEGABYTE * 10]


def raise_after_headers(environ, start_response):
    start_response('200 OK', [*TEXT])
    yield b'the first bytes'
    raise KeyError('after the headers')


def do_not_start(environ, start_response):
    return [b'never started']


def start_twice(environ, start_response):
    start_response('200 OK', [*TEXT])
    start_response('200 OK', [*TEXT])
    return [b'started twice']


def checked(environ, start_response):
    """An application inside wsgiref.validate, whose complaints are noted."""
    environ.setdefault('SCRIPT_NAME', '')  # PEP 3333 lets it be absent, the validator does not
    try:
        return Noted(validator(show_body)(environ, start_response), environ)
    except AssertionError as complaint:
        note('complaints', complaint, environ)
        raise


BEHAVIOURS = {
    '/body': show_body,
    '/process': show_process,
    '/header': show_header,
    '/write': use_write,
    '/change-before': change_status_before_headers,
    '/change-after': change_status_after_headers,
    '/wait': wait_between_chunks,
    '/stuck': do_not_return,
    '/stuck-halfway': stop_halfway,
    '/smuggled': note_smuggled,
    '/closable': closable,
    '/own-headers': answer('200 OK', ('Date', 'Thu, 01 Jan 1970 00:00:00 GMT'), ('server', 'a probe')),
    '/binary': answer('200 OK', body=[ALL_BYTES]),
    '/large': large,
    '/megabytes': megabytes,
    '/ten-pieces': ten_pieces,
    '/one-piece': one_piece,
    '/raise-before': fail(KeyError('before the headers')),
    '/raise-after': raise_after_headers,
    '/exit': fail(SystemExit('an application must not end its server')),
    '/cancelled': fail(Cancelled()),
    '/refused': fail(ConnectionRefusedError('the database of the application, not the client')),
    '/no-start': do_not_start,
    '/start-twice': start_twice,
    '/break-header': answer('200 OK', ('X-Break', 'one\r\nX-Smuggled: two')),
    '/break-status': answer('200 OK\r\nX-Smuggled: two'),
    '/escape-status': answer('200 O\x1bK'),
    '/nul-header': answer('200 OK', ('X-Break', 'one\0two')),
    '/bytes-header': answer('200 OK', ('X-Break', b'one')),
    '/space-name': answer('200 OK', ('X Break', 'one')),
    '/colon-name': answer('200 OK', ('X-Break: one; x', 'two')),
    '/keep-alive': answer('200 OK', ('Connection', 'keep-alive')),
    '/own-chunks': answer('200 OK', ('Transfer-Encoding', 'chunked')),
    '/too-much': answer('200 OK', ('Content-Length', '3'), body=[b'ele', b'ven byte']),
    '/too-little': answer('200 OK', ('Content-Length', '11'), body=[b'ele']),
    '/no-content': answer('204 No Content', ('Content-Length', '6')),
    '/not-modified': answer('304 Not Modified'),
    '/reset-content': answer('205 Reset Content', ('Content-Length', '6')),
}
