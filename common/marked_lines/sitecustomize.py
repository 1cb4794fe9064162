"""Lets a Python program run line by line, and marks each line with a system call, which strace sees.

REPLAY names one file. Before each of its lines, every thread of every process waits for its turn, the
signal SIGRTMAX, and then asks for a file that nobody has: access("/line/40"). So lines and calls of all
processes stand in one order. Python imports a module of this name when it starts (see the docs of
`site`), so the folder in PYTHONPATH is all that it takes; the next one of this name is imported too.
"""
import os
import signal
import sys
import threading
from functools import cache, wraps
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

FOLDER, FILE = os.path.dirname(os.path.abspath(__file__)), os.environ.get('REPLAY')
set_handler = signal.signal


@cache
def is_shown(name):
    return os.path.realpath(name) == FILE


def on_call(frame, event, arg):
    return on_line if is_shown(frame.f_code.co_filename) else None


def on_line(frame, event, arg):
    if event == 'line':
        signal.sigwait([signal.SIGRTMAX])
        os.access(f'/line/{frame.f_lineno}', os.F_OK)
    elif event == 'return':
        while (frame := frame.f_back) and not is_shown(frame.f_code.co_filename):
            pass
        os.access(f'/back/{frame.f_lineno if frame else 0}', os.F_OK)
    return on_line


@wraps(set_handler)
def set_marked_handler(signum, handler):
    """signal.signal(): else a handler that interrupts on_line() would run without marks."""
    def run(*args):
        return sys.call_tracing(run_marked, (handler, args))
    return set_handler(signum, run if hasattr(handler, '__code__') else handler)


def run_marked(handler, args):
    sys.settrace(on_call)  # for Python 3.11, whose call_tracing() traces nothing
    return handler(*args)


folders = [folder for folder in sys.path if os.path.abspath(folder) != FOLDER]
if spec := PathFinder.find_spec('sitecustomize', folders):
    spec.loader.exec_module(module_from_spec(spec))
if FILE:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
    signal.signal = set_marked_handler
    threading.settrace(on_call)
    sys.settrace(on_call)
