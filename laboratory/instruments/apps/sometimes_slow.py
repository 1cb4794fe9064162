"""The application of make bench: the one of part 2, but every 50th call for /slow waits."""
import itertools
import time

from wsgiapp import app as hello

CALLS = itertools.count(1)  # of this process


def app(environ, start_response):
    if environ['PATH_INFO'] == '/slow' and next(CALLS) % 50 == 0:
        time.sleep(0.02)
    return hello(environ, start_response)
