"""What `make part3-final` runs: looks whether the stage can start, then becomes its server.

Use: run.py STAGE [module:callable], with HOST, PORT and PEP475 (on or off) in the environment.
"""
import errno
import os
import re
import socket
import sys

from common.stages import ROOT, find_stage, python_path


def check_address(host, port):
    """Exit with one line that says what is wrong with HOST or PORT, if anything is."""
    if not re.fullmatch('[0-9]{1,5}', port) or int(port) > 65535:
        sys.exit(f'PORT={port} is no port: a port is a number from 0 to 65535, such as PORT=8888')
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = 'another server listens there' if taken else error.strerror
            sys.exit(f'cannot listen on HOST={host} PORT={port}: {reason}. Another port: PORT=9000')


def main(stage, *arguments):
    if not hasattr(os, 'fork'):
        sys.exit('The servers fork, which Windows cannot do: use WSL, the Windows Subsystem for Linux')
    pep475 = os.environ.get('PEP475', 'on')
    if pep475 not in ('on', 'off'):
        sys.exit(f'PEP475={pep475}: say on, or off for the accept() of Python 2')
    check_address(os.environ.get('HOST', '127.0.0.1'), os.environ.get('PORT', '8888'))
    os.chdir(ROOT)
    os.environ['PYTHONPATH'] = python_path(pep475)
    os.execv(sys.executable, [sys.executable, find_stage(stage).server, *arguments])


if __name__ == '__main__':
    main(*sys.argv[1:])
