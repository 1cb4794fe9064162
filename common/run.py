"""What `make part3-final` runs: looks whether the stage can start, then becomes its server.

HOST, PORT, PEP475 (on or off) and, where a stage runs an application, APP are in the environment; in
part 4 also WORKERS and the time limits that the top of a server.py names.
"""
import os
import sys

from common import environment, settings
from common.stages import ROOT, find_stage, python_path

FRAMEWORKS = 'flaskapp', 'pyramidapp', 'djangoapp'  # those of part2/apps that need .venv


def main(name):
    if not hasattr(os, 'fork'):
        sys.exit('The servers fork, which Windows cannot do: use WSL, the Windows Subsystem for Linux')
    stage, python, app = find_stage(name), sys.executable, os.environ.get('APP')
    arguments = [app] if app and stage.arguments else stage.arguments
    path = python_path(settings.choice('PEP475', 'on', 'off'), root='')
    settings.check_part4()
    host, port = settings.free_address()
    if arguments and arguments[0].partition(':')[0] in FRAMEWORKS:
        python = environment.python()
    os.chdir(ROOT)
    os.environ |= {'PYTHONPATH': path, 'HOST': host, 'PORT': str(port)}
    os.execv(python, [python, stage.server, *arguments])


if __name__ == '__main__':
    main(*sys.argv[1:])
