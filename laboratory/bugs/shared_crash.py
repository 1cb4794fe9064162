"""loses one client in a crash, not all of them"""
import signal

from laboratory.instruments import children, kernel, views
from laboratory.instruments.client import ask
from laboratory.instruments.experiment import (
    NO_CHILD,
    NOT_TESTED,
    Case,
    Result,
    about,
    bug,
    its_own_end,
    passed,
)

CLIENTS = 3  # that are silent


def experiment(server, step):
    (other, _), *_, (_, crashing) = served = [children.connect_to_its_own(server) for _ in range(CLIENTS)]
    if not all(served_by for _, served_by in served):
        return Result(NOT_TESTED, detail=children.SILENT) if children.forks(server) else Result(
            NO_CHILD, detail=f'{children.NONE_SEEN}, or to start a thread')
    what = 'child' if crashing in server.forked else 'thread'
    step(f'{CLIENTS} clients are silent; the last one has {what} {crashing}', views.processes)
    crash(crashing, server)
    is_answered = ask(other, server)
    step(f'SIGSEGV has hit the process of that {what}, and the first client has sent its request',
         views.processes)
    if is_answered:
        return passed(f'another client is answered when the {what} of one has crashed')
    return bug('all_end', f'when the {what} of one client crashes, another client is lost as well')


def crash(pid, server):
    """Send the signal of a bug in C to a child or the process of a thread, once it waits for the request."""
    server.let_rest()
    kernel.send(pid, signal.SIGSEGV)
    server.let_rest()


def one_of_two_crashes(server):
    """What serves the second of two silent clients crashes, and the first one sends a request."""
    (other, _), (_, crashing) = [children.connect_to_its_own(server) for _ in range(2)]
    if crashing:
        crash(crashing, server)
    ask(other, server)
    server.let_rest()


CASES = {
    'all_end': Case(
        'loses all clients when one thread crashes',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; '
        'kill -SEGV $(pgrep -n -P {pid} || echo {pid}); sleep 1; curl -m 2 localhost:8888/hello',
        r'curl: \(7\)',
        'You see that nobody listens any more: your threads are one process, and crash together.', """
        A bug in a library in C makes the kernel send SIGSEGV. Send it to what serves a silent client: that is
        the newest child, or the server's own process where there is no child:
        {see}
        Only the silent client was to be lost. Is the other one answered?

        The kernel ends a process as a whole, with all its threads. What serves a client and may crash has
        to be a process of its own, and the first process only accepts clients.

        Call fork() instead of starting a thread. In the child, where it returns 0, handle the client, close
        its socket, and end with _exit(0). In Python they are os.fork() and os._exit(0)."""),
}
BUG = about(
    globals(), scene=one_of_two_crashes, when_ended=its_own_end,
    witness='when the thread of one client crashes, another client is lost as well',
    predict='Two clients are connected. What serves one of them crashes. Is the other one answered?',
    why='threads share a process: its memory, and its end. A child crashes alone.')
