"""Shows the system calls of a server, its children and threads as a timeline, with strace (Linux).

    make trace-part3-v1.2
    make trace SERVER='python3 my_server.py'    your own server, with its port in PORT and in place of {port}

    REQUEST=no      waits for your requests, on HOST and PORT, instead of sending one
    PEP475=off      with the accept() of Python 2
"""
import os
import signal
import sys

from common import settings, stages
from laboratory.instruments.process import free_port
from laboratory.instruments.terminal import ENDINGS, console, run
from laboratory.instruments.timeline import need_strace, one_request, traced


def wait_for_requests(server):
    """Return at Ctrl-C; another signal ends the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # until sigwait(), which cannot miss one
    console.print(f'Send requests to port {server.port}; Ctrl-C shows what happened.')
    signum = signal.sigwait(ENDINGS)
    if signum != signal.SIGINT:
        raise KeyboardInterrupt(signum)
    console.print()


def send_a_request(server):
    with console.status('sending one request, and waiting until all is at rest'):
        try:
            one_request(server)
        except OSError as error:
            console.print(f'The request has failed: {error}', markup=False)


def main():
    command, name = os.environ.get('SERVER'), ''.join(sys.argv[1:])
    mine = settings.choice('REQUEST', 'yes', 'no') == 'no'
    pep475 = settings.choice('PEP475', 'on', 'off')
    if bool(command) == bool(name):
        sys.exit("Name one server: make trace-part3-v1.2, or make trace SERVER='python3 my_server.py'")
    if name:
        stage = stages.find_stage(name)
        settings.check_part4()
    need_strace()
    host, port = settings.free_address() if mine else ('127.0.0.1', free_port())
    words = ['sh', '-c', command.replace('{port}', str(port))] if command else [
        sys.executable, stage.server, *stage.arguments]
    env = {'PYTHONPATH': stages.python_path(pep475), 'HOST': host, 'PORT': str(port)}
    again = 'Python retries, PEP 475' if name and pep475 == 'on' else 'the program retries'
    console.print(traced(words, env, wait_for_requests if mine else send_a_request, again).screen())


if __name__ == '__main__':
    run(main)
