"""Makes .venv, with what requirements.txt lists, where it is missing or old; then becomes its Python.

Use: python3 -m common.environment -m laboratory.watch
"""
import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile

from common.stages import ROOT

STAMP = 'made-for'  # written last


def python(name='.venv', requirements='requirements.txt', needs=(), extras=()):
    """The path of the Python in an environment in the top folder, which is made first where it has to be.

    Two commands that need it at once take turns. Where it cannot be made, exits with one line.

    requirements    a file, in the top folder: when it changes, the environment is made anew
    needs           what pip is told to install, as words; else all of that file
    extras          more of these words; what cannot be installed is left out
    """
    what = name, requirements, extras
    try:
        with open(ROOT / requirements) as lock:
            if not is_ready(*what):
                take(lock, name)
            if not is_ready(*what):
                make(ROOT / name, needs or ['-r', requirements], extras)
                (ROOT / name / STAMP).write_text(wanted(requirements, extras))
    except KeyboardInterrupt:
        sys.exit(130)
    return str(ROOT / name / 'bin/python')


def wanted(requirements, extras):
    """What the stamp of an environment should say: the Python and all else that it was made for."""
    return '\n'.join([f'# Python {sys.version.split()[0]}', (ROOT / requirements).read_text(), *extras])


def is_ready(name='.venv', requirements='requirements.txt', extras=()):
    stamp = ROOT / name / STAMP
    return stamp.exists() and stamp.read_text() == wanted(requirements, extras)


def take(lock, name):
    """Lock the file, which another command does as long as it makes the environment."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'Waiting for another command, which sets up {name} ...', file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def make(folder, needs, extras):
    if importlib.util.find_spec('ensurepip') is None:
        sys.exit(f'{sys.executable} cannot set up {folder.name}: '
                 'on Debian and Ubuntu, apt install python3-venv')
    print(f'Setting up {folder.name} for Python {sys.version.split()[0]}, which takes a minute ...',
          file=sys.stderr)
    outside = getattr(sys, '_base_executable', sys.executable)  # where this is the Python of a .venv itself
    pip = folder / 'bin/python', '-m', 'pip', '--disable-pip-version-check', '--retries', '1', 'install'
    run(folder, outside, '-m', 'venv', '--clear', folder)
    run(folder, *pip, *needs)
    for extra in extras:
        ran(*pip, extra)


def run(folder, *command):
    """Run it; where it fails, exit with one line: the last that it printed."""
    if (done := ran(*command)).returncode:
        said = done.stdout.strip().splitlines() or ['']
        sys.exit(f'cannot set up {folder.name} (stages need no network, but this command does, once): '
                 f'{said[-1]}')


def ran(*command):
    """Run it in the top folder, with temporary files that Ctrl-C removes too; return what subprocess does."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        return subprocess.run(command, cwd=ROOT, env={**os.environ, 'TMPDIR': temporary}, text=True,
                              errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


if __name__ == '__main__':
    path = python()
    if any(word.startswith('laboratory.') for word in sys.argv[2:3]):  # terminal.run() takes Ctrl-C
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(path, [path, *sys.argv[1:]])
