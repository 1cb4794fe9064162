"""An application that asks much of its server: the path chooses how."""
import ctypes
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import time

PLAIN = ('Content-Type', 'text/plain')
BROKEN = {  # before anything is sent; path: status, headers, pieces of the body
    '/nothing': ('200 OK', [PLAIN, ('Content-Length', '11')], []),
    '/two-lengths': ('200 OK', [PLAIN, ('Content-Length', '3'), ('Content-Length', '4')], [b'abc']),
    '/negative-length': ('200 OK', [PLAIN, ('Content-Length', '-3')], [b'abc']),
    '/status-with-nul': ('200 O\0K', [PLAIN], [b'']),
    '/status-of-bytes': (b'200 OK', [PLAIN], [b'']),
    '/status-in-words': ('OK', [PLAIN], [b'']),
    '/name-of-bytes': ('200 OK', [(b'Content-Type', b'text/plain')], [b'']),
    '/chunked-in-a-name': ('200 OK', [('Transfer-Encoding: chunked, x', '')], [b'']),
    '/escape-in-a-name': ('200 OK', [('X-\x1b[31m', '')], [b'']),
    '/header-outside-latin-1': ('200 OK', [('X-Price', '3 €')], [b'']),
    '/text': ('200 OK', [PLAIN], ['text instead of bytes']),
}
RESPONSES = {
    **BROKEN,
    '/too-long': ('200 OK', [PLAIN, ('Content-Length', '3')], [b'eleven bytes']),
    '/no-content': ('204 No Content', [('Content-Length', '3')], [b'abc']),
    '/reset-content': ('205 Reset Content', [('Content-Length', '3')], [b'abc']),
    '/not-modified': ('304 Not Modified', [('Content-Length', '3')], [b'abc']),
    '/megabytes': ('200 OK', [PLAIN], [b'x' * 20_000_000]),
    '/two-blocks': ('200 OK', [], [b'x' * 10_000_000, b'y']),
}
RUNNING = []


def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/complain':
        environ['wsgi.errors'].write('')  # it is a stream, even where standard error is closed
    if behaviour := getattr(Paths, path[1:].replace('-', '_'), None):
        return behaviour(start_response)
    status, headers, body = RESPONSES.get(path, ('200 OK', [PLAIN], [b'x']))
    start_response(status, headers)
    return body


def read_fifo():
    """Wait until the test lets go of its FIFO."""
    with open(f'{os.environ["PROBES"]}/fifo') as fifo:
        fifo.read()


def run(pipe):
    pipe.send('it runs')
    time.sleep(60)


class SlowToPrint(Exception):
    def __str__(self):
        print('waiting', flush=True)
        read_fifo()
        return ''


class Stream:
    def __iter__(self):
        yield b'x' * 10_000_000

    def close(self):
        raise KeyError('the application cannot close its response')


class Blocks(Stream, list):
    pass


class Paths:
    """What it does at /a-path is in a_path()."""
    def swallow_errors(start_response):
        """Write more than a client that does not read can take, and go on as if nothing had happened."""
        write = start_response('200 OK', [PLAIN])
        for _ in range(3):
            try:
                write(b'x' * 10_000_000)
            except Exception:
                pass
        return [b'the end']

    def swallow_everything(start_response):
        """The same for what is no Exception."""
        write = start_response('200 OK', [PLAIN])
        try:
            write(b'x' * 10_000_000)
        except BaseException:
            print('swallowed', flush=True)
        read_fifo()
        return []

    def write_for_ever(start_response):
        write = start_response('200 OK', [])
        while True:
            try:
                write(b'x' * 50_000)
            except BaseException:
                time.sleep(0.01)

    def swallow_the_length(start_response):
        write = start_response('200 OK', [PLAIN, ('Content-Length', '3')])
        write(b'a')
        try:
            write(b'more than three')
        except ValueError:
            pass
        return []

    def change_the_headers(start_response):
        headers = [PLAIN, header := ['X-Break', 'one']]
        start_response('200 OK', headers)
        header[1] += '\r\nX-Smuggled: two'
        headers.append(('X-Smuggled', 'three'))
        return [b'x']

    def fail_to_close(start_response, kind=Blocks):
        start_response('200 OK', [('Content-Length', '10000000')])
        return kind()

    def fail_to_close_a_stream(start_response):
        return Paths.fail_to_close(start_response, Stream)

    def close_the_output(start_response):
        sys.stdout.close()
        start_response('200 OK', [PLAIN])
        return [b'']

    def crumbs_without_end(start_response):
        start_response('200 OK', [PLAIN])
        return itertools.repeat(b'x')

    def blocks_without_end(start_response):
        start_response('200 OK', [PLAIN])
        return itertools.repeat(b'x' * 50_000)

    def slow_blocks(start_response):
        start_response('200 OK', [])
        for _ in range(8):
            time.sleep(0.1)
            yield b'x'

    def wait(start_response):
        print('waiting', flush=True)
        read_fifo()
        start_response('200 OK', [])
        return [b'']

    def yield_and_wait(start_response):
        start_response('200 OK', [])
        yield b'x' * 10_000_000
        read_fifo()

    def write_and_wait(start_response):
        start_response('200 OK', [])(b'x' * 10_000_000)
        yield b''
        read_fifo()

    def hold_the_lock(start_response):
        """Let no other thread run, without end."""
        re.match('(a+)+$', 'a' * 50 + 'b')

    def sleep_with_the_lock(start_response):
        """The same without work: the second lock of a mutex waits, and no signal interrupts it."""
        print('waiting', flush=True)
        libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        for call in libc.pthread_mutex_init, libc.pthread_mutex_lock, libc.pthread_mutex_lock:
            call(mutex, None)

    def hold_the_lock_for_a_while(start_response):
        print('holding', flush=True)
        ctypes.PyDLL(None).usleep(1_200_000)
        start_response('200 OK', [])
        return [b'']

    def count_the_running(start_response):
        start_response('200 OK', [])
        RUNNING.append(1)
        most = len(RUNNING)
        time.sleep(0.002)
        RUNNING.pop()
        yield b'%d' % most

    def say_something(start_response):
        print('printed by the application')
        start_response('200 OK', [PLAIN])
        return [b'x']

    def interrupt(start_response):
        raise KeyboardInterrupt

    def fork_and_raise(start_response):
        if os.fork() == 0:
            raise SystemExit
        return Paths.fork_and_return(start_response, forked=True)

    def fork_and_return(start_response, forked=False):
        if forked or os.fork():
            os.wait()
        start_response('200 OK', [])
        return [b'x']

    def fork_and_yield(start_response):
        yield from Paths.fork_and_return(start_response)

    def fork(start_response):
        os.fork()
        start_response('200 OK', [])
        return [b'x']

    def leave_a_child(start_response):
        """Fork a child that has the connection open until the test lets go of its FIFO."""
        if os.fork() == 0:
            read_fifo()
            os._exit(0)
        start_response('200 OK', [])
        return [b'x']

    def leave_an_orphan(start_response):
        start_response('200 OK', [PLAIN])
        command = ['sh', '-c', 'sleep 0.2 >/dev/null & echo $!']
        return [subprocess.run(command, stdout=subprocess.PIPE).stdout]

    def write_wait_and_return(start_response):
        start_response('200 OK', [('Content-Length', '1')])(b'x')
        read_fifo()
        return []

    def raise_what_is_slow_to_print(start_response):
        raise SlowToPrint

    def raise_a_strange_syntax_error(start_response):
        raise SyntaxError('no Python', ('a file', 1, 'no number', 'a line'))

    def raise_without_standard_error(start_response):
        sys.stderr = object()
        raise KeyError

    def run_a_command(start_response):
        start_response('200 OK', [PLAIN])
        return [b'%d' % subprocess.run(['sh', '-c', 'exit 7']).returncode]

    def end_a_child(start_response):
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context('fork').Process(target=run, args=(theirs,))
        child.start()
        ours.recv()
        child.terminate()
        child.join(10)
        start_response('200 OK', [])
        return [str(child.exitcode).encode()]
