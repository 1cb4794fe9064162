"""A run as steps: what each line, call, signal and client has done, and how all looks afterwards.

It is made from what strace and the clients have written (see turns.py), with the model of a kernel.
"""
import re
from types import SimpleNamespace
from typing import NamedTuple

from laboratory.instruments.calls import HANDLERS, PYTHON, called, wait_shown
from laboratory.instruments.looks import WHERE
from laboratory.instruments.model import Kernel
from laboratory.instruments.sentences import joined
from laboratory.instruments.shown import Client, same
from laboratory.instruments.timeline import FORKS, oldest_first, parse

SIGNAL = re.compile(r'--- (SIG\w+) \{.*?si_code=(\w+)(?:, si_pid=(\d+))?.*\} ---')
STOPPED = re.compile(r'--- stopped by (\w+)')
ENDED = re.compile(r'\+\+\+ (?:exited with (\d+)|killed by (\w+))')
MARK = re.compile(r'"/(line|back|raised|uncaught|handler|handled)/(\d+)(?:/([^"]*))?"')  # see marked_lines
CLIENT = re.compile(r'client (\d+) ([a-z ]+?)(?: (\d+))?(?: (b[\'"].*))?$')
GOES_ON = re.compile(r'goes on(?: (\d+) (\w+))?')
FIRST_PORT = 50001  # of clients, as it is shown
NOBODY = SimpleNamespace(name='kernel')  # who does what no process and no client does


class Step(NamedTuple):
    who: str  # the name of a process or client
    kind: str  # line, waits, returns, call, signal, exit, client or folded
    keys: list  # of what is said, see sentences.py
    values: dict  # for the words that are said
    line: int | None
    call: str
    after: dict  # how all looks after it, as the page shows it


class Steps:
    """The steps of a story, as a StagedServer has it.

    output     the end of what was printed; printed: all of it, in characters
    differs    where the model and the kernel do not agree, as compare(kernel, look) says
    """

    def __init__(self, story, looks=(), server=None, port=8888, compare=lambda kernel, look: []):
        parsed = parse(story)
        self.kernel, self.looks, self.compare, self.port = Kernel(), looks, compare, port
        self.steps, self.differs, self.clients = [], [], {}
        self.output, self.printed, self.has_begun, self.in_vain = '', 0, False, set()
        self.calls, self.interrupted = {}, {}  # by pid: the call that has begun; one that a signal ended
        self.failed = set()  # the pids in which that one has returned EINTR
        self.ending = set()  # the processes that end with all of their threads
        self.returned = set()  # the pids that have come back to a line, from what was called there
        self.raising = {}  # by pid: the error that was raised last
        self.forked = set()  # the pids of children that have not begun a line yet
        self.beginning = set()  # the pids that come to a handler with their next line
        self.passing = set()  # the pids in which an error passes from function to function
        self.sent, self.lost = 0, 0  # SIGCHLDs of children that have ended: those that came, and the others
        self.numbers = {str(port): '8888'}  # what is shown for pids and ports, which are others in each run
        self.forks = {int(call.result): call for what, call in parsed
                      if what == 'ends' and call.name in FORKS and call.result.isdigit()}
        self.kernel.start(server or next(call.pid for what, call in parsed if what == 'begins'))
        for what, step in oldest_first(parsed):
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
        """A text with pids and ports that are the same in each run."""
        pids = {str(pid): str(process.number) for pid, process in self.kernel.processes.items()}
        return same(text, pids | self.numbers)

    def say(self, who, kind, *keys, call='', **values):
        """A step, once the server's own code has begun."""
        if getattr(who, 'back', None):
            who.line, who.back = who.back, None
        if self.has_begun:
            clients = {client.name: client.shown() for client in self.clients.values()}
            after = self.kernel.shown() | {'clients': clients, 'output': (self.printed, self.output)}
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
        elif text == 'the end':
            self.on_the_end()
        elif match := GOES_ON.match(text):
            number, what = match.groups()
            self.say(NOBODY, 'folded', f'goes on {what}' if what else 'goes on', count=number)
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
                process.state, process.where, process.waits_for = 'waits', WHERE[task.waits], ''
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
                places = self.places(servers)
                what = 'backlog' if connection.in_backlog else 'end' if size else 'reply'
                self.say(client, 'client', f'in vain {what}', n=connection.number, size=size,
                         holders=[each.name for each in holders], places=places)

    def on_the_end(self):
        """What is left when the run ends."""
        processes, backlog = [*self.kernel.processes.values()], self.kernel.backlog()
        zombies = [each for each in processes if each.state == 'zombie']
        holder, fd, n = next((
            (process.name, fd, file.connection.number) for process, fd, file in self.kernel.descriptors()
            if file.connection and file.connection.states['server'] == 'CLOSE_WAIT'), (None, '', 0))
        unclosed = [each.name for each in self.clients.values()
                    if each.connection.states['client'] == 'CLOSE_WAIT']
        places = [*self.places(processes), *((f'client {each.number}', 'backlog', '') for each in backlog)]
        is_stuck = backlog or any(each.handling for each in processes if each.state == 'waits')
        keys = {'ends lost': zombies and self.lost, 'ends zombies': zombies, 'ends open': holder,
                'ends unclosed': unclosed, 'ends stuck': places and is_stuck,
                'ends waiting': places and not is_stuck}
        self.say(NOBODY, 'folded', 'the end', *(key for key, is_so in keys.items() if is_so),
                 zombies=[each.name for each in zombies], zombies_of=zombies and zombies[0].parent.name,
                 ended=self.sent + self.lost, times='once' if self.sent == 1 else f'{self.sent} times',
                 holder=[holder], fd=fd, n=n, unclosed=unclosed, places=places)

    def places(self, processes):
        """Where those wait that do: (name, state, call and whom it waits for)."""
        found = []
        for each in processes:
            if each.state in ('waits', 'stopped'):
                client = self.clients.get(each.waits_for.removeprefix('client '))
                whom = f' for {each.waits_for}' * bool(each.waits_for)
                whom += ', which has sent nothing' * bool(client and not client.sizes['sent'])
                found.append((each.name, each.state, each.where + whom))
        return found

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
            client.state = 'waits for the end' if size else 'has the whole reply'
            key = does if size else 'receives FIN'
        elif does == 'is reset':
            client.state = 'was reset'
        elif does == 'shuts down':
            connection.finish('client')
        elif does in ('closes', 'resets'):
            gives_up, client.state = (client, client.state) in self.in_vain, 'is gone'
            sent, after = connection.close('client', does == 'closes'), connection.states['server']
            key = f'{does} {after}' if sent and after != before else does
            key = 'gives up' if gives_up and key == 'closes CLOSE_WAIT' else key
        self.say(client, 'client', key, n=connection.number, size=size)

    # signals and ends

    def on_signal(self, process, name, code, pid):
        sender = self.kernel.processes.get(int(pid or 0))
        values = {'signal': name, 'child': sender and sender.name}
        for stopped in process, code == 'CLD_CONTINUED' and sender:  # SIGCONT may be delivered after others
            if stopped and stopped.state == 'stopped':
                stopped.state = stopped.was
                self.say(stopped, 'signal', 'continues', *self.notify(stopped),
                         parent=stopped.parent and stopped.parent.name)
        process.main.pending.discard(name)
        self.sent += name == 'SIGCHLD' and code not in ('CLD_STOPPED', 'CLD_CONTINUED')
        if process.handles(name):
            then = 'interrupts' if process.state == 'waits' else 'handler next'
            process.state, where, process.where = 'runs', process.where, ''
            self.say(process, 'signal', code if name == 'SIGCHLD' else 'signal', then, where=where, **values)
        elif name == 'SIGCHLD' and sender and sender.state != 'gone':
            then = 'no handler waits' if process.state == 'waits' else 'no handler'
            self.say(process, 'signal', code, then, where=process.where, **values)

    def on_stop(self, process, name):
        process.was, process.state = process.state, 'stopped'
        children = [each for each in self.kernel.children(process) if each.is_alive]
        keys = ['stopped', *['children go on'] * bool(children), *self.notify(process)]
        self.say(process, 'signal', *keys, signal=name, parent=process.parent and process.parent.name)

    def notify(self, process):
        """SIGCHLD for the parent, pending where it has a handler; return the keys of what is said of it."""
        parent = process.main.parent
        if not parent or process.is_thread or parent.handlers.get('SIGCHLD') == 'SIG_IGN':
            return []
        if 'SIGCHLD' in parent.pending:
            return ['merged']
        if parent.handles('SIGCHLD'):
            parent.pending.add('SIGCHLD')
        return ['sends SIGCHLD', *['stays pending'] * (parent.state == 'stopped')]

    def on_exit(self, process, status, signal):
        self.calls.pop(process.pid, None)
        closed = self.kernel.exit(process)
        if process.is_thread and (signal or process.main in self.ending):
            return  # its process ends, which says all
        fin, rst = ([f'client {each.file.connection.number}' for each in closed if each.sent == sent]
                    for sent in ('FIN', 'RST'))
        how = 'killed' if signal else 'thread ends' if process.is_thread else 'exit'
        how += ' status' * (how == 'exit' and status != '0')
        keys = [how, *['exit FIN'] * bool(fin), *['exit RST'] * bool(rst)]
        if process.state == 'zombie':
            keys += ['zombie', *self.notify(process)]
            self.lost += 'merged' in keys
        self.say(process, 'exit', *keys, status=status, signal=signal, clients=fin, reset=rst,
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
        about = self.about(process, call)
        shown = wait_shown(self, call) if name == 'wait' else called(name, call)
        is_again = self.interrupted.pop(process.pid, None) == name and process.pid in self.failed
        children = [each.name for each in self.kernel.children(process) if each.is_alive]
        keys, child = [f'{name} waits'], None
        if is_again and process.pid in self.returned:
            keys = ['again']
        elif is_again and self.raising.get(process.pid) == 'InterruptedError':
            keys = ['called again']
        elif name == 'wait' and call.first.isdigit() and int(call.first) in self.kernel.processes:
            keys, child = ['wait waits for one'], self.kernel.processes[int(call.first)].name
        elif name == 'wait' and process.handling:
            keys += ['accepts nobody']
        client = f'client {about["n"]}' * bool(about['n'])
        process.waits_for = child or (joined(children) if children and name == 'wait' else client)
        self.say(process, 'waits', *keys, call=shown, where=process.where, child=child, **about)

    def on_end(self, process, call):
        self.calls.pop(process.pid, None)
        name = self.name_of(process, call)
        if call.result == '?':  # a signal decides whether it is called again, or this is the end
            self.interrupted[process.pid] = name
            self.failed.discard(process.pid)
            return
        if self.interrupted.get(process.pid) == name:
            del self.interrupted[process.pid]
        kind = 'call'
        if process.state == 'waits':
            kind, process.state, process.where = 'returns', 'runs', ''
        if mark := MARK.match(call.args):
            self.on_mark(process, mark[1], int(mark[2]), mark[3])
        elif handle := HANDLERS.get(name):
            handle(self, process, call, kind)

    def on_mark(self, process, what, line, name):
        self.has_begun, pid = True, process.pid
        if what == 'line':
            key = 'line of the child' if pid in self.forked else 'line'
            if pid in self.beginning:
                again = process.handling[-1] in process.handling[:-1]
                key = 'handler begins again' if again else 'handler begins'
            process.line, process.back = line, None
            caught = self.raising[pid] if pid in self.passing else ''
            for marked in self.returned, self.forked, self.beginning, self.passing:
                marked.discard(pid)
            self.say(process, 'line', key, number=line, caught=caught,
                     handler=f'{(process.handling or [""])[-1]}()')
        elif what == 'back':
            process.back = line
            self.returned.add(pid)
        elif what == 'raised':
            self.on_raised(process, line, name)
        elif what == 'uncaught':
            self.say(process, 'line', 'uncaught', error=name)
        elif what == 'handler':
            process.handling.append(name)
            self.beginning.add(pid)
        elif what == 'handled' and process.handling:
            self.say(process, 'line', 'handler over', handler=f'{process.handling.pop()}()')

    def on_raised(self, process, line, error):
        """It is said once, for the function in which it was raised first."""
        if process.pid in self.passing or not self.steps:
            return
        last, self.raising[process.pid] = self.steps[-1], error
        by = self.interrupted.get(process.pid) if error == 'InterruptedError' else (
            last.who == process.name and 'error' in last.values and last.values['name'])
        self.passing.add(process.pid)
        self.say(process, 'line', 'raised by' if by else 'raised', number=line, error=error, name=by)

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
