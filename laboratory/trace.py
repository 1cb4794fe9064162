"""Shows the system calls of a server, its children and threads as a timeline, with strace (Linux).

    make trace-part3-v1.2
    make trace SERVER='python3 my_server.py'    your own server, with its port in PORT and in place of {port}

    REQUEST=no         waits for your requests, on HOST and PORT, instead of sending one
    PEP475=off         with the accept() of Python 2
    SCENE=lost-signal  the clients of that scene, but fewer; one request where that tells enough
"""
import os
import signal
import sys
from functools import partial

from common import settings, stages
from laboratory.bugs import scene_of
from laboratory.instruments.client import one_request
from laboratory.instruments.endings import ENDINGS
from laboratory.instruments.own import as_run
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import server_path
from laboratory.instruments.terminal import console, play_clients, run
from laboratory.instruments.timeline import need_strace, traced


def wait_for_requests(server):
    """Return at Ctrl-C; another signal ends the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # until sigwait(), which cannot miss one
    console.print(f'Send requests to port {server.port}; Ctrl-C shows what happened.')
    signum = signal.sigwait(ENDINGS)
    if signum != signal.SIGINT:
        raise KeyboardInterrupt(signum)
    console.print()


def play(scene, server):
    """Be the clients of a scene, and say so meanwhile."""
    with console.status('sending requests, and waiting until all is at rest'):
        play_clients(scene, server)


def main():
    command, name = os.environ.get('SERVER'), ''.join(sys.argv[1:])
    mine = settings.choice('REQUEST', 'yes', 'no') == 'no'
    pep475 = settings.choice('PEP475', 'on', 'off')
    asked = os.environ.get('SCENE', '')
    bug = scene_of(asked)
    if bool(command) == bool(name):
        sys.exit("Name one server: make trace-part3-v1.2, or make trace SERVER='python3 my_server.py'")
    if name:
        stage = stages.find_stage(name)
        settings.check_part4()
    if mine and asked:
        sys.exit(f'SCENE={asked} sends requests of its own: leave out REQUEST=no')
    need_strace()
    host, port = settings.free_address() if mine else ('127.0.0.1', free_port())
    env = {'PYTHONPATH': server_path(pep475), 'HOST': host, 'PORT': str(port)}
    scene, app = one_request, None
    if bug and bug.scene is not one_request:
        scene, app = bug.scene, bug.apps[0]
        env |= {'WORKERS': '1', **bug.env}
    words = ['sh', '-c', as_run(command, str(port), app, pep475)] if command else [
        sys.executable, stage.server, *([app] if app else stage.arguments)]
    act = wait_for_requests if mine else partial(play, scene)
    console.print(traced(words, env, act, pep475).screen())


if __name__ == '__main__':
    run(main)
