"""The system calls that strace has seen, as the story of a server, its children and its clients."""
import re
import shutil
import sys
import tempfile
from collections import namedtuple
from itertools import count, groupby

from rich.table import Table
from rich.text import Text

from laboratory.instruments import kernel
from laboratory.instruments.events import Event
from laboratory.instruments.process import ServerProcess

CALLS = (  # those with a ? are not on every machine
    'bind listen accept accept4 ?fork ?vfork clone ?clone3 execve close shutdown ?dup ?dup2 dup3 fcntl ioctl '
    'read readv recvfrom recvmsg write writev sendto sendmsg sendfile '
    '?select pselect6 ?poll ppoll ?epoll_wait epoll_pwait wait4 rt_sigtimedwait rt_sigreturn').split()
STRACE = ['strace', '-f', '-q', '-e', f'trace={",".join(CALLS)}', '-e', 'signal=SIGCHLD,SIGHUP,SIGTERM']
LINE = re.compile(r'\s*(\d+)\s+(.*\S)')  # the pid, and what it did
CALL = re.compile(r'(\w+)\(((-?\w*).*)\) += *(\S*)(.*)')
Call = namedtuple('Call', 'pid name args first result error')  # first of args; '' as result of no return
RIGHTS = re.compile(r'SCM_RIGHTS, cmsg_data=\[([\d, ]+)\]')
SIGCHLD = re.compile(r'si_signo=SIGCHLD, si_code=(CLD_\w+), si_pid=(\d+).* si_status=(\w+)')
FORKS = 'fork', 'vfork', 'clone', 'clone3'
TOLD = {**dict.fromkeys(['read', 'readv', 'recvfrom', 'recvmsg'], 'recv'),  # what they are called here
        **dict.fromkeys(['write', 'writev', 'sendto', 'sendmsg', 'sendfile'], 'send')}
WAIT = 'wait4', 'select', 'pselect6', 'poll', 'ppoll', 'epoll_wait', 'epoll_pwait'
LISTENING = 0  # what the descriptor of a listening socket stands for; clients are 1, 2, ...


def need_strace():
    """Exit with one line where nothing can be traced."""
    if not (kernel.LINUX and shutil.which('strace')):
        sys.exit('This needs Linux and strace: on Debian and Ubuntu, apt install strace')


def traced(command, env, act, pep475):
    """The Timeline of a server while act(server) runs; pep475 is 'off' for the accept() of Python 2."""
    with tempfile.NamedTemporaryFile('r', errors='replace') as log:
        with ServerProcess([*STRACE, '-o', log.name, *command], env=env) as server:
            retries = pep475 == 'on' and kernel.is_python3(server.pid)
            act(server)
            return Timeline(log, server.port, 'Python retries, PEP 475' if retries else 'the program retries')


def parse(lines):
    """What strace wrote, in the order of time: pairs of 'begins' or 'ends' and a Call, and of 'other' and
    (pid, text), for a signal or the end of a process."""
    steps, begun = [], {}
    for pid, text in (match.groups() for match in map(LINE.match, lines) if match):
        at = len(steps)
        if text.startswith('<...') and pid in begun:
            at, head = begun.pop(pid)
            text = head + text.partition('resumed>')[2]
        head = text.removesuffix('<unfinished ...>').rstrip()
        if match := CALL.match(text) or CALL.match(f'{head}) = '):
            call = Call(int(pid), *match.groups())
            begun[pid] = at, head
            steps[at:at + 1] = [('begins', call)]
            if call.result:
                steps.append(('ends', call))
        else:
            steps.append(('other', (int(pid), text)))
    return steps


class Timeline:
    """What happened since the server listened on that port, as events.

    again    who calls an accept() again that a signal has interrupted
    """

    def __init__(self, lines, port, again='the program retries'):
        self.again, self.events = again, []
        steps = parse(lines)
        calls = [call for what, call in steps if what == 'ends']
        forks = [call for call in calls if call.name in FORKS and call.result.isdigit()]
        self.forks = {int(call.result): call for call in forks}
        self.server = self.find_server(calls, port)
        self.tables = {}  # for each process and thread its descriptors: {'4': 1}, the first client
        self.numbers, self.ended = count(1), set()  # of clients; those to whom FIN was sent
        self.passed = []  # what one process has sent to another with SCM_RIGHTS, see unix(7)
        self.listening, self.told = False, []  # whether the story has begun, the children that are in it
        self.interrupted = {}  # (name, who calls it again) of an accept() that a signal ended
        self.ready = {}  # what a poll() has found, until something is done about it
        for what, step in steps if self.server else []:
            if what == 'other':
                self.on_other(*step)
            elif self.server in self.ancestors(step.pid):
                (self.on_begin if what == 'begins' else self.on_end)(step.pid, step, self.table(step.pid))

    def find_server(self, calls, port):
        """The process that listens on the port; of several the one that has forked them; None without one."""
        bound, listens = [{(self.process(call.pid), call.first) for call in calls
                           if call.name == name and call.result == '0' and words in call.args}
                          for name, words in (('bind', f'htons({port})'), ('listen', ''))]
        self.listens = listens & bound or listens
        self.is_nonblocking = any((self.process(call.pid), call.first) in self.listens
                                  for call in calls if re.search(r'FIONBIO, \[1\]|O_NONBLOCK', call.args))
        families = [[*self.ancestors(pid)] for pid, _ in self.listens]
        return next((pid for pid in (families or [[]])[0] if all(pid in family for family in families)), None)

    def process(self, pid):
        """The process of a thread; else the pid itself."""
        while pid in self.forks and 'CLONE_THREAD' in self.forks[pid].args:
            pid = self.forks[pid].pid
        return pid

    def ancestors(self, pid):
        """The process and those that it comes from, itself first."""
        while pid:
            yield (pid := self.process(pid))
            pid = self.forks[pid].pid if pid in self.forks else None

    def table(self, pid):
        """Its descriptors; threads share theirs, a child has a copy."""
        if pid not in self.tables:
            fork = self.forks.get(pid)
            parents = self.table(fork.pid) if fork and pid != self.server else {}
            self.tables[pid] = parents if fork and 'CLONE_FILES' in fork.args else dict(parents)
        return self.tables[pid]

    def say(self, pid, kind, **values):
        """Tell an event, once the story has begun."""
        if self.listening:
            self.introduce(self.process(pid))
            self.events.append(Event(pid, kind, values))

    def introduce(self, pid):
        """Tell of the fork of a child, once, and before anything that it does."""
        if self.listening and pid != self.server and pid not in self.told:
            self.told.append(pid)
            self.say(self.forks[pid].pid, 'fork', child=pid)

    def act(self, pid, kind, **values):
        """Say it, after the poll() that led to it."""
        if ready := self.ready.pop(pid, None):
            self.say(pid, 'ready', **ready)
        self.say(pid, kind, **values)

    def on_other(self, pid, text):
        """A signal, or the end of a process or thread."""
        if pid not in self.tables:
            return
        if match := SIGCHLD.search(text):
            self.on_sigchld(pid, *match.groups())
        elif match := re.match(r'\+\+\+ (?:exited|killed by (\w+))', text):
            self.on_death(pid, match[1])

    def on_sigchld(self, pid, code, child, signal):
        if code in ('CLD_KILLED', 'CLD_DUMPED'):
            self.on_kill(int(child), signal)
        self.say(pid, code, child=int(child), by=signal)

    def on_kill(self, child, signal):
        """End a child that a signal has killed; strace does not say so of a child with threads."""
        for pid in [pid for pid in self.tables if self.process(pid) == child]:
            self.on_death(pid, signal)

    def on_death(self, pid, signal):
        """The end of a process, or of a thread; the kernel closes what the last one has left open."""
        table = self.tables.pop(pid)
        if any(table is other for other in self.tables.values()):  # a thread
            return
        process = self.process(pid)
        self.say(process, 'killed' if signal else 'exit', by=signal)
        for fd, client in table.items():
            if client and self.is_last(client):
                self.say(process, 'exit close' if client in self.ended else 'exit FIN', fd=fd)

    def is_last(self, client):
        """Whether no process has this client open, and it is on its way to none."""
        return not any(client in held for held in [self.passed, *map(dict.values, self.tables.values())])

    def on_begin(self, pid, call, table):
        polled = self.is_nonblocking or pid in self.ready or 'EAGAIN' in call.error
        if call.name.startswith('accept') and not polled and 'AF_UNIX' not in call.args:
            _, who = self.interrupted.pop(pid, (None, None))
            self.say(pid, 'again' if who else 'accept waits', call=call.name, who=who)
        elif not call.result and (call.name in WAIT or call.name in TOLD and table.get(call.first)):
            self.say(pid, 'waits', call=TOLD.get(call.name, call.name))

    def on_end(self, pid, call, table):
        """A system call that has returned."""
        name, first, result, fine = call.name, call.first, call.result, call.result.isdigit()
        if result == '?' and not call.error.strip():  # the process has ended in it
            return
        if name.startswith('accept') and 'AF_UNIX' not in call.args:
            self.on_accept(pid, call, table)
        elif name == 'listen' and (self.process(pid), first) in self.listens:
            table[first] = LISTENING
            self.listening, self.ready = True, {}
            for other in self.tables:
                self.introduce(self.process(other))
        elif name == 'rt_sigreturn' and 'EINTR' in call.error and pid in self.interrupted:
            accept, _ = self.interrupted[pid]
            self.interrupted[pid] = accept, self.again
            self.say(pid, 'interrupted', call=accept, error='EINTR')
        elif name in FORKS and fine:
            self.table(int(result))  # as it is now
            if 'CLONE_THREAD' in call.args:
                self.say(pid, 'thread', child=int(result))
            self.introduce(self.process(int(result)))
        elif name == 'execve' and fine:
            self.tables[pid] = {}
            self.say(pid, 'exec', program=call.args.partition(',')[0])
        elif name == 'rt_sigtimedwait' and (match := SIGCHLD.search(call.args)):  # Python's sigwait()
            self.on_sigchld(pid, *match.groups())
        elif name == 'wait4':
            self.on_wait(pid, call)
        elif name in WAIT and fine and result != '0':
            self.ready[pid] = {'call': name, 'count': result}
        elif (name.startswith('dup') or 'F_DUPFD' in call.args) and fine and first in table:
            table[result] = table[first]
        elif name in ('sendmsg', 'recvmsg') and (rights := RIGHTS.search(call.args)):
            self.on_rights(pid, name, rights[1].split(', '), table)
        elif first in table and table[first] == LISTENING and name == 'close':
            del table[first]
            self.say(pid, 'close', fd=first, what='the listening socket')
        elif table.get(first):
            self.on_client(pid, call, table)

    def on_rights(self, pid, name, fds, table):
        """Descriptors that one process passes to another."""
        for fd in fds:
            if name == 'sendmsg':
                self.passed.append(table.get(fd))
            elif self.passed and (client := self.passed.pop(0)) is not None:
                table[fd] = client
                self.say(pid, 'passed', fd=fd, what='a client' if client else 'the listening socket')

    def on_accept(self, pid, call, table):
        if call.result.isdigit():
            table[call.result] = next(self.numbers)
            self.act(pid, 'accept', call=call.name, fd=call.result)
        elif 'ERESTART' in call.error:  # what the program gets depends on its handler, see signal(7)
            self.interrupted[pid] = call.name, 'the kernel restarts it'
        elif 'EAGAIN' in call.error:
            self.act(pid, 'nobody', call=call.name)
        else:
            self.say(pid, 'error', call=call.name, error=call.error.split()[0])

    def on_wait(self, pid, call):
        if 'ECHILD' in call.error:
            self.say(pid, 'no child')
        elif call.result == '0':
            self.say(pid, 'none ended')
        elif call.result.isdigit():
            if signal := re.search(r'WTERMSIG\(s\) == (SIG\w+)', call.args):
                self.on_kill(int(call.result), signal[1])
            self.say(pid, 'reaped', child=int(call.result))

    def on_client(self, pid, call, table):
        """A call on the socket of a client."""
        name, first, client = call.name, call.first, table[call.first]
        if name == 'close':
            del table[first]
            last, whose = self.is_last(client), 'parent' if self.process(pid) == self.server else 'child'
            kind = 'close FIN' if last and client not in self.ended else 'close'
            if kind == 'close FIN' and self.process(pid) != pid:  # threads have no copies
                kind = 'thread close FIN'
            self.say(pid, kind, fd=first, what='the last copy' if last else f"the {whose}'s copy")
        elif name == 'shutdown' and not call.args.endswith('SHUT_RD') and call.result == '0':
            self.ended.add(client)
            self.say(pid, 'shutdown', fd=first)
        elif name in TOLD and call.result == '-1':
            self.act(pid, 'error', call=TOLD[name], error=call.error.split()[0])
        elif name in TOLD and call.result.isdigit():
            is_fin = TOLD[name] == 'recv' and call.result == '0'
            self.act(pid, 'recv FIN' if is_fin else TOLD[name], size=call.result)

    def screen(self):
        """The events as a table, time running down; what happens several times in a row is one line."""
        rows = Table(f'server {self.server}', 'children, threads', box=None, pad_edge=False)
        for event, same in groupby(self.events):
            times = len(list(same))
            words = event.words + (f' ({times} times)' if times > 1 else '')
            thread = 'thread ' if self.process(event.pid) != event.pid else ''
            cells = [words] if event.pid == self.server else ['', f'{thread}{event.pid}: {words}']
            is_noted = event.kind == 'again' or event.values.get('error') == 'EINTR'
            rows.add_row(*map(Text, cells), style='bold red' if is_noted else '')
        return rows


def oldest_first(parsed):
    """What strace has seen; where one event ends the calls of several processes, the oldest comes first."""
    for at in range(1, len(parsed)):
        (before, first), (what, second) = parsed[at - 1:at + 1]
        if before == what == 'ends' and {first.name, second.name} <= {*WAIT} and first.pid > second.pid:
            parsed[at - 1:at + 1] = (what, second), (before, first)
    return parsed
