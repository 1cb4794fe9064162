"""A run as steps: what each line, call, signal and client has done, and how all looks afterwards.

It is made from what strace and the clients have written (see turns.py), with the model of a kernel.
"""
import re
from ast import literal_eval
from typing import NamedTuple

from common.stages import ROOT
from laboratory.instruments.calls import HANDLERS, PYTHON, called
from laboratory.instruments.looks import WHERE
from laboratory.instruments.model import Kernel
from laboratory.instruments.timeline import FORKS, WAIT, parse

SIGNAL = re.compile(r'--- (SIG\w+) \{.*?si_code=(\w+)(?:, si_pid=(\d+))?.*\} ---')
STOPPED = re.compile(r'--- stopped by (\w+)')
ENDED = re.compile(r'\+\+\+ (?:exited with (\d+)|killed by (\w+))')
MARK = re.compile(r'"/(line|back)/(\d+)"')  # a line begins, or what it has called has returned
CLIENT = re.compile(r'client (\d+) ([a-z ]+?)(?: (\d+))?(?: (b[\'"].*))?$')
SHOWN = 200  # bytes of what a client sends and gets
FIRST_PORT = 50001  # of clients, as it is shown
DATE = re.compile(r'\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT')
ONE_DATE = 'Thu, 01 Jan 2026 00:00:00 GMT'


class Step(NamedTuple):
    who: str  # the name of a process or client
    kind: str  # line, waits, returns, call, signal, exit, client or folded
    keys: list  # of what is said, see sentences.py
    values: dict  # for the words that are said
    line: int | None
    call: str
    after: dict  # how all looks after it, as the page shows it


class Client:
    """One of the clients: its connection, what it has sent and got, and its state in words."""

    def __init__(self, number, connection):
        self.name, self.connection, self.state = f'client {number}', connection, 'is connected'
        self.texts, self.sizes = {'sent': b'', 'got': b''}, {'sent': 0, 'got': 0}

    def add(self, what, size, data):
        self.sizes[what] += size
        self.texts[what] = (self.texts[what] + literal_eval(data or "b''"))[:SHOWN]

    def shown(self):
        return {what: printed(text, self.sizes[what]) for what, text in self.texts.items()} | {
            'state': self.state}


class Steps:
    """The steps of a story, as a StagedServer has it.

    differs    where the model and the kernel do not agree, as compare(kernel, look) says
    """

    def __init__(self, story, looks=(), server=None, port=8888, compare=lambda kernel, look: []):
        parsed = parse(story)
        self.kernel, self.looks, self.compare, self.port = Kernel(), looks, compare, port
        self.steps, self.differs, self.clients = [], [], {}
        self.output, self.has_begun, self.in_vain = '', False, set()
        self.calls, self.interrupted = {}, {}  # by pid: the call that has begun; one that a signal ended
        self.ending = set()  # the processes that end with all of their threads
        self.returned = set()  # the pids that have come back to a line, from what was called there
        self.numbers = {str(port): '8888'}  # what is shown for pids and ports, which are others in each run
        self.forks = {int(call.result): call for what, call in parsed
                      if what == 'ends' and call.name in FORKS and call.result.isdigit()}
        self.kernel.start(server or next(call.pid for what, call in parsed if what == 'begins'))
        for what, step in in_order(parsed):
            if what == 'other':
                self.on_other(*step)
            elif process := self.process(step.pid):
                (self.on_begin if what == 'begins' else self.on_end)(process, step)

    def process(self, pid):
        """The Process of that pid, None for one that is not of the server's family."""
        fork = self.forks.get(pid)
        if pid not in self.kernel.processes and fork and self.process(fork.pid):
            HANDLERS['fork'](self, self.process(fork.pid), fork, 'call')
        return self.kernel.processes.get(pid)

    def normal(self, text):
        """A text with pids, ports, dates and paths that are the same in each run."""
        pids = {str(pid): str(process.number) for pid, process in self.kernel.processes.items()}
        text = DATE.sub(ONE_DATE, text.replace(f'{ROOT}/', ''))
        return re.sub(r'\d+', lambda number: (pids | self.numbers).get(number[0], number[0]), text)

    def say(self, who, kind, *keys, call='', **values):
        """A step, once the server's own code has begun."""
        if self.has_begun:
            clients = {client.name: client.shown() for client in self.clients.values()}
            after = self.kernel.shown() | {'clients': clients, 'output': self.output}
            self.steps.append(Step(who.name, kind, [*keys], values, getattr(who, 'line', None), call, after))

    def on_other(self, pid, text):
        """A note of the StagedServer, a signal, or an end."""
        process = self.process(pid)
        if pid == 0:
            self.on_note(text)
        elif process and (match := SIGNAL.match(text)):
            self.on_signal(process, *match.groups())
        elif process and (match := STOPPED.match(text)):
            self.on_stop(process, match[1])
        elif process and (match := ENDED.match(text)):
            self.on_exit(process, *match.groups())

    # notes

    def on_note(self, text):
        if match := CLIENT.match(text):
            number, does, size, data = match.groups()
            self.on_client(number, does, int(size or 0), data)
        elif text == 'all rest':
            self.on_rest()
        elif text in ('goes on', 'the end'):
            self.on_the_end(text)
        else:
            number = int(text.split()[1])
            self.on_look(self.looks[number] if number < len(self.looks) else None)

    def on_look(self, look):
        """All rest: who has begun a call waits in it."""
        for pid, process in list(self.kernel.processes.items()):
            task = look and look.tasks.get(pid)
            if process.state == 'runs' and pid in self.calls:
                self.on_wait(process, self.calls[pid])
            elif process.state == 'runs' and task and not task.is_at_a_line() and task.waits in WHERE:
                process.state, process.where = 'waits', WHERE[task.waits]
                self.say(process, 'waits', 'waits', call=process.where, where=process.where)
        if look:
            self.kernel.note_early(look.sockets)
            self.differs += self.compare(self.kernel, look)

    def on_rest(self):
        """All rest: clients that wait do so in vain. It is said once."""
        for client in self.clients.values():
            if client.state.startswith('waits') and (client, client.state) not in self.in_vain:
                self.in_vain.add((client, client.state))
                connection, size = client.connection, client.sizes['got']
                holders = [process for process, _ in self.kernel.holders_of(connection)]
                servers = self.kernel.processes.values() if connection.in_backlog else holders
                places = [(each.name, each.state, each.where) for each in servers
                          if each.state in ('waits', 'stopped')]
                what = 'backlog' if connection.in_backlog else 'end' if size else 'reply'
                self.say(client, 'client', f'in vain {what}', n=connection.number, size=size,
                         holders=[each.name for each in holders], places=places)

    def on_the_end(self, how):
        """What is left when the run ends."""
        server, *others = self.kernel.processes.values()
        zombies = [each.name for each in others if each.state == 'zombie']
        if how == 'goes on' or zombies:
            self.say(server, 'folded', how, zombies=zombies)

    def on_client(self, number, does, size, data):
        """What a client has done, see turns.Client."""
        if does == 'connects from':
            self.clients[number] = Client(number, self.kernel.connect(size))
            self.numbers[str(size)] = str(FIRST_PORT + int(number) - 1)
        client = self.clients[number]
        connection, key = client.connection, does
        before = connection.states['server']
        if does == 'sends':
            client.add('sent', size, data)
            client.state = 'waits for a reply'
            key = 'sends and is reset' if connection.send('client', size) else does
        elif does == 'receives':
            client.add('got', size, data)
            connection.receive('client', size)
            client.state, key = ('waits for the end', does) if size else ('has the end', 'receives FIN')
        elif does == 'is reset':
            client.state = 'was reset'
        elif does == 'shuts down':
            connection.finish('client')
        elif does in ('closes', 'resets'):
            client.state = 'is gone'
            sent, after = connection.close('client', does == 'closes'), connection.states['server']
            key = f'{does} {after}' if sent and after != before else does
        self.say(client, 'client', key, n=connection.number, size=size)

    # signals and ends

    def on_signal(self, process, name, code, pid):
        sender = self.kernel.processes.get(int(pid or 0))
        values = {'signal': name, 'child': sender and sender.name}
        for stopped in process, code == 'CLD_CONTINUED' and sender:  # SIGCONT may be delivered after others
            if stopped and stopped.state == 'stopped':
                stopped.state = stopped.was
                self.say(stopped, 'signal', 'continues')
        process.main.pending.discard(name)
        if process.handles(name):
            then = 'interrupts' if process.state == 'waits' else 'handler next'
            process.state, where, process.where = 'runs', process.where, ''
            self.say(process, 'signal', code if name == 'SIGCHLD' else 'signal', then, where=where, **values)
        elif name == 'SIGCHLD' and sender and sender.state != 'gone':
            self.say(process, 'signal', code, 'no handler', **values)

    def on_stop(self, process, name):
        process.was, process.state = process.state, 'stopped'
        self.notify(process)
        self.say(process, 'signal', 'stopped', signal=name)

    def notify(self, process):
        """SIGCHLD for the parent, where it has a handler; return whether one was pending already."""
        parent = process.main.parent
        if not parent or process.is_thread or not parent.handles('SIGCHLD'):
            return False
        was_pending = 'SIGCHLD' in parent.pending
        parent.pending.add('SIGCHLD')
        return was_pending

    def on_exit(self, process, status, signal):
        self.calls.pop(process.pid, None)
        closed = self.kernel.exit(process)
        if process.is_thread and (signal or process.main in self.ending):
            return  # its process ends, which says all
        sent = {each.sent for each in closed} - {''}
        clients = [f'client {each.file.connection.number}' for each in closed if each.sent]
        how = 'killed' if signal else 'thread ends' if process.is_thread else 'exit'
        how += ' status' * (how == 'exit' and status != '0')
        keys = [how, *(f'exit {what}' for what in sorted(sent))]
        if process.state == 'zombie':
            keys += ['zombie', *['merged'] * self.notify(process)]
        self.say(process, 'exit', *keys, status=status, signal=signal, clients=clients,
                 parent=process.parent and process.parent.name)

    # system calls

    def on_begin(self, process, call):
        self.calls[process.pid] = call
        if call.name == 'exit_group':
            self.ending.add(process.main)

    def on_wait(self, process, call):
        """It has begun to wait in a call."""
        name = self.name_of(process, call)
        process.state, process.where = 'waits', f'{name}()'
        again = self.interrupted.pop(process.pid, None) == name and process.pid in self.returned
        self.say(process, 'waits', 'again' if again else f'{name} waits', call=called(name, call),
                 where=process.where, **self.about(process, call))

    def on_end(self, process, call):
        self.calls.pop(process.pid, None)
        name = self.name_of(process, call)
        if call.result == '?':  # a signal decides whether it is called again, or this is the end
            self.interrupted[process.pid] = name
            return
        if self.interrupted.get(process.pid) == name:
            del self.interrupted[process.pid]
        kind = 'call'
        if process.state == 'waits':
            kind, process.state, process.where = 'returns', 'runs', ''
        if mark := MARK.match(call.args):
            self.on_mark(process, mark[1], int(mark[2]))
        elif handle := HANDLERS.get(name):
            handle(self, process, call, kind)

    def on_mark(self, process, what, line):
        self.has_begun, process.line = True, line or process.line
        if what == 'line':
            self.returned.discard(process.pid)
            self.say(process, 'line', 'line', number=line)
        else:
            self.returned.add(process.pid)

    def name_of(self, process, call):
        """What a call is called here: to read from a connection is recv()."""
        file = process.table.get(call.first)
        is_file = call.name in ('read', 'write') and not (file and file.connection)
        return call.name if is_file else PYTHON.get(call.name, call.name)

    def about(self, process, call):
        """What a sentence may say of the file that a call is about."""
        file = process.table.get(call.first)
        connection = file and file.connection
        return {'fd': call.first, 'what': str(file), 'n': connection and connection.number}


def in_order(parsed):
    """What strace has seen; where one event ends the calls of several processes, the oldest comes first."""
    for at in range(1, len(parsed)):
        (before, first), (what, second) = parsed[at - 1:at + 1]
        if before == what == 'ends' and {first.name, second.name} <= {*WAIT} and first.pid > second.pid:
            parsed[at - 1:at + 1] = (what, second), (before, first)
    return parsed


def printed(data, size):
    """Bytes as text of ASCII; what is left out is told."""
    text = DATE.sub(ONE_DATE, repr(data)[2:-1].replace("\\'", "'"))
    return text + f'… ({size} bytes)' * (size > len(data))
