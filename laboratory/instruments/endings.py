"""How a command and its processes end: with all that they have started, also where a signal comes."""
import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager

from laboratory.instruments import kernel

ENDINGS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # of a command; the last when the terminal is closed
TO_CLEAN_UP = 10  # seconds for a process of ours that has servers to end

running = set()  # the servers of this process that have to be ended


def end(signum, frame):
    """Let the command clean up, once: more signals change nothing."""
    for each in ENDINGS:
        signal.signal(each, go_on)
    raise KeyboardInterrupt(signum)


def go_on(signum, frame):
    """Heed no signal."""


@contextmanager
def deferred():
    """Let signals wait: fork() may swallow what a handler raises. Gives what heeds them, for the child."""
    came, handlers = [], {}
    if threading.current_thread() == threading.main_thread():  # elsewhere no handler runs
        handlers = {signum: signal.signal(signum, lambda *got: came.append(got)) for signum in ENDINGS}

    def heed():
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if came:
            signal.raise_signal(came[0][0])
    try:
        yield heed
    finally:
        heed()


def end_all():
    """End what is left of servers, also where a signal has come while one was started or ended."""
    for child in multiprocessing.active_children():  # which clean up
        child.terminate()
        child.join(TO_CLEAN_UP)
    for server in list(running):
        server.stop()
    for pid in kernel.family(os.getpid()):
        kernel.send(pid, signal.SIGKILL)
