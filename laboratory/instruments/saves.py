"""The files that a reader edits: which they are, whether they were saved, whether Python can read them."""
import os
import re
import time
import warnings
from contextlib import suppress

from laboratory.instruments import kernel
from laboratory.instruments.own import files_in
from laboratory.instruments.process import printable

EVERY = 0.1  # seconds between two looks


def files_beside(path):
    """The files in the folder of a file with the same ending, such as .py, itself too; none without one."""
    ending = os.path.splitext(path)[1]
    if not ending:
        return []
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            return [entry.path for entry in entries if entry.is_file()
                    and entry.name.endswith(ending) and not entry.name.startswith('.')]
    except OSError:  # the folder is gone
        return []


def is_built(path):
    """Whether the file is binary, as what a compiler writes."""
    if path.endswith('.py'):
        return False
    try:
        with open(path, 'rb') as file:
            return b'\0' in file.read(1024)
    except OSError:
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
    """The files of a server, and when they were tested.

    command    that starts it, and names some of them
    folder     a relative path; of a named file below it, the files beside it count too
    """

    def __init__(self, command, folder):
        self.command, self.folder = command, folder
        self.named = set()  # those that were there at some time
        self.tested, self.before, self.next = None, None, 0

    def paths(self):
        self.named.update(os.path.relpath(path) for path in files_in(self.command) if not is_built(path))
        paths = set(self.named)
        for path in self.named:
            if path.startswith(f'{self.folder}/'):
                paths.update(files_beside(path))
        return sorted(paths)

    def look(self):
        """{path: (when it was changed, its size)} of the files that the reader edits."""
        return stamps(self.paths())

    def built(self):
        """The same for the binary files that the command names."""
        return stamps(filter(is_built, files_in(self.command)))

    def note(self):
        """From now on, only what is saved later counts."""
        self.tested = self.look()

    def were_saved(self):
        """Whether they have changed and are whole: two looks, some time apart, show the same."""
        if time.monotonic() < self.next:
            return False
        self.next = time.monotonic() + EVERY
        now, before = self.look(), self.before
        self.before = now
        return now == before != self.tested

    def problem(self):
        """Why the server cannot run: a file is missing, or is no Python but should be; '' for no reason."""
        there = self.look()
        for path in sorted(self.named):
            if path not in there:
                return f'{path} is not there.'
        return next(filter(None, map(syntax_error, filter(self.is_imported, there))), '')

    def is_imported(self, path):
        """Whether it is Python that is named, or that a named file imports."""
        name, ending = os.path.splitext(os.path.basename(path))
        imports = re.compile(rf'^\s*(?:from|import)\b.*\b{re.escape(name)}\b', re.MULTILINE)
        return ending == '.py' and (path in self.named or any(
            imports.search(kernel.read(named)) for named in self.named))


def syntax_error(path):
    """What keeps Python from compiling a file: where, the line, and why; '' for nothing."""
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            compile(file.read(), path, 'exec', dont_inherit=True)
    except SyntaxError as error:
        where = f'{path}, line {error.lineno}:' if error.lineno else f'{path}:'
        return f'{where}\n    {printable((error.text or "").strip())}\n{printable(error.msg)}'
    except OSError as error:  # it has just gone
        return f'{path}: {error.strerror}'
    except (MemoryError, RecursionError):
        return f'{path}: too deep for Python'
    except ValueError as error:  # a null character
        return f'{path}: {error}'
    return ''
