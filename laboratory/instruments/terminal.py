"""What the commands share: the console, and how they end."""
import errno
import os
import signal
import sys

from rich.console import Console

from laboratory.instruments import kernel
from laboratory.instruments.process import ServerFailed

console = Console(highlight=False)  # knows terminals and NO_COLOR; a pipe gets plain text
STYLES = {'bug': 'bold red', 'ended': 'bold red', 'pass': 'green'}  # of outcomes
ENDINGS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # the last when the terminal is closed


def run(main):
    """Run a command: a signal ends it after it has cleaned up, a failure with a message."""
    for signum in ENDINGS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup does
            signal.signal(signum, end)
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # blocked by environment.py
        status = main()
    except KeyboardInterrupt as interrupt:
        status = 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except ServerFailed as failed:
        print(f'The server {failed}', file=sys.stderr)
        status = 2
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # nobody reads on: a closed pipe or terminal
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    finally:
        for pid in kernel.family(os.getpid()):  # what has just been started when the signal came
            kernel.send(pid, signal.SIGKILL)
    for signum in ENDINGS:  # Python takes its own handlers away some time before it ends
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(status)


def end(signum, frame):
    """Let the command clean up, once: more signals change nothing."""
    for each in ENDINGS:
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt(signum)
