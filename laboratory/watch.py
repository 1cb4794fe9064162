"""Shows, live, the server that listens on PORT: its processes, its connections, what happens to them.

    make watch PORT=8888

q ends it. It looks through the kernel and never connects. What comes and goes between two looks is
not seen.
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

EVERY = 0.25  # seconds between two looks at the least
SHARE = 0.06  # of one core at the most


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


def watch(port, pressed):
    """Wait for a server on that port and watch it until it ends or q is pressed."""
    with console.status(f'Nothing listens on port {port} yet: run a stage in another terminal'):
        while not (pid := kernel.who_listens(port)):
            if pressed(1):
                return
    seen = Watch(pid, port)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal, transient=True) as live:
        while kernel.status(seen.pid) not in ('gone', 'zombie'):
            began = time.process_time()
            happened = seen.look()
            if console.is_terminal:
                live.update(seen.screen(console.height), refresh=True)
            else:
                print(*happened, sep='\n', end='\n' if happened else '', flush=True)
            if pressed(max(EVERY, (time.process_time() - began) / SHARE)):
                return
    console.print(f'The server, process {seen.pid}, has ended.')


def main():
    try:
        with keys() as pressed:
            watch(settings.port(lowest=1), pressed)
    except KeyboardInterrupt:
        pass  # Ctrl-C is a way to end this, as q is


if __name__ == '__main__':
    run(main)
