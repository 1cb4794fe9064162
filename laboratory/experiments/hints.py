"""What to tell somebody whose server has a bug: a command that shows it, and what to look for."""
from typing import NamedTuple


class Hint(NamedTuple):
    bug: str  # in a few words, after 'Yours'
    command: str  # to be typed while the server runs on port 8888
    look: str


CURL = 'curl --max-time 2 http://localhost:8888/hello'
RUN = 'PORT=8888 PYTHONPATH={} python3 my_server.py {} &'
WITH_HELLO = RUN.format('part2/apps', 'flaskapp:app')
WITH_PROBES = RUN.format('laboratory/experiments/apps', 'wsgi_probes:app')
HINTS = {
    'silent_client': Hint(
        'waits for a silent client',
        f'sleep 9 | telnet localhost 8888 & sleep 1; {CURL}',
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
        'You see your child as a zombie (Z), or alive still: you never wait() for it.'),
    'eintr': Hint(
        'ends at EINTR',
        f'make trace SERVER=...; or (sleep 1; echo mick) | telnet localhost 8888; {CURL}',
        'You see the second client fail: accept() ended with EINTR, and you did not call it again.'),
    'children_at_once': Hint(
        'loses children that end together',
        'make client MAX_CLIENTS=128 HOLD=0; ps -A -o pid,ppid,stat,comm | grep -c Z',
        'You see zombies stay: SIGCHLD is not queued, and you reap one child for each.'),
    'stopped_child': Hint(
        'hangs while a child is stopped',
        f'sleep 9 | telnet localhost 8888 & sleep 1; kill -STOP YOUR_CHILD; {CURL}',
        'You see curl time out: your handler waits for a child that has not ended.'),
    'hello': Hint(
        'does not run every framework',
        f'{WITH_HELLO}\ncurl -i http://localhost:8888/hello',
        'You see no "Hello world from Flask!", and your server prints what Flask has missed: most often a '
        'variable that PEP 3333 wants in the environ. Try pyramidapp:app and djangoapp:app too.'),
    'environ': Hint(
        'tells the application only a part of the request',
        f"{WITH_PROBES}\ncurl -H 'X-Probe: one' 'http://localhost:8888/caf%C3%A9?a=1'",
        'You see the environ without HTTP_X_PROBE, or a PATH_INFO with %C3 or ?a=1 in it: you hand on the '
        'target as it came, and have not taken the headers apart.'),
    'whole_request': Hint(
        'reads only a part of the request',
        f'{WITH_PROBES}\n'
        'head -c 4096 /dev/zero | curl -s --data-binary @- http://localhost:8888/body | wc -c',
        'You see another number than 4096: you call recv() once, and take that for the whole request.'),
    'whole_response': Hint(
        'breaks rules of PEP 3333',
        f'{WITH_PROBES}\n'
        'for path in wait closable own-headers change-before change-after write; do\n'
        '    curl -sSiN http://localhost:8888/$path; done',
        'You see "before, " two seconds ahead of "after", your server prints "close() was called", then '
        'come one Date, a 500, "raised again" and "written, returned". What you do not see is the bug: '
        'often the body is joined before it is sent, and start_response() returns no write().'),
    'validator': Hint(
        'fails wsgiref.validate',
        f'{WITH_PROBES.replace(":app", ":checked")}\ncurl -i http://localhost:8888/',
        'You see your server print what wsgiref.validate complains about, or not print "close() was called": '
        'PEP 3333 wants it called at the end of each request.'),
    'binary_body': Hint(
        'changes bytes',
        f'{WITH_PROBES}\ncurl -s http://localhost:8888/binary | od -An -v -t u1 -w16',
        'You see other numbers than 0 to 255: you decode, strip or split what you should pass on.'),
    'outlives': Hint(
        'does not outlive its clients and its application',
        f'{WITH_PROBES}\n'
        'curl -s --max-time 2 telnet://localhost:8888 </dev/null; curl http://localhost:8888/raise-before\n'
        'curl -i --max-time 2 http://localhost:8888/',
        'You see no answer to the last of these clients: one that said nothing, or an application that '
        'raised, has ended your server. Catch it at the one place where you handle a request.'),
    'refuses': Hint(
        'takes requests that are not well-formed',
        f"{WITH_PROBES}\ncurl -i -H 'Host:' http://localhost:8888/",
        'You see 200 for a request without Host: you split the lines and take what you get. Match each '
        'line against the grammar, and answer 400.'),
    'promises': Hint(
        'sends what an application must not',
        f'{WITH_PROBES}\ncurl -i http://localhost:8888/break-header',
        'You see X-Smuggled as a header of its own: you send what start_response() is given, and do not '
        'check it.'),
}
