"""Shows the server that listens on PORT, live: its processes, its connections, what happens to them.

    make watch PORT=8888

When the server ends, the command waits for the next one. q ends the command. It gets everything
from the kernel and never connects. It misses what comes and goes between two looks.
"""
import time
from contextlib import suppress

from rich.live import Live

from common import settings
from common.pid import listeners
from laboratory.instruments import kernel
from laboratory.instruments.terminal import Keys, console, run
from laboratory.instruments.views import Watch

EVERY = 0.25  # seconds between two looks, at least
SHARE = 0.2  # of one core, at most
QUIT = ['q', 'Q']


def wait_for_server(port, keys):
    """The pid of the server on that port, once there is one; None when q is pressed."""
    said = None
    with console.status('looking for the server') as status:
        while not any(found := listeners(port)):
            waiting = (f"Another user's server listens on port {port}: only root may watch it" if found else
                       f'Nothing listens on port {port} yet: run a stage in another terminal')
            if waiting != said and not console.is_terminal:
                print(waiting, flush=True)
            status.update(said := waiting)
            if keys.pressed(1) in QUIT:
                return None
    return found[0]


def watch(pid, port, keys):
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
            if keys.pressed(max(EVERY, (time.process_time() - began) / SHARE)) in QUIT:
                return True
    console.print(f'The server, process {pid}, has ended.')
    return False


def main():
    port = settings.port(lowest=1)
    with suppress(KeyboardInterrupt), Keys() as keys:  # Ctrl-C is a way to end this, as q is
        while pid := wait_for_server(port, keys):
            if watch(pid, port, keys):
                break


if __name__ == '__main__':
    run(main)
