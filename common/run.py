"""What `make part3-final` runs: looks whether the stage can start, then becomes its server.

Use: run.py STAGE [module:callable], with HOST, PORT and PEP475 (on or off) in the environment.
"""
import os
import sys

from common import settings
from common.stages import ROOT, find_stage, python_path


def main(stage, *arguments):
    if not hasattr(os, 'fork'):
        sys.exit('The servers fork, which Windows cannot do: use WSL, the Windows Subsystem for Linux')
    server = find_stage(stage).server
    path = python_path(settings.choice('PEP475', 'on', 'off'))
    settings.free_address()
    os.chdir(ROOT)
    os.environ['PYTHONPATH'] = path
    os.execv(sys.executable, [sys.executable, server, *arguments])


if __name__ == '__main__':
    main(*sys.argv[1:])
