"""Experiments at the same time, each in a process of its own, which can be ended with all that it started."""
import multiprocessing
import signal
import tempfile
import traceback
from collections import deque
from multiprocessing.connection import wait

from laboratory.instruments import kernel
from laboratory.instruments.endings import TO_CLEAN_UP, deferred, end, end_all, running
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.saves import EVERY

AT_ONCE = 8  # each waits more than it works
fork = multiprocessing.get_context('fork')


class Run:
    """A function that runs in a process of its own; heed: as deferred() gives it."""

    def __init__(self, function, heed):
        self.found, self.temporary = None, tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.pipe, their_end = fork.Pipe(duplex=False)
        self.process = fork.Process(target=answer, args=(function, their_end, heed, self.temporary.name))
        self.process.start()
        their_end.close()

    def fileno(self):
        return self.pipe.fileno()

    def receive(self):
        """Take what it sends: (what was returned, what was raised)."""
        try:
            self.found = self.pipe.recv()
        except EOFError:
            self.found = None, ServerFailed('was lost when its experiment was killed', '')
        self.end()

    def result(self):
        """What the function has returned; raises what it has raised."""
        returned, raised = self.found
        if raised:
            raise raised
        return returned

    def end(self):
        """Let it clean up; kill it, with all that it has started, where that takes too long."""
        self.process.join(TO_CLEAN_UP)
        if self.process.is_alive():
            for pid in [*kernel.family(self.process.pid), self.process.pid]:
                kernel.send(pid, signal.SIGKILL)
            self.process.join()
        self.pipe.close()
        self.temporary.cleanup()


def answer(function, pipe, heed, folder):
    """Send what the function returns, or raises; a signal ends it after it has cleaned up."""
    running.clear()  # they are the parent's
    tempfile.tempdir = folder  # which the parent removes, also where this process is killed
    signal.signal(signal.SIGCONT, signal.SIG_DFL)  # the terminal is not ours
    try:
        heed()
        signal.signal(signal.SIGTERM, end)
        pipe.send((function(), None))
    except Exception as error:
        if not isinstance(error, ServerFailed):  # it is ours, and its traceback does not go through a pipe
            traceback.print_exc()
        pipe.send((None, error))
    except KeyboardInterrupt:
        pass
    finally:
        end_all()


def at_once(runs, most=AT_ONCE, look=lambda: None):
    """Call functions that take no argument, several at the same time; yield what they return, in order.

    Whoever takes no more, or what look() raises, which is called meanwhile, ends those that still run.
    """
    waiting, begun = deque(runs), deque()
    try:
        while waiting or begun:
            busy = [run for run in begun if not run.found]
            if waiting and len(busy) < most:
                with deferred() as heed:
                    begun.append(Run(waiting.popleft(), heed))
            elif begun[0].found:
                yield begun.popleft().result()
            else:
                for run in wait(busy, EVERY):
                    run.receive()
                look()
    finally:
        for run in begun:
            run.process.terminate()
        for run in begun:
            run.end()


def alone(function, look=lambda: None):
    """What a function returns, called in a process of its own; look: as for at_once()."""
    found, = at_once([function], look=look)
    return found
