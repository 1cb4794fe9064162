"""Shows the server that listens on PORT, live: its processes, its connections, what happens to them.

    make watch PORT=8888

When the server ends, the command waits for the next one. q ends the command. It gets everything
from the kernel and never connects. It misses what comes and goes between two looks.
"""
import os
import select
import sys
import termios
import time
import tty
from contextlib import contextmanager, suppress

from rich.live import Live

from common import settings
from laboratory.instruments import kernel
from laboratory.instruments.terminal import console, run
from laboratory.instruments.watching import Watch

EVERY = 0.25  # seconds between two looks, at least
SHARE = 0.2  # of one core, at most


@contextmanager
def keys():
    """Gives pressed(seconds): whether q is pressed within that time."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield lambda seconds: bool(select.select([sys.stdin], [], [], seconds)[0]) and os.read(0, 1) in b'qQ'
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def wait_for_server(port, pressed):
    """The pid of the server on that port, once there is one; None when q is pressed."""
    if pid := kernel.who_listens(port):
        return pid
    waiting = f'Nothing listens on port {port} yet: run a stage in another terminal'
    if not console.is_terminal:
        print(waiting, flush=True)
    with console.status(waiting):
        while not (pid := kernel.who_listens(port)):
            if pressed(1):
                return None
    return pid


def watch(pid, port, pressed):
    """Watch that server until it ends; return whether q was pressed."""
    seen = Watch(pid, port)
    if not console.is_terminal:
        print(seen.title, flush=True)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal, transient=True) as live:
        while kernel.alive(pid):
            began = time.process_time()
            happened = seen.look()
            if console.is_terminal:
                live.update(seen.screen(console.height), refresh=True)
            else:
                print(*happened, sep='\n', end='\n' if happened else '', flush=True)
            if pressed(max(EVERY, (time.process_time() - began) / SHARE)):
                return True
    console.print(f'The server, process {pid}, has ended.')
    return False


def main():
    port = settings.port(lowest=1)
    try:
        with keys() as pressed:
            while pid := wait_for_server(port, pressed):
                if watch(pid, port, pressed):
                    break
    except KeyboardInterrupt:
        pass  # Ctrl-C is a way to end this, as q is


if __name__ == '__main__':
    run(main)
