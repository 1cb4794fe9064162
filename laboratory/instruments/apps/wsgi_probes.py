"""The application that the experiments of parts 2 and 4 run: the path chooses what it does.

It works in any number of processes: what the experiment holds or wants to know is in the files of a
folder, which the server is given as PROBES. A reader who runs it by hand needs none.
"""
import json
import os
import time
from contextlib import nullcontext, suppress
from itertools import islice
from wsgiref.validate import validator

TEXT = [('Content-Type', 'text/plain')]  # copied for each answer: the server may change its list
ALL_BYTES = bytes(range(256))
MEGABYTE, PIECE = b'x' * 1_000_000, b'x' * 65536
TEN_MEGABYTES, LARGE = 10 * len(MEGABYTE), 300 * len(PIECE)  # more than buffers hold
LATIN = 'caf\xc3\xa9'  # what a header has to be for the bytes of 'café' in UTF-8
FOLDER = os.environ.get('PROBES')


class Cancelled(BaseException):
    """What is not an Exception, as the CancelledError of asyncio."""


def note(name, text, environ):
    """Append a line to a file of the folder; without one, print it where the server prints."""
    with open(f'{FOLDER}/{name}', 'a') if FOLDER else nullcontext(environ['wsgi.errors']) as file:
        print(text, file=file, flush=True)


def wait_for_the_experiment():
    """Wait until the experiment lets go of its FIFO; without one, two seconds."""
    if not FOLDER:
        return time.sleep(2)
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
    behaviour = BEHAVIOURS.get(environ['PATH_INFO'].partition('?')[0], answer(body=environ_of))
    return behaviour(environ, start_response)


def answer(status='200 OK', *headers, body=(b'a body',)):
    """An application that gives always the same answer; body may be a function of the environ."""
    def behaviour(environ, start_response):
        start_response(status, [*TEXT, *headers])
        return body(environ) if callable(body) else list(body)
    return behaviour


def fail(error):
    """An application that raises."""
    def behaviour(environ, start_response):
        raise error
    return behaviour


def environ_of(environ):
    return [json.dumps(environ, default=repr).encode()]


def body_of(environ):
    length = environ.get('CONTENT_LENGTH') or (1_000_000 if environ['REQUEST_METHOD'] == 'POST' else 0)
    return [environ['wsgi.input'].read(int(length))]


def large():
    return (PIECE for _ in range(LARGE // len(PIECE)))


def use_streams(environ):
    """Read the body, of 8 lines with 9 bytes each, in every way that there is, and write an error."""
    stream, errors = environ.get('wsgi.input'), environ.get('wsgi.errors')
    reads = {'read(7)': lambda: stream.read(7), 'readline()': lambda: stream.readline(),
             'for line in': lambda: b''.join(islice(stream, 2)),
             'readlines(44)': lambda: b''.join(stream.readlines(44))}
    found = {}
    for name, read in reads.items():
        try:
            found[name] = repr(read())
        except Exception as error:
            found[name] = repr(error)
    try:
        errors.write('the application writes ')
        errors.writelines(['to ', 'wsgi.errors\n'])
        errors.flush()
        found['wsgi.errors'] = 'written'
    except Exception as error:
        found['wsgi.errors'] = repr(error)
    return [json.dumps(found).encode()]


def use_write(environ, start_response):
    start_response('200 OK', [*TEXT])(b'written, ')
    return [b'returned']


def change_status(first):
    """An application that changes its status after the first piece of its body."""
    def behaviour(environ, start_response):
        def body():
            yield first
            try:
                start_response('500 Changed', [*TEXT], (KeyError, KeyError(), None))
            except KeyError:
                yield b'raised again'
            else:
                yield b'changed'
        start_response('200 OK', [*TEXT])
        return body()
    return behaviour


def wait_between_pieces(environ):
    yield b'before, '
    wait_for_the_experiment()
    yield b'after'


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
    return answer(body=[b'returned'])(environ, start_response)


def stop_halfway(environ, start_response):
    start_response('200 OK', [*TEXT])
    yield b'before, '
    wait_without_end(environ)
    yield b'after'


def note_smuggled(environ):
    note('smuggled', 'the application was called with /smuggled', environ)
    return [b'smuggled']


def raise_after_headers(environ, start_response):
    start_response('200 OK', [*TEXT])
    yield b'the first bytes'
    raise KeyError('after the headers')


def start_twice(environ, start_response):
    start_response('200 OK', [*TEXT])
    return answer(body=[b'started twice'])(environ, start_response)


def checked(environ, start_response):
    """An application inside wsgiref.validate, whose complaints are noted."""
    environ.setdefault('SCRIPT_NAME', '')  # PEP 3333 lets it be absent, the validator does not
    try:
        return Noted(validator(answer(body=body_of))(environ, start_response), environ)
    except AssertionError as complaint:
        note('complaints', complaint, environ)
        raise


BEHAVIOURS = {
    '/body': answer(body=body_of),
    '/process': answer(body=lambda environ: [str(os.getpid()).encode()]),
    '/header': answer(body=lambda environ: [environ.get('HTTP_X_PROBE', '').encode('latin-1')]),
    '/streams': answer(body=use_streams),
    '/write': use_write,
    '/change-before': change_status(b''),
    '/change-after': change_status(b'sent, '),
    '/wait': answer(body=wait_between_pieces),
    '/stuck': do_not_return,
    '/stuck-halfway': stop_halfway,
    '/smuggled': answer(body=note_smuggled),
    '/closable': answer(body=lambda environ: Noted([b'to be closed'], environ)),
    '/latin-header': answer('200 OK', ('X-Latin', LATIN)),
    '/own-headers': answer('200 OK', ('Date', 'Thu, 01 Jan 1970 00:00:00 GMT'), ('server', 'a probe')),
    '/binary': answer('200 OK', body=[ALL_BYTES]),
    '/large': answer(body=lambda environ: large()),
    '/ten-pieces': answer(body=lambda environ: (MEGABYTE for _ in range(10))),
    '/one-piece': answer(body=lambda environ: [MEGABYTE * 10]),
    '/raise-before': fail(KeyError('before the headers')),
    '/raise-after': lambda environ, *rest: Noted(raise_after_headers(environ, *rest), environ),
    '/large-closable': answer(body=lambda environ: Noted(large(), environ)),
    '/exit': fail(SystemExit('an application must not end its server')),
    '/cancelled': fail(Cancelled()),
    '/refused': fail(ConnectionRefusedError('the database of the application, not the client')),
    '/no-start': lambda environ, start_response: [b'never started'],
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
    '/too-little': answer('200 OK', ('Content-Length', '11'), body=lambda environ: iter([b'ele'])),
    '/no-content': answer('204 No Content', ('Content-Length', '6')),
    '/not-modified': answer('304 Not Modified'),
    '/reset-content': answer('205 Reset Content', ('Content-Length', '6')),
}
