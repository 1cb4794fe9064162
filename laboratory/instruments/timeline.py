"""The system calls that strace has seen, as the story of a server, its children and its clients."""
import re
import shutil
import sys
import tempfile
from itertools import count, groupby

from rich.table import Table
from rich.text import Text

from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, connect, read_reply
from laboratory.instruments.process import ServerProcess

CALLS = (  # those with a ? are not on every machine
    'bind listen accept accept4 ?fork ?vfork clone ?clone3 execve close shutdown ?dup ?dup2 dup3 fcntl '
    'read readv recvfrom recvmsg write writev sendto sendmsg sendfile '
    '?select pselect6 ?poll ppoll ?epoll_wait epoll_pwait wait4 rt_sigreturn').split()
STRACE = ['strace', '-f', '-q', '-e', f'trace={",".join(CALLS)}', '-e', 'signal=SIGCHLD']
BEGINNING = re.compile(r'(\w*)\(?(-?\w*)')  # the name, and the first argument
CALL = re.compile(r'\w+\(-?\w*(?P<rest>.*)\) += (?P<result>\S+)(?P<error>.*)', re.DOTALL)
RIGHTS = re.compile(r'SCM_RIGHTS, cmsg_data=\[([\d, ]+)\]')
FORKS = 'fork', 'vfork', 'clone', 'clone3'
RECEIVE = 'read', 'readv', 'recvfrom', 'recvmsg'
SEND = 'write', 'writev', 'sendto', 'sendmsg', 'sendfile'
TOLD = dict.fromkeys(RECEIVE, 'recv') | dict.fromkeys(SEND, 'send')  # what they are called here
WAIT = 'select', 'pselect6', 'poll', 'ppoll', 'epoll_wait', 'epoll_pwait'
HAPPENED = {  # what SIGCHLD tells of a child, see sigaction(2)
    'EXITED': 'has exited', 'KILLED': 'was killed', 'DUMPED': 'was killed', 'STOPPED': 'was stopped',
    'CONTINUED': 'goes on', 'TRAPPED': 'is traced'}
LISTENING = 0  # what the descriptor of a listening socket stands for; clients are 1, 2, ...


def need_strace():
    """Exit with one line where nothing can be traced."""
    if sys.platform != 'linux' or not shutil.which('strace'):
        sys.exit('This needs Linux and strace: on Debian and Ubuntu, apt install strace')


def one_request(server, data=REQUEST):
    """Send a request when the server waits in recv() for it, its parent in accept(); wait for the end."""
    server.let_rest()
    with connect(server) as client:
        server.let_rest()
        client.sendall(data)
        read_reply(client, server)
    server.let_rest()


def traced(command, env, act, pep475):
    """The Timeline of a server while act(server) runs; pep475 is 'off' for the accept() of Python 2."""
    with tempfile.NamedTemporaryFile('r', errors='replace') as log:
        with ServerProcess([*STRACE, '-o', log.name, *command], env=env) as server:
            retries = pep475 == 'on' and kernel.is_python3(server.pid)
            act(server)
            return Timeline(log, server.port, 'Python retries, PEP 475' if retries else 'the program retries')


class Call:
    """A system call: at is its line, end the one where it returns; result is None where it never does."""

    def __init__(self, pid, at, text):
        self.pid, self.at, self.end = pid, at, at
        match = CALL.match(text)
        self.name, self.first = BEGINNING.match(text).groups()
        self.rest, self.result, self.error = match.group(
            'rest', 'result', 'error') if match else (text, None, '')


def parse(lines):
    """Yield what strace wrote, in the order of time: (pid, Call, whether it begins, whether it ends) or
    (pid, text, False, False) for a signal or an end."""
    lines = [line.strip().partition(' ')[::2] for line in lines]
    lines = [(int(pid), text.strip()) for pid, text in lines if pid.isdigit()]
    begun, calls = {}, {}
    for at, (pid, text) in enumerate(lines):
        if text.startswith('<...') and pid in begun:
            start, head = begun.pop(pid)
            calls[start] = calls[at] = Call(pid, start, head + text.partition('resumed>')[2])
            calls[at].end = at
        elif text.endswith('<unfinished ...>'):
            begun[pid] = at, text.removesuffix('<unfinished ...>')
            calls[at] = Call(pid, at, begun[pid][1])
        elif not text.startswith(('---', '+++', '<...')):
            calls[at] = Call(pid, at, text)
    for at, (pid, text) in enumerate(lines):
        call = calls.get(at)
        if call:
            yield pid, call, call.at == at, call.end == at and call.result is not None
        else:
            yield pid, text, False, False


class Timeline:
    """What happened since the server listened on that port, as events: (pid, words).

    again    who calls an accept() again that a signal has interrupted
    """

    def __init__(self, lines, port, again='the program retries'):
        self.again, self.events = again, []
        self.steps = list(parse(lines))
        self.forks = {int(call.result): call for _, call, _, ends in self.steps
                      if ends and call.name in FORKS and call.result.isdigit()}
        self.server = self.find_server(port)
        self.tables = {}  # for each process and thread its descriptors: {'4': 1}, the first client
        self.numbers, self.ended = count(1), set()  # of clients; those to whom FIN was sent
        self.passed = []  # what one process has sent to another with SCM_RIGHTS, see unix(7)
        self.listening, self.told = False, []  # whether the story has begun, the children that are in it
        self.interrupted = {}  # (name, who calls it again) of an accept() that a signal ended
        self.ready = {}  # what a poll() has found, until something is done about it
        for pid, step, begins, ends in self.steps if self.server else []:
            if isinstance(step, str):
                self.on_text(pid, step)
            elif self.server in self.ancestors(pid):
                if begins and self.listening:
                    self.on_begin(pid, step)
                if ends:
                    self.follow(pid, step)
                if ends and self.listening:
                    self.on_end(pid, step)

    def find_server(self, port):
        """The process that listens on the port; of several the one that has forked them."""
        calls = [call for _, call, _, ends in self.steps if ends]
        bound = {(self.process(call.pid), call.first) for call in calls
                 if call.name == 'bind' and f'htons({port})' in call.rest}
        listens = [call for call in calls if call.name == 'listen' and call.result == '0']
        listens = [call for call in listens if (self.process(call.pid), call.first) in bound] or listens
        self.listens = {(self.process(call.pid), call.first) for call in listens}
        lines = [[*self.ancestors(pid)][::-1] for pid, _ in sorted(self.listens)]
        common = [pids[0] for pids in zip(*lines, strict=False) if len(set(pids)) == 1]
        return common[-1] if common else None

    def process(self, pid):
        """The process of a thread; else the pid itself."""
        while pid in self.forks and 'CLONE_THREAD' in self.forks[pid].first + self.forks[pid].rest:
            pid = self.forks[pid].pid
        return pid

    def ancestors(self, pid):
        """The process and those that it comes from, itself first."""
        while pid:
            yield (pid := self.process(pid))
            pid = self.forks[pid].pid if pid in self.forks else None

    def follow(self, pid, call):
        """Keep track of the descriptors that a system call gives to processes."""
        if call.name in FORKS and call.result.isdigit():
            self.table(int(call.result))
        elif call.name == 'execve' and call.result == '0':
            self.tables[pid] = {}
        elif call.name == 'listen' and (self.process(pid), call.first) in self.listens:
            self.table(pid)[call.first] = LISTENING
            self.listening = True
            for child in {self.process(other) for other in self.tables}:
                self.introduce(child)
        elif call.name in ('sendmsg', 'recvmsg') and (match := RIGHTS.search(call.rest)):
            table = self.table(pid)
            for fd in match[1].split(', '):
                if call.name == 'sendmsg':
                    self.passed.append(table.get(fd))
                elif self.passed and (client := self.passed.pop(0)) is not None:
                    table[fd] = client
                    what = 'a client' if client else 'the listening socket'
                    self.say(pid, f'recvmsg → {what}, descriptor {fd}')

    def table(self, pid):
        """Its descriptors; threads share theirs, a child has a copy."""
        if pid not in self.tables:
            fork = self.forks.get(pid)
            if not fork or pid == self.server:
                self.tables[pid] = {}
            elif 'CLONE_FILES' in fork.first + fork.rest:
                self.tables[pid] = self.table(fork.pid)
            else:
                self.tables[pid] = dict(self.table(fork.pid))
        return self.tables[pid]

    def say(self, pid, words):
        self.introduce(self.process(pid))
        self.events.append((pid, words))

    def introduce(self, pid):
        """Tell of the fork of a child, once, and before anything that it does."""
        if pid != self.server and pid not in self.told:
            self.told.append(pid)
            self.say(self.forks[pid].pid, f'fork → child {pid}')

    def on_text(self, pid, text):
        """A signal, or the end of a process or thread."""
        if pid not in self.tables:
            return
        if not self.listening:
            if text.startswith('+++'):
                del self.tables[pid]
        elif match := re.match(r'--- SIGCHLD .*si_code=CLD_(\w+), si_pid=(\d+)', text):
            by = re.search(r'si_status=(SIG\w+)', text)
            signal = f' by {by[1]}' if by and match[1] in ('KILLED', 'DUMPED') else ''
            self.on_kill(int(match[2]), signal)
            self.say(pid, f'SIGCHLD: child {match[2]} {HAPPENED[match[1]]}{signal}')
        elif match := re.match(r'\+\+\+ (exited|killed by \w+)', text):
            self.on_death(pid, 'exit' if match[1] == 'exited' else match[1])

    def on_kill(self, child, by_signal):
        """Where a signal has killed a child, end it; strace does not say so of a child with threads."""
        if by_signal:
            for pid in [pid for pid in self.tables if self.process(pid) == child]:
                self.on_death(pid, f'killed{by_signal}')

    def on_death(self, pid, words):
        """The end of a process, or of a thread; the kernel closes what the last one has left open."""
        table = self.tables.pop(pid)
        if any(table is other for other in self.tables.values()):
            return  # a thread
        self.say(self.process(pid), words)
        for fd, client in table.items():
            if client and self.is_last(client):
                self.say(self.process(pid), f'… closes {fd}, the last copy{self.fin(client)}')

    def is_last(self, client):
        """Whether no process has this client open, nor it is on its way to one."""
        return not any(client in held for held in [self.passed, *map(dict.values, self.tables.values())])

    def fin(self, client):
        """What the last copy that is closed says: FIN, where no shutdown() has said it before."""
        return '' if client in self.ended else ': FIN'

    def on_begin(self, pid, call):
        self.table(pid)
        polled = pid in self.ready or 'EAGAIN' in call.error
        if call.name.startswith('accept') and not polled and 'AF_UNIX' not in call.rest:
            _, again = self.interrupted.pop(pid, ('', ''))
            self.say(pid, f'{call.name} again ({again})' if again else f'{call.name} … waiting')
        elif call.result is None and (call.name in ('wait4', *WAIT)
                                      or call.name in TOLD and self.table(pid).get(call.first)):
            self.say(pid, f'{TOLD.get(call.name, call.name)} … waiting')

    def on_end(self, pid, call):
        """A system call that has returned."""
        name, first, result, table = call.name, call.first, call.result, self.table(pid)
        fine = result.isdigit()
        if result == '?' and not call.error.strip():  # the process has ended in it
            return
        if name.startswith('accept') and 'AF_UNIX' not in call.rest:
            self.on_accept(pid, call, table)
        elif name == 'rt_sigreturn' and 'EINTR' in call.error and pid in self.interrupted:
            accept, _ = self.interrupted[pid]
            self.interrupted[pid] = accept, self.again
            self.say(pid, f'{accept} interrupted: EINTR')
        elif name in FORKS and fine:
            self.introduce(self.process(int(result)))
        elif name == 'execve' and fine:
            self.say(pid, f'exec {call.rest.partition(",")[0]}')
        elif name == 'wait4':
            self.on_wait(pid, call)
        elif name in WAIT and fine and result != '0':
            self.ready[pid] = f'{name} → {result} ready'
        elif (name.startswith('dup') or 'F_DUPFD' in call.rest) and fine and first in table:
            table[result] = table[first]
        elif first in table and table[first] == LISTENING and name == 'close':
            del table[first]
            self.say(pid, f'close({first}) the listening socket')
        elif table.get(first):
            self.on_client(pid, call, table)

    def on_accept(self, pid, call, table):
        if call.result.isdigit():
            table[call.result] = next(self.numbers)
            self.act(pid, f'{call.name} → a client, descriptor {call.result}')
        elif 'ERESTART' in call.error:  # what the program gets depends on its handler, see signal(7)
            self.interrupted[pid] = call.name, 'the kernel restarts it'
        elif 'EAGAIN' in call.error:
            self.act(pid, f'{call.name} → nobody is waiting: EAGAIN')
        else:
            self.say(pid, f'{call.name} → {call.error.split()[0]}')

    def on_wait(self, pid, call):
        if 'ECHILD' in call.error:
            self.say(pid, 'wait4 → there is no child')
        elif call.result == '0':
            self.say(pid, 'wait4 → no child has ended')
        elif call.result.isdigit():
            by = re.search(r'WTERMSIG\(s\) == (SIG\w+)', call.rest)
            self.on_kill(int(call.result), f' by {by[1]}' if by else '')
            self.say(pid, f'wait4 → reaped {call.result}')

    def on_client(self, pid, call, table):
        """A call on the socket of a client."""
        name, first, client = call.name, call.first, table[call.first]
        if name == 'close':
            del table[first]
            whose = "the parent's copy" if self.process(pid) == self.server else "the child's copy"
            last = f'the last copy{self.fin(client)}'
            self.say(pid, f'close({first}) {last if self.is_last(client) else whose}')
        elif name == 'shutdown' and 'SHUT_RD)' not in call.rest + ')' and call.result == '0':
            self.ended.add(client)
            self.say(pid, f'shutdown({first}): FIN')
        elif name in RECEIVE + SEND:
            what, of = TOLD[name], 'request' if name in RECEIVE else 'reply'
            if call.result == '-1':
                self.act(pid, f'{what} → {call.error.split()[0]}')
            elif call.result == '0' and name in RECEIVE:
                self.act(pid, 'recv → the client has closed (FIN)')
            elif call.result.isdigit():
                self.act(pid, f'{what} → {call.result} bytes of {of}')

    def act(self, pid, words):
        """Say it, after the poll() that led to it."""
        if ready := self.ready.pop(pid, None):
            self.say(pid, ready)
        self.say(pid, words)

    def screen(self):
        """The events as a table, time running down; what happens several times in a row is one line."""
        rows = Table(f'server {self.server}', 'children, threads', box=None, pad_edge=False)
        for (pid, words), same in groupby(self.events):
            times = len(list(same))
            words += f' ({times} times)' if times > 1 else ''
            thread = 'thread ' if self.process(pid) != pid else ''
            cells = [words] if pid == self.server else ['', f'{thread}{pid}: {words}']
            rows.add_row(*map(Text, cells), style='bold red' if 'EINTR' in words or 'again' in words else '')
        return rows
