"""Makes .venv, with what requirements.txt lists, where it is missing or old; then becomes its Python.

Use: python3 -m common.environment -m laboratory.watch
"""
import fcntl
import importlib.util
import os
import signal
import subprocess
import sys

from common.stages import ROOT

VENV = ROOT / '.venv'
REQUIREMENTS = ROOT / 'requirements.txt'
STAMP = VENV / 'made-for'  # written last: the Python and the requirements that it was made for


def python():
    """The path of the Python in .venv, which is made first where it has to be.

    Two commands that need it at once take turns: the lock is on requirements.txt.
    """
    with open(REQUIREMENTS) as requirements:
        fcntl.flock(requirements, fcntl.LOCK_EX)
        if not is_ready():
            make()
            STAMP.write_text(wanted())
    return str(VENV / 'bin/python')


def wanted():
    """What the stamp of .venv should say."""
    return f'# Python {sys.version.split()[0]}\n{REQUIREMENTS.read_text()}'


def is_ready():
    return STAMP.exists() and STAMP.read_text() == wanted()


def make():
    if importlib.util.find_spec('ensurepip') is None:
        sys.exit(f'{sys.executable} cannot set up .venv: on Debian and Ubuntu, apt install python3-venv')
    print(f'Setting up .venv for Python {sys.version.split()[0]}, which takes a minute ...', file=sys.stderr)
    outside = getattr(sys, '_base_executable', sys.executable)  # where this is the Python of a .venv itself
    run(outside, '-m', 'venv', '--clear', VENV)
    pip = VENV / 'bin/python', '-m', 'pip', '--disable-pip-version-check', '--retries', '1'
    run(*pip, 'install', '--quiet', '-r', REQUIREMENTS)


def run(*command):
    """Run it; where it fails, exit with one line: the last that it printed."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode:
        said = ran.stdout.strip().splitlines() or ['']
        sys.exit(f'cannot set up .venv (stages need no network, but this command does, once): {said[-1]}')


if __name__ == '__main__':
    try:
        path = python()
    except KeyboardInterrupt:
        sys.exit(130)
    if any(word.startswith('laboratory.') for word in sys.argv[2:3]):  # terminal.run() takes Ctrl-C
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(path, [path, *sys.argv[1:]])
