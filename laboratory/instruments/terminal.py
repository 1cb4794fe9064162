"""What the commands share: the console, and how they end."""
import errno
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from contextlib import contextmanager, suppress

from rich.console import Console

from common import settings
from laboratory.instruments.endings import ENDINGS, end, end_all, go_on
from laboratory.instruments.output import printable
from laboratory.instruments.process import ServerFailed

console = Console(highlight=False)  # knows terminals and NO_COLOR; a pipe gets plain text
STYLES = {'bug': 'bold red', 'ended': 'bold red', 'pass': 'green'}  # of outcomes
ESCAPES = re.compile(r'\x1b(\[\[?[0-?]*.|O?.?)')  # what an arrow or a function key sends


def run(main):
    """Run a command: a signal ends it after it has cleaned up, a failure with a message."""
    for signum in ENDINGS:
        is_ignored = signal.getsignal(signum) == signal.SIG_IGN  # as nohup has it
        signal.signal(signum, go_on if is_ignored else end)  # servers inherit SIG_IGN, but no handler
    sys.stdout.reconfigure(errors='replace')  # an ASCII terminal has no arrows
    status = 1
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # blocked by environment.py
            status = main()
        except KeyboardInterrupt as interrupt:
            status = 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
        except ServerFailed as failed:
            print(f'The server {failed}', file=sys.stderr)
            status = 2
        finally:
            end_all()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # a closed pipe or terminal
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
    for signum in ENDINGS:  # Python takes its own handlers away some time before it ends
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(status)


def play_clients(scene, server):
    """Be the clients of a scene; a request that fails is told, and ends it."""
    try:
        scene(server)
    except OSError as error:
        console.print(f'A request has failed: {error}', markup=False)


def predict(question):
    """Ask the reader on a terminal; return the answer, '' for none."""
    ask = settings.choice('GUESS', 'yes', 'no') == 'yes'
    console.print(question, style='bold')
    if not ask or not console.is_terminal or not os.isatty(0):
        return ''
    sys.stdin.reconfigure(errors='replace')  # any key may be pressed
    try:
        return printable(console.input('Your prediction (Enter skips): ').strip())
    except EOFError:  # Ctrl-D
        return ''


class Keys:
    """The keys that the reader presses, one by one, without Enter: a context manager.

    was_suspended    whether the command has gone on after Ctrl-Z since this was set to False
    """

    def __enter__(self):
        self.is_ours, self.was_suspended = False, False
        self.before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        signal.signal(signal.SIGCONT, self.go_on)
        self.take()
        return self

    def __exit__(self, *exc_info):
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        self.give_back()

    def go_on(self, signum, frame):
        """Take the terminal again, which the shell has had since Ctrl-Z."""
        self.was_suspended = True
        if self.is_ours:
            self.take()

    def take(self):
        self.is_ours = True
        if self.before:
            with suppress(termios.error):  # the terminal is gone, or the shell has it
                tty.setcbreak(sys.stdin)

    def give_back(self):
        self.is_ours = False
        if self.before:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.before)

    @contextmanager
    def line_by_line(self):
        """The terminal as it was before, for as long as something else reads from it."""
        self.typed()  # is no answer
        self.give_back()
        try:
            yield
        finally:
            self.take()

    def pressed(self, seconds):
        """The next key within that time, '' for none or for several; 'q' once the terminal is gone."""
        typed = self.typed(seconds)
        return typed[0] if len(set(typed)) == 1 else ''  # several at once are pasted

    def typed(self, seconds=0):
        """The keys pressed by now, else the first within that time; without arrows and function keys."""
        if not self.before:
            time.sleep(seconds)
            return ''
        if not select.select([sys.stdin], [], [], seconds)[0]:
            return ''
        return ESCAPES.sub('', os.read(0, 4096).decode(errors='replace') or 'q')
