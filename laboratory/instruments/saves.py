"""The files that a reader edits: which they are, and whether they were saved."""
import os
import re
import shlex
from contextlib import suppress
from glob import escape, glob

EVERY = 0.1  # seconds between two looks


def files_in(command):
    """The files that a command names."""
    command = re.sub(r'>+\s*\S+', '>', command)  # what it writes to is no file of the reader
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # the shell will say what is wrong with it
        words = command.split()
    return [word for word in words if os.path.isfile(word)]


def files_beside(path):
    """The files in the folder of a file with the same ending, such as .py, itself too; none without one."""
    ending = os.path.splitext(path)[1]
    return glob(os.path.join(escape(os.path.dirname(path)), f'*{escape(ending)}')) if ending else []


def is_built(path):
    """Whether the file is binary, as what a compiler writes."""
    with suppress(OSError), open(path, 'rb') as file:
        return b'\0' in file.read(1024)
    return False


def stamps(paths):
    """{path: (when it was changed, its size)} of those that are there; a network has no other notice."""
    found = {}
    for path in paths:
        with suppress(OSError):  # an editor is just replacing it
            stat = os.stat(path)
            found[path] = stat.st_mtime_ns, stat.st_size
    return found


class Files:
    """The files of the server that a command starts: those that it names, and those beside them."""

    def __init__(self, command):
        self.command = command
        self.note()

    def look(self):
        """The stamps of the files that the reader edits."""
        named = {path for path in files_in(self.command) if not is_built(path)}
        return stamps(named.union(*map(files_beside, named)))

    def note(self):
        """From now on, only what is saved later counts."""
        self.tested = self.before = self.look()

    def were_saved(self):
        """Whether they have changed and are whole: this look and the one before show the same."""
        now, before = self.look(), self.before
        self.before = now
        return now == before != self.tested
