"""Lets a Python program run line by line, and marks each line with a system call, which strace sees.

REPLAY names one file. Before each of its lines, every thread of every process waits for its turn, the
signal SIGRTMAX, and then asks for a file that nobody has: access("/line/40"). So lines and calls of all
processes stand in one order. Handlers and exceptions are marked, too, but have no turn.

Python imports a module of this name when it starts (see the docs of `site`), so the folder in PYTHONPATH is
all that it takes; the next one of this name is imported too.
"""
import os
import signal
import sys
import threading
import time
from functools import cache, wraps
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

FOLDER, FILE = os.path.dirname(os.path.abspath(__file__)), os.environ.get('REPLAY')
PATIENCE = 300  # seconds in which its turn comes, on a busy machine too
set_handler, monotonic = signal.signal, time.monotonic


class Waited(threading.local):
    seconds = 0.0  # that this thread has waited for its turns


waited = Waited()


@cache
def is_shown(name):
    return os.path.realpath(name) == FILE


def on_call(frame, event, arg):
    return on_line if is_shown(frame.f_code.co_filename) else None


def on_line(frame, event, arg):
    if event == 'line':
        begin = monotonic()
        if not signal.sigtimedwait([signal.SIGRTMAX], PATIENCE):
            os._exit(1)  # whoever gave the turns has been killed
        waited.seconds += monotonic() - begin
        os.access(f'/line/{frame.f_lineno}', os.F_OK)
    elif event == 'exception' and not issubclass(arg[0], (StopIteration, StopAsyncIteration, GeneratorExit)):
        os.access(f'/raised/{frame.f_lineno}/{arg[0].__name__}', os.F_OK)
    elif event == 'return':
        while (frame := frame.f_back) and not is_shown(frame.f_code.co_filename):
            pass
        os.access(f'/back/{frame.f_lineno if frame else 0}', os.F_OK)
    return on_line


@wraps(monotonic)
def server_time():
    """time.monotonic(): stands still while a line waits, or the server's time limits would pass."""
    return monotonic() - waited.seconds


@wraps(set_handler)
def set_marked_handler(signum, handler):
    """signal.signal(): else a handler that interrupts on_line() would run without marks."""
    def run(*args):
        return sys.call_tracing(run_marked, (handler, args))
    return set_handler(signum, run if hasattr(handler, '__code__') else handler)


def run_marked(handler, args):
    sys.settrace(on_call)  # for Python 3.11, whose call_tracing() traces nothing
    if not is_shown(handler.__code__.co_filename):
        return handler(*args)
    os.access(f'/handler/0/{handler.__name__}', os.F_OK)
    try:
        return handler(*args)
    finally:
        os.access('/handled/0', os.F_OK)


def mark_uncaught(kind, *rest):
    os.access(f'/uncaught/0/{kind.__name__}', os.F_OK)
    sys.__excepthook__(kind, *rest)


folders = [folder for folder in sys.path if os.path.abspath(folder) != FOLDER]
if spec := PathFinder.find_spec('sitecustomize', folders):
    spec.loader.exec_module(module_from_spec(spec))
if FILE:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
    signal.signal, time.monotonic = set_marked_handler, server_time
    sys.excepthook = mark_uncaught
    threading.settrace(on_call)
    sys.settrace(on_call)
