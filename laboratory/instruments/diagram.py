"""A trace as a sequence diagram, in the language of Mermaid, which GitHub draws."""
import re

SAID = [  # what a timeline says, and what the diagram shows; {me} is who does it
    (r'accept4? … waiting', 'Note over {me}: accept() waits'),
    (r'accept4? → a client, descriptor (\d+)', 'client->>{me}: connects, accept() returns descriptor {0}'),
    (r'accept4? interrupted: EINTR', 'Note over {me}: accept() ends with EINTR'),
    (r'accept4? again \((.+)\)', 'Note over {me}: accept() again ({0})'),
    (r'fork → child \d+', '{me}->>child: fork()'),
    (r'recv → (\d+) bytes of request', 'client->>{me}: {0} bytes of request'),
    (r'send → (\d+) bytes of reply', '{me}->>client: {0} bytes of reply'),
    (r'close\((\d+)\) the last copy: FIN', '{me}->>client: FIN, as close({0}) closes the last copy'),
    (r'close\((\d+)\) (.+)', 'Note over {me}: close({0}) {1}'),
    (r'exit', 'Note over {me}: exit'),
    (r'SIGCHLD: child \d+ has exited', 'child->>{me}: SIGCHLD'),
    (r'wait4 → reaped \d+', 'Note over {me}: reaps the child'),
    (r'wait4 → there is no child', 'Note over {me}: no child is left (ECHILD)'),
]


def line(me, words):
    """The line of the diagram for one event."""
    for pattern, shown in SAID:
        if match := re.fullmatch(pattern, words):
            return shown.format(*match.groups(), me=me)
    raise ValueError(f'the diagram has no words for: {words}')


def diagram(timeline):
    """The diagram of a trace of one request, which at most one child has served.

    The order is the same each time: what the server does until it waits, what its child does, and
    what the server does once the child has ended. (Between fork() and recv() both run at once.)
    """
    servers = [words for pid, words in timeline.events if pid == timeline.server]
    children = [words for pid, words in timeline.events if pid != timeline.server]
    ended = next((at for at, words in enumerate(servers) if words.startswith('SIGCHLD')), len(servers))
    lines = [*(line('server', words) for words in servers[:ended]),
             *(line('child', words) for words in children),
             *(line('server', words) for words in servers[ended:])]
    people = ['client', 'server', 'child'] if children else ['client', 'server']
    return '\n    '.join(['sequenceDiagram', *(f'participant {name}' for name in people), *lines]) + '\n'
