"""What to tell somebody whose server has a bug: a command that shows it, and what to look for.

The commands are typed in the top folder, while the server runs on port 8888; {server} is the
command that starts it.
"""
import re
from typing import NamedTuple


class Hint(NamedTuple):
    bug: str  # in a few words, after 'Yours'
    command: str
    look: str


CURL = 'curl --max-time 2 http://localhost:8888/hello'
SILENT = 'sleep 9 | telnet localhost 8888 & sleep 1'
LAST_PID = r"sed 's/.*pid=\([0-9]*\).*/\1/' | tail -1"  # of what ss -p says
HINTS = {
    'silent_client': Hint(
        'waits for a silent client',
        f'{SILENT}; {CURL}',
        'You see curl time out: while you wait for one client, you serve nobody else.'),
    'end_of_reply': Hint(
        'never ends a reply',
        CURL, 'You see the reply, and then curl hangs: one of your processes still holds the socket.'),
    'descriptors': Hint(
        'leaks descriptors',
        f"{CURL}; ss -tan 'sport = :8888'",
        'You see a line CLOSE-WAIT for every client that has gone: you have not closed its socket.'),
    'one_child': Hint(
        'leaves zombies',
        f'{CURL}; ps -A -o pid,ppid,stat,comm | grep Z',
        'You see your child as a zombie (Z): it has ended, and you do not wait() for it.'),
    'eintr': Hint(
        'ends at EINTR',
        'PORT=8889 PYTHONPATH=$PWD/common/python2_accept {server} & '
        'sleep 1; for i in 1 2 3; do curl --max-time 2 http://localhost:8889/hello; sleep 1; done; kill $!',
        'You see a client fail after the first (the folder gives Python 3 the accept() of Python 2): '
        'a SIGCHLD ended accept() with EINTR, and you did not call it again.'),
    'children_at_once': Hint(
        'loses children that end together',
        'make client MAX_CLIENTS=128 HOLD=0; ps -A -o pid,ppid,stat,comm | grep -c Z',
        'You see zombies stay: SIGCHLD is not queued, and you reap one child for each.'),
    'stopped_child': Hint(
        'hangs while a child is stopped',
        f"{SILENT}; child=$(ss -tnpH 'sport = :8888' | {LAST_PID}); "
        f'kill -STOP $child; {CURL}; kill -CONT $child',
        'You see curl time out: your handler waits for a child that has not ended.'),
    'hello': Hint(
        'does not run every framework',
        'curl http://localhost:8888/hello',
        'You see no hello: one of bare WSGI, Flask, Pyramid and Django does not run on your server.'),
    'environ': Hint(
        'tells the application only a part of the request',
        "curl -H 'X-Probe: 1' 'http://localhost:8888/caf%C3%A9?a=1', with wsgi_probes:app",
        'You see the environ: look for QUERY_STRING, a decoded PATH_INFO, and HTTP_X_PROBE.'),
    'whole_request': Hint(
        'reads only a part of the request',
        'head -c 4096 /dev/zero | curl --data-binary @- http://localhost:8888/body, with wsgi_probes:app',
        'You see fewer bytes come back: you call recv() once, and take that for the whole request.'),
    'whole_response': Hint(
        'breaks rules of PEP 3333',
        'curl -i http://localhost:8888/write, with wsgi_probes:app; then /stop, /closed, /change-before',
        'You see that write(), close(), exc_info, the Date or streaming is not what PEP 3333 says.'),
    'validator': Hint(
        'fails wsgiref.validate',
        'curl -i http://localhost:8888/, with wsgi_probes:checked',
        'You see what wsgiref.validate complains about, here or where your server prints.'),
    'binary_body': Hint(
        'changes bytes',
        'curl http://localhost:8888/binary | od -c, with wsgi_probes:app',
        'You see other bytes than 0 to 255: you decode what you should pass on.'),
    'bad_requests': Hint(
        'does not survive bad requests',
        "printf 'mick\\r\\n\\r\\n' | telnet localhost 8888; curl -i http://localhost:8888/",
        'You see the wrong status, or no answer for the second client: a bad request took you down.'),
}

# The same bug, seen otherwise: (experiment, what its evidence says, hint)
VARIANTS = [
    ('end_of_reply', 'RST', Hint(
        'resets connections',
        CURL, 'You see curl: (56), reset by peer: close() resets where bytes of the request are unread, '
        'or where SO_LINGER has 0 seconds.')),
    ('descriptors', ' 0 of them sockets', Hint(
        'leaks descriptors',
        f"{CURL}; {CURL}; ls -l /proc/$(ss -tlnpH 'sport = :8888' | {LAST_PID})/fd",
        'You see a descriptor for every client that has gone: you opened it, and did not close it.')),
    ('one_child', 'does not end', Hint(
        'keeps children that have answered',
        f"{CURL}; pid=$(ss -tlnpH 'sport = :8888' | {LAST_PID}); "
        'ps -o pid,ppid,stat,args -p $pid --ppid $pid',
        'You see your child below your server, alive (S): end it when it has answered, with os._exit(0).')),
    ('children_at_once', r'^(\d+) zombies after \1 |one by one', HINTS['one_child']),
]


def hint(experiment, evidence):
    """The Hint for a bug that an experiment of that name has found."""
    for name, pattern, variant in VARIANTS:
        if name == experiment and re.search(pattern, evidence):
            return variant
    return HINTS[experiment]
