"""What the commands share: the console, and how they end."""
import signal
import sys

from rich.console import Console

from laboratory.instruments.process import ServerFailed

console = Console(highlight=False)  # knows terminals and NO_COLOR; a pipe gets plain text
STYLES = {'bug': 'bold red', 'ended': 'bold red', 'holds': 'green'}  # of outcomes


def run(main):
    """Run a command: Ctrl-C and SIGTERM end it after it has cleaned up, a failure with a message."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ServerFailed as failed:
        print(failed, file=sys.stderr)
        sys.exit(2)
