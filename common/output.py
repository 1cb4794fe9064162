"""Printing for a reader who may have left (`make diff-part3-v1.2 | head`), on any terminal."""
import os
import sys


def show(lines):
    """Print the lines; that nobody reads them any more is no error."""
    sys.stdout.reconfigure(errors='replace')  # an ASCII terminal has no arrows
    try:
        print(*lines, sep='\n', flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
