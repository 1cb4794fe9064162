"""What can happen to a server and its children, in words and in a diagram of Mermaid, which GitHub draws."""
from typing import NamedTuple

KINDS = {  # words, where {child} is a pid, and a line, where {me} and {child} are names; '' is not drawn
    'accept waits': ('{call} … waiting', 'Note over {me}: accept() waits'),
    'accept': ('{call} → a client, descriptor {fd}',
               'client->>{me}: connects, accept() returns descriptor {fd}'),
    'nobody': ('{call} → nobody is waiting: EAGAIN', 'Note over {me}: accept() finds nobody (EAGAIN)'),
    'interrupted': ('{call} interrupted: {error}', 'Note over {me}: accept() ends with {error}'),
    'again': ('{call} again ({who})', 'Note over {me}: accept() again ({who})'),
    'waits': ('{call} … waiting', ''),  # as a supervisor always does
    'ready': ('{call} → {count} ready', ''),  # Python looks first whether a call with a timeout would wait
    'error': ('{call} → {error}', 'Note over {me}: {call}() ends with {error}'),
    'passed': ('recvmsg → {what}, descriptor {fd}', 'Note over {me}: receives {what}, descriptor {fd}'),
    'fork': ('fork → child {child}', '{me}->>{child}: fork()'),
    'thread': ('clone → thread {child}', '{me}->>{child}: starts a thread'),
    'exec': ('exec {program}', 'Note over {me}: exec {program}'),
    'recv': ('recv → {size} bytes of request', 'client->>{me}: {size} bytes of request'),
    'recv FIN': ('recv → the client has closed (FIN)', 'client->>{me}: FIN'),
    'send': ('send → {size} bytes of reply', '{me}->>client: {size} bytes of reply'),
    'shutdown': ('shutdown({fd}): FIN', '{me}->>client: FIN, by shutdown({fd})'),
    'close': ('close({fd}) {what}', 'Note over {me}: close({fd}) {what}'),
    'close FIN': ('close({fd}) {what}: FIN', '{me}->>client: FIN, as close({fd}) closes {what}'),
    'thread close FIN': ('close({fd}): FIN', '{me}->>client: FIN, as close({fd}) ends the connection'),
    'exit': ('exit', 'Note over {me}: exit'),
    'killed': ('killed by {by}', 'Note over {me}: killed by {by}'),
    'exit close': ('… closes {fd}, the last copy', 'Note over {me}: the kernel closes {fd}'),
    'exit FIN': ('… closes {fd}, the last copy: FIN', '{me}->>client: FIN, as the kernel closes {fd}'),
    # what SIGCHLD tells of a child, see sigaction(2):
    'CLD_EXITED': ('SIGCHLD: child {child} has exited', '{child}->>{me}: SIGCHLD'),
    'CLD_KILLED': ('SIGCHLD: child {child} died of {by}', '{child}->>{me}: SIGCHLD: killed by {by}'),
    'CLD_DUMPED': ('SIGCHLD: child {child} died of {by}', '{child}->>{me}: SIGCHLD: killed by {by}'),
    'CLD_STOPPED': ('SIGCHLD: child {child} was stopped', '{child}->>{me}: SIGCHLD: stopped'),
    'CLD_CONTINUED': ('SIGCHLD: child {child} goes on', '{child}->>{me}: SIGCHLD: goes on'),
    'reaped': ('wait4 → reaped {child}', 'Note over {me}: reaps the {child}'),
    'none ended': ('wait4 → no child has ended', 'Note over {me}: no child has ended'),
    'no child': ('wait4 → there is no child', 'Note over {me}: no child is left (ECHILD)'),
}


class Event(NamedTuple):
    """What a process or thread has done, or what has happened to it."""

    pid: int
    kind: str
    values: dict  # by the names that stand in the words of its kind

    @property
    def words(self):
        return KINDS[self.kind][0].format(**self.values)

    @property
    def is_sigchld(self):
        return self.kind.startswith('CLD_')

    def line(self, names):
        """Its line in a diagram, '' for none; names are those of the processes, by pid."""
        child = names.get(self.values.get('child'))
        if self.kind == 'thread' and not child:
            return ''
        return KINDS[self.kind][1].format(**self.values | {'me': names[self.pid], 'child': child})


def in_order(events):
    """What a process has done; SIGCHLD, which ends its wait(), comes before that."""
    for at in range(1, len(events)):
        before, event = events[at - 1:at + 1]
        if event.is_sigchld and before[1:] == ('reaped', {'child': event.values['child']}):
            events[at - 1:at + 1] = event, before
    return events


def diagram(timeline):
    """The diagram of a trace of a server and up to two children; a child that calls accept() is a worker.
    A thread that the server starts for its client stands where its first child would.

    The order is the same each time: what the server does until a child ends, what that child does,
    what the server does then, and what the next child does. (Between fork() and recv() both run at once.)
    """
    calls = {event.values.get('call') for event in timeline.events if event.pid != timeline.server}
    children = ['worker', 'new worker'] if calls & {'accept', 'accept4'} else ['child']
    threads = [event.values['child'] for event in timeline.events
               if event.kind == 'thread' and event.pid == timeline.server]
    if threads:
        children = ['thread']
    others = timeline.told or threads
    names = {timeline.server: 'server', **dict(zip(others, children, strict=False))}
    server, *forked = [
        in_order([event for event in timeline.events if event.pid == pid and event.line(names)])
        for pid in names]
    ended = next((at for at, event in enumerate(server) if event.is_sigchld), len(server))
    story = [*server[:ended], *sum(forked[:1], []), *server[ended:], *sum(forked[1:], [])]
    people = [f'participant {name}' for name in ['client', *names.values()]]
    return '\n    '.join(['sequenceDiagram', *people, *(event.line(names) for event in story)]) + '\n'
