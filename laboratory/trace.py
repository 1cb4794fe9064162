"""Shows the system calls of a server and its children as a timeline, by strace (Linux)."""
import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import defaultdict

from rich.table import Table

from common import settings, stages
from common.stages import python_path
from laboratory.instruments.client import exchange
from laboratory.instruments.process import ServerProcess, free_port
from laboratory.instruments.terminal import console, run

CALLS = ('listen,accept,accept4,?fork,?vfork,clone,?clone3,close,read,recvfrom,write,writev,sendto,wait4,'
         'rt_sigreturn,exit_group')
CALL = re.compile(r'(\w+)\((?P<first>-?\w*)(?P<rest>.*)\) += (?P<result>\S+)(?P<error>.*)', re.DOTALL)


class Timeline:
    """Turns the lines of strace into events: (pid, words)."""

    def __init__(self, retries):
        self.retries = retries  # who calls an interrupted accept() again
        self.server = self.listen_fd = None
        self.clients = defaultdict(set)  # for each process its descriptors of clients
        self.begun, self.again, self.events = {}, None, []

    def add(self, line):
        pid, _, text = line.partition(' ')
        if not pid.isdigit():
            return
        pid, text = int(pid), text.strip()
        if self.server is None:
            if match := re.match(r'listen\((\d+)', text):
                self.server, self.listen_fd = pid, match[1]
            return
        if text.startswith('---'):
            return self.signal(pid, text)
        if text.startswith('<...'):
            text = self.begun.pop(pid, '') + text.partition('resumed>')[2]
        elif text.startswith('accept'):
            name, again, self.again = text.partition('(')[0], self.again, None
            self.say(pid, f'{name} again ({again})' if again else f'{name} … waiting')
        if text.endswith('<unfinished ...>'):
            self.begun[pid] = text.removesuffix('<unfinished ...>')
        elif match := CALL.match(text):
            self.call(pid, match[1], match['first'], match['rest'], match['result'], match['error'])

    def say(self, pid, words):
        self.events.append((pid, words))

    def signal(self, pid, text):
        if match := re.match(r'--- SIGCHLD .*si_code=CLD_(\w+), si_pid=(\d+)', text):
            self.say(pid, f'SIGCHLD: child {match[2]} has {match[1].lower()}')

    def call(self, pid, name, first, rest, result, error):
        """One system call that has returned."""
        if name.startswith('accept'):
            if result.isdigit():
                self.clients[pid].add(result)
                self.say(pid, f'{name} → a client, descriptor {result}')
            else:  # ERESTARTSYS; what the program gets depends on its handler, see signal(7)
                self.interrupted, self.again = name, 'the kernel restarts it'
        elif name == 'rt_sigreturn' and 'EINTR' in error and self.again:
            self.again = self.retries
            self.say(pid, f'{self.interrupted} interrupted: EINTR')
        elif name in ('fork', 'vfork', 'clone', 'clone3') and 'CLONE_THREAD' not in first + rest:
            self.clients[int(result)] = set(self.clients[pid])
            self.say(pid, f'fork → child {result}')
        elif name == 'wait4':
            found = {'0': 'no child has ended', '-1': 'there is no child'}.get(result, f'reaped {result}')
            self.say(pid, f'wait4 → {found}')
        elif name == 'exit_group':
            self.clients.pop(pid, None)
            self.say(pid, 'exit')
        elif first in self.clients[pid]:
            self.on_client(pid, name, first, result)
        elif name == 'close' and first == self.listen_fd:
            self.say(pid, f'close({first}) the listening socket')

    def on_client(self, pid, name, descriptor, result):
        """A call on the socket of a client."""
        if name == 'close':
            self.clients[pid].remove(descriptor)
            last = not any(descriptor in others for others in self.clients.values())
            whose = "the parent's copy" if pid == self.server else "the child's copy"
            self.say(pid, f'close({descriptor}) {"the last copy: FIN" if last else whose}')
        elif name in ('read', 'recvfrom'):
            self.say(pid, f'recv → {result} bytes of request')
        else:
            self.say(pid, f'send → {result} bytes of reply')

    def table(self):
        rows = Table(f'server {self.server}', 'children', box=None, pad_edge=False, header_style='bold')
        for pid, words in self.events:
            style = 'bold red' if 'EINTR' in words or 'again' in words else None
            rows.add_row(*([words, ''] if pid == self.server else ['', f'{pid}: {words}']), style=style)
        return rows


def trace(command, env, request, retries):
    """Run the command under strace; print the timeline of one request, or of those until Ctrl-C."""
    if sys.platform != 'linux' or not shutil.which('strace'):
        sys.exit('This needs Linux and strace: on Debian and Ubuntu, apt install strace')
    with tempfile.NamedTemporaryFile('r') as log:
        strace = ['strace', '-f', '-q', '-o', log.name, '-e', f'trace={CALLS}', '-e', 'signal=SIGCHLD']
        with ServerProcess([*strace, *command], env=env) as server:
            if request:
                with console.status('sending one request, and waiting until all is at rest'):
                    server.let_rest()
                    exchange(server)
                    server.let_rest()
            else:
                enough = {signal.SIGINT, signal.SIGTERM}
                signal.pthread_sigmask(signal.SIG_BLOCK, enough)  # until sigwait(), which cannot miss one
                console.print(f'Send requests to port {server.port}; Ctrl-C shows what happened.')
                signal.sigwait(enough)
                print()
            timeline = Timeline(retries)
            for line in log:
                timeline.add(line)
    console.print(timeline.table())


def main():
    parser = argparse.ArgumentParser(prog='make trace', description=__doc__)
    parser.add_argument('stage', nargs='?', help='part3-v1.2, for example')
    parser.add_argument('--server', default=os.environ.get('SERVER'), help='a command of your own instead')
    parser.add_argument('--request', choices=['yes', 'no'], default=os.environ.get('REQUEST', 'yes'),
                        help='no: wait for yours, on PORT')
    args = parser.parse_args()
    if not (args.stage or args.server):
        parser.error("name a server: make trace SERVER='python3 my_server.py'")
    pep475 = os.environ.get('PEP475', 'on')
    port = str(free_port())
    if args.request == 'no':
        port = str(settings.free_address()[1])
    env = {'PYTHONPATH': python_path(pep475), 'PORT': port}
    if args.stage:
        stage = stages.find_stage(args.stage)
        app = ['wsgiapp:app'] if stage.part == 'part2' else []
        command = [sys.executable, stage.server, *app]
    else:
        command = ['sh', '-c', args.server.replace('{port}', port)]
    python = args.stage or 'python' in args.server
    retries = 'Python retries, PEP 475' if python and pep475 == 'on' else 'the server retries'
    trace(command, env, args.request == 'yes', retries)


if __name__ == '__main__':
    run(main)
