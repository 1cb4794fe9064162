"""What a server has printed: its last lines, and the errors in them."""
import errno
import os
import re

RAISED = re.compile(r'^[\w.]*(?:Error|Exception|error|Exit|Interrupt)\b.*', re.MULTILINE)  # ends a traceback
NO_FRAMEWORK = re.compile(r"No module named '?(flask|pyramid|django)\b")  # Python 2 has no quotes
QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")  # names in a program: "Did you mean: 'EINTR'?"
ERRNO = re.compile(r'\bErrno (\d+)\b|\b(E[A-Z]{3,})\b')
BY_WORDS = {os.strerror(number): name for number, name in errno.errorcode.items()}


def printable(text):
    """The text in characters that a terminal can be given: an ESC becomes \\x1b."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def last_lines(output, most=10):
    """The last lines of it, in printable characters."""
    return [printable(line.expandtabs(4)[:200]) for line in output.splitlines()[-most:]]


def last_error(output):
    """The name of the error that was printed last, as errno(3) has it: 'EINTR'; '' for none.

    ECHILD does not count: it is a child's, forked while the handler of its parent was due.
    """
    output = '\n'.join(line for line in output.splitlines() if error_in(line) != 'ECHILD')
    raised = [match.start() for match in RAISED.finditer(output)]
    # a handler may have printed into the middle of the error
    return error_in(output[raised[-1]:] if raised else '\n'.join(last_lines(output, most=3)))


def error_in(said):
    """The name of the error that a text tells of, '' for none; what an exception quotes is none."""
    said = RAISED.sub(lambda match: QUOTED.sub('', match[0]), said)
    for number, name in ERRNO.findall(said):
        if name in errno.errorcode.values() or int(number or 0) in errno.errorcode:
            return name or errno.errorcode[int(number)]
    return next((name for words, name in BY_WORDS.items() if words in said), '')
