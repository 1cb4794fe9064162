"""A trace as a sequence diagram, in the language of Mermaid, which GitHub draws."""
import re

SAID = [  # what a timeline says, and what the diagram shows; {me} is who does it
    (r'accept4? … waiting', 'Note over {me}: accept() waits'),
    (r'accept4? → a client, descriptor (\d+)', 'client->>{me}: connects, accept() returns descriptor {0}'),
    (r'accept4? interrupted: EINTR', 'Note over {me}: accept() ends with EINTR'),
    (r'accept4? again \((.+)\)', 'Note over {me}: accept() again ({0})'),
    (r'fork → child (\d+)', '{me}->>{child}: fork()'),
    (r'recv → (\d+) bytes of request', 'client->>{me}: {0} bytes of request'),
    (r'send → (\d+) bytes of reply', '{me}->>client: {0} bytes of reply'),
    (r'shutdown\((\d+)\): FIN', '{me}->>client: FIN, by shutdown({0})'),
    (r'recv → the client has closed \(FIN\)', 'client->>{me}: FIN'),
    (r'close\((\d+)\) the last copy: FIN', '{me}->>client: FIN, as close({0}) closes the last copy'),
    (r'… closes (\d+), the last copy: FIN', '{me}->>client: FIN, as the kernel closes {0}'),
    (r'close\((\d+)\) (.+)', 'Note over {me}: close({0}) {1}'),
    (r'exit|killed by SIG\w+', 'Note over {me}: {words}'),
    (r'SIGCHLD: child (\d+) has exited', '{child}->>{me}: SIGCHLD'),
    (r'SIGCHLD: child (\d+) was (killed by SIG\w+)', '{child}->>{me}: SIGCHLD: {1}'),
    (r'wait4 → reaped (\d+)', 'Note over {me}: reaps the {child}'),
    (r'wait4 → there is no child', 'Note over {me}: no child is left (ECHILD)'),
]
UNSAID = '|'.join([
    r'(poll|accept4?) → \d+ ready',  # Python looks first whether a call with a timeout would wait
    'wait4 … waiting',  # a supervisor always does
])


def line(me, words, names):
    """The line of the diagram for one event; names are those of the children, by pid."""
    for pattern, shown in SAID:
        if match := re.fullmatch(pattern, words):
            child = names.get(match[1]) if match.groups() else None
            return shown.format(*match.groups(), me=me, child=child, words=words)
    raise ValueError(f'the diagram has no words for: {words}')


def in_order(said):
    """What a process has done; SIGCHLD, which ends its wait(), comes before that."""
    said = list(said)
    for at in range(1, len(said)):
        pid = re.match(r'SIGCHLD: child (\d+)', said[at])
        if pid and said[at - 1] == f'wait4 → reaped {pid[1]}':
            said[at - 1], said[at] = said[at], said[at - 1]
    return said


def diagram(timeline):
    """The diagram of a trace of a server and up to two children; a child that calls accept() is a worker.

    The order is the same each time: what the server does until a child ends, what that child does,
    what the server does then, and what the next child does. (Between fork() and recv() both run at once.)
    """
    forked = [str(pid) for pid in timeline.told]
    accepts = any(pid != timeline.server and words.startswith('accept') for pid, words in timeline.events)
    names = dict(zip(forked, ['worker', 'new worker'] if accepts else ['child'], strict=False))
    names[str(timeline.server)] = 'server'
    events = [(str(pid), words) for pid, words in timeline.events if not re.fullmatch(UNSAID, words)]
    server = str(timeline.server)
    of = {pid: in_order(words for who, words in events if who == pid) for pid in [server, *forked]}
    ended = next((at for at, words in enumerate(of[server]) if words.startswith('SIGCHLD')), len(of[server]))
    story = [(server, of[server][:ended]), *((pid, of[pid]) for pid in forked[:1]),
             (server, of[server][ended:]), *((pid, of[pid]) for pid in forked[1:])]
    lines = [line(names[pid], words, names) for pid, said in story for words in said]
    people = ['client', 'server', *(names[pid] for pid in forked)]
    return '\n    '.join(['sequenceDiagram', *(f'participant {name}' for name in people), *lines]) + '\n'
