"""What to tell somebody whose server has a bug: a command that shows it, and what to look for.

The commands are typed in the top folder, while the server runs on port 8888 in another terminal.
"""
import re
from typing import NamedTuple

from common.stages import PYTHON2_ACCEPT
from laboratory.experiments.part2 import FAILURES, HEAD, MALFORMED, PROMISES, WELL_FORMED
from laboratory.experiments.part4 import BINARY, FIRST_REQUESTS, SMUGGLING, asking
from laboratory.instruments.client import request
from laboratory.instruments.process import APPS

NO_STAGE = 'no stage'


class Hint(NamedTuple):
    bug: str  # in a few words, after 'Yours'
    command: str
    look: str
    cure: str = ''  # the stage that cures it, where that is not the experiment's; NO_STAGE for none
    path: str = ''  # a folder that the server's Python needs
    app: str = ''  # the application that the server runs


def as_typed(data):
    """The command that sends these bytes and shows the answer."""
    text = ''.join(chr(byte) if chr(byte).isprintable() and byte < 127 else f'\\{byte:03o}'
                   for byte in data.replace(b'\\', b'\\\\').replace(b'%', b'%%').replace(b"'", b'\\047'))
    text = text.replace('\\015', '\\r').replace('\\012', '\\n')
    return f"(printf '{text}'; sleep 1) | curl -s --max-time 3 telnet://localhost:8888"


CURL = 'curl --max-time 2 http://localhost:8888/hello'
NEXT = 'curl -i --max-time 2 http://localhost:8888/'
PROBES = {'path': APPS, 'app': 'wsgi_probes:app'}
SILENT = 'sleep 9 | telnet localhost 8888 & sleep 1'
LAST_PID = r"sed 's/.*pid=\([0-9]*\).*/\1/' | tail -1"  # of what ss -p says
MANY_SILENT = 'for i in $(seq 20); do (sleep 9 | telnet localhost 8888 >/dev/null 2>&1 &) done; sleep 1'
LISTENERS = "ss -tlnpH 'sport = :8888' | grep -o 'pid=[0-9]*' | cut -c5-"
OLDEST = f'ps -o pid= --sort=start_time -p "$({LISTENERS} | paste -sd, -)" | head -1'
SERVER_PID = f"$(ss -tlnpH 'sport = :8888' | {LAST_PID})"
HINTS = {
    'silent_client': Hint(
        'waits for a silent client',
        f'{SILENT}; {CURL}',
        'You see curl time out: while you wait for one client, you serve nobody else.'),
    'end_of_reply': Hint(
        'does not end its replies',
        CURL, 'You see the reply, and then curl hangs: one of your processes still holds the socket.'),
    'descriptors': Hint(
        'leaks descriptors',
        f"{CURL}; ss -tan 'sport = :8888'",
        'You see a CLOSE-WAIT line for every client that has gone: you have not closed its socket.'),
    'one_child': Hint(
        'leaves zombies',
        f'{CURL}; ps -o pid,ppid,stat,comm --ppid {SERVER_PID}',
        'You see your child as a zombie (Z): it has ended, and you do not wait() for it.'),
    'eintr': Hint(
        'dies of EINTR',
        'for i in 1 2 3; do curl --max-time 2 http://localhost:8888/hello; sleep 1; done',
        'You see a client fail after the first (the folder gives Python 3 the accept() of Python 2): '
        'a SIGCHLD ended a system call such as accept() with EINTR, and you did not call it again.',
        path=PYTHON2_ACCEPT),
    'children_at_once': Hint(
        'leaves zombies when children end together',
        f'make client MAX_CLIENTS=128 HOLD=0; ps -o stat --ppid {SERVER_PID} | grep -c Z',
        'You see zombies: SIGCHLD is not queued, and you reap one child for each signal.'),
    'stopped_child': Hint(
        'hangs while a child is stopped',
        f"{SILENT}; child=$(ss -tnpH 'sport = :8888' | {LAST_PID}); "
        f'kill -STOP $child; sleep 1; {CURL}; kill -CONT $child',
        'You see curl time out: your handler waits for a child that has not ended.'),
    'hello': Hint(
        'does not run every framework',
        'curl -i http://localhost:8888/hello',
        'You see no "Hello world from Flask!", and your server prints what Flask is missing: most often a '
        'variable that PEP 3333 requires in the environ. Try pyramidapp:app and djangoapp:app too.',
        path='part2/apps', app='flaskapp:app'),
    'environ': Hint(
        'passes on only part of the request',
        "curl -H 'X-Probe: one' 'http://localhost:8888/caf%C3%A9?a=1'",
        'You see the environ without HTTP_X_PROBE, or a PATH_INFO with %C3 or ?a=1 in it: you pass on '
        'the target as it came, and have not parsed the headers.', **PROBES),
    'whole_request': Hint(
        'reads only part of the request',
        'head -c 4096 /dev/zero | curl -s --data-binary @- http://localhost:8888/body | wc -c',
        'You see a number other than 4096: you call recv() once, and treat that as the whole request.',
        **PROBES),
    'whole_response': Hint(
        'breaks rules of PEP 3333',
        'for path in wait closable own-headers change-before change-after write; do\n'
        '    echo "--- $path"; curl -sSiN http://localhost:8888/$path; echo; done',
        'You see that one of these is missing: "before, " two seconds before "after"; "close() was called", '
        'which your server prints; one Date; a 500; "raised again"; "written, returned". Often the body is '
        'joined before it is sent, or start_response() returns no write().', **PROBES),
    'validator': Hint(
        'fails wsgiref.validate',
        'curl -i http://localhost:8888/',
        'You see your server print a complaint of wsgiref.validate, or not print "close() was called": '
        'PEP 3333 wants close() to be called at the end of each request.',
        **PROBES | {'app': 'wsgi_probes:checked'}),
    'binary_body': Hint(
        'changes the bytes of a body',
        'curl -s http://localhost:8888/binary | od -An -v -t u1 -w16',
        'You see something other than the numbers 0 to 255 in order: you decode, strip or split bytes '
        'that you should pass on.',
        **PROBES),
    'outlives': Hint(
        'dies or hangs when a client or the application fails',
        f'curl http://localhost:8888/raise-before; {NEXT}',
        'You see no answer to the last client: one client, or one request, has ended your server or blocks '
        'it. Catch failures in the one place where you handle a request.', **PROBES),
    'refuses': Hint(
        'accepts malformed requests',
        "curl -i -H 'Host:' http://localhost:8888/closable",
        'You see 200, or no answer at all, where an error is due: you split the lines and take what '
        'comes. Match each line against the grammar, and answer 400.', **PROBES),
    'promises': Hint(
        'sends what an application must not send',
        'curl -i http://localhost:8888/break-header',
        'You see what the application must not send, or a 200 where an error is due: you send the headers '
        'and the body as they come, and do not check them.', **PROBES),
    'few_processes': Hint(
        'needs a process for each client',
        f'{MANY_SILENT}; ps -A -o ppid | grep -cw $({OLDEST})',
        'You see a number of about 20: each client that says nothing has a process to itself. Fork a '
        'fixed number of workers before the first client comes (prefork).', **PROBES),
    'killed_workers': Hint(
        'does not replace a worker that is killed',
        f'pid=$({OLDEST}); kill -9 $(pgrep -P $pid); sleep 3; {NEXT}',
        'You see curl time out: the kernel has connected it, but no process is left that accepts it. Wait '
        'for your workers with os.wait(), and fork another one when one has ended.', **PROBES),
    'killed_supervisor': Hint(
        'leaves workers behind when it is killed',
        f"kill -9 $({OLDEST}); sleep 3; ss -tlnp 'sport = :8888'",
        'You see a LISTEN line: your workers still hold the port. Let each of them read from a pipe whose '
        'other end only the supervisor has, and end when that read returns.', **PROBES),
    'stuck_application': Hint(
        'waits for ever for its application',
        'curl --max-time 60 http://localhost:8888/stuck',
        'You see curl give up after a minute. Start a timer before you call the application, and end the '
        'worker when it fires.', **PROBES),
    'drip': Hint(
        'waits as long as one more byte comes',
        "(printf 'GET / HTTP/1.1\\r\\nX-Drip: '; for i in $(seq 60); do sleep 1; printf x; done) | "
        'curl -s --max-time 60 telnet://localhost:8888; echo "exit status $?"',
        'You see exit status 28 after a minute: you have a time limit for each recv(), or none. Set a '
        'deadline for the whole request.', **PROBES),
    'slow_client': Hint(
        'cuts off a slow client',
        'head -c 60000 /dev/zero | '
        'curl -s --limit-rate 10k --data-binary @- http://localhost:8888/body | wc -c',
        'You see a number other than 60000: you end a connection although its client goes on.', **PROBES),
    'keep_alive': Hint(
        'closes the connection after each reply',
        'page=http://localhost:8888/body; '
        "curl -so /dev/null -o /dev/null -w '%{num_connects} new connection\\n' $page $page",
        'You see "1 new connection" twice, once for each page: you have closed the first one. Say how long '
        'each reply is, and wait for the next request.', **PROBES),
    'chunked_body': Hint(
        'does not read a chunked body',
        "curl -i --max-time 2 -H 'Transfer-Encoding: chunked' --data hello http://localhost:8888/body",
        'You see something other than hello, or curl times out: read the chunks, and give the application '
        'their bytes.',
        **PROBES),
    'smuggling': Hint(
        'answers a smuggled request',
        as_typed(SMUGGLING['a chunked body with a Content-Length']),
        'You see two replies to one request, or your server prints that the application was called with '
        '/smuggled: refuse what can be read in two ways with 400, and close the connection.', **PROBES),
    'idle_clients': Hint(
        'lets idle clients hold up the others',
        f'{MANY_SILENT}; {NEXT}',
        'You see curl time out: each idle client has one of your workers to itself. An event loop, or a '
        'thread for each client, lets them wait.', **PROBES),
    'waiting_application': Hint(
        'lets an application that waits hold up the others',
        f'for i in $(seq $(nproc)); do (curl -s --max-time 9 http://localhost:8888/stuck &) done; '
        f'sleep 1; {NEXT}',
        'You see curl time out: a worker whose application waits serves nobody else. Call the application '
        'in a thread, and go on with the other clients.', **PROBES),
    'non_reader': Hint(
        'lets clients that do not read hold up the others',
        'for i in $(seq 24); do (curl -s --limit-rate 1k --max-time 9 http://localhost:8888/ten-pieces '
        f'>/dev/null &) done; sleep 1; {NEXT}',
        'You see curl time out: you wait until a client has taken its reply. Keep what it has not taken, '
        'and send more when its socket is writable.', **PROBES),
    'late_clock': Hint(
        'cuts off a client that was in time',
        f"pids=$({LISTENERS}); (printf 'GET / HTTP/1.1\\r\\n'; sleep 1; kill -STOP $pids; "
        "printf 'Host: x\\r\\n\\r\\n'; sleep 35; kill -CONT $pids; sleep 1) | "
        'curl -s telnet://localhost:8888',
        'You see no 200: all that the client sent was there, but you looked at the clock first. Look at '
        'its socket once more before you end it.', **PROBES),
    'no_descriptors': Hint(
        'fails when it has no descriptors left',
        f'pids=$({LISTENERS}); for pid in $pids; do prlimit --pid $pid --nofile=20; done; '
        'for i in $(seq 60); do (sleep 9 | telnet localhost 8888 >/dev/null 2>&1 &) done; sleep 5; '
        'ps -o pid,cputimes,comm -p "$(echo $pids)"',
        'You see some seconds of CPU time, or that a process is missing: accept() fails with EMFILE. Catch '
        'that, and accept nobody until a client has left.', **PROBES),
    'stop_mid_reply': Hint(
        'breaks off replies when it is stopped',
        f'curl -s http://localhost:8888/ten-pieces | (head -c 1000; kill $({OLDEST}); sleep 1; cat) | wc -c',
        'You see a number other than 10000000: SIGTERM ends you in the middle of a reply. Let its handler '
        'only note it; then accept nobody any more, finish what you have begun, and end.', **PROBES),
    'restart_backlog': Hint(
        'loses clients that connect while it restarts',
        f'pid=$({OLDEST}); workers=$(pgrep -P $pid); kill -STOP $workers; for i in 1 2 3 4 5; do '
        "(curl -s -o /dev/null -w '%{http_code}\\n' --max-time 5 http://localhost:8888/ &) done; "
        'sleep 1; kill -HUP $pid; sleep 1; kill -CONT $workers; sleep 5',
        'You see 000 instead of 200, or your old workers answer: at SIGHUP, replace the workers, and keep '
        'the listening socket open, in whose backlog these clients are.', **PROBES),
    'reload': Hint(
        'loses requests when it reloads',
        f'(sleep 1; kill -HUP $({OLDEST})) & for i in $(seq 200); do '
        "curl -s -o /dev/null -w '%{http_code}\\n' http://localhost:8888/; done | sort | uniq -c",
        'You see a line with 000, for the requests that were lost, or your old workers answer: at SIGHUP, '
        'start new workers, and let the old ones finish what they have begun.', **PROBES),
    'flat': Hint(
        'leaks memory or descriptors',
        "for i in 1 2 3 4; do curl -s -o /dev/null 'http://localhost:8888/binary?[1-5000]'; "
        f'for pid in $({LISTENERS}); do echo "$(ps -o rss= -p $pid) $(ls /proc/$pid/fd | wc -l)"; '
        'done; echo; done',
        'You see numbers that grow with each 5000 requests: kilobytes of memory, and descriptors. You keep '
        'something of a request that has been answered.', **PROBES),
}


def gone_before(line):
    """The Hint for a server that dies when a client sends this line, and resets before it is read."""
    command = (
        f'pids=$({LISTENERS}); kill -STOP $pids; python3 -c \'import socket, struct; '
        f'client = socket.create_connection(("localhost", 8888)); client.send(b"{line}\\r\\n\\r\\n"); '
        'client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); client.close()\'; '
        f'kill -CONT $pids; sleep 1; {NEXT}')
    return Hint(
        'dies when it sends to a client that has reset', command,
        'You see no answer to the last client: sending to the one before fails, in Python with '
        'BrokenPipeError or ConnectionResetError. Expect that, also where you send an error.', **PROBES)


def variants(experiment, commands, **told):
    """What VARIANTS has for the first thing that is wrong: {its name: the command that shows it}.

    told    what else differs from the Hint of the experiment
    """
    hint = HINTS[experiment]._replace(**told)
    return [(experiment, f'^wrong: {re.escape(name)}: ', hint._replace(command=command))
            for name, command in commands.items()]


# The same bug, seen otherwise: (experiment, what its evidence says, hint)
VARIANTS = [
    ('silent_client', 'cut off', Hint(
        'cuts off a client that is silent for a moment',
        "(sleep 2; printf 'GET / HTTP/1.1\\r\\n\\r\\n'; sleep 1) | "
        'curl -s --max-time 5 telnet://localhost:8888',
        'You see no greeting: your time limit makes room for others, and costs you this client. Serve both '
        'at the same time.')),
    ('silent_client', 'a later client', Hint(
        'waits for the child of a silent client',
        f'{SILENT}; {CURL}; sleep 1; {CURL}',
        'You see the second curl time out. If you wait() when a child has ended, you wait for that of the '
        'silent client, too: use WNOHANG.', 'part3-final')),
    ('eintr', 'no client between', Hint(
        'dies when children end one after the other',
        f'for i in 1 2 3; do (sleep $i | telnet localhost 8888 >/dev/null 2>&1 &) done; sleep 4; {CURL}',
        'You see curl fail: a second SIGCHLD has interrupted the accept() that you call after the first. '
        'Go back to the top of your loop each time.', path=PYTHON2_ACCEPT)),
    ('eintr', 'new socket', Hint(
        'opens a new listening socket after EINTR',
        f"ss -tlneH 'sport = :8888'; {CURL}; sleep 1; ss -tlneH 'sport = :8888'",
        'You see two numbers behind ino: the socket is a new one, and the clients in the backlog of the old '
        'one are reset. Call accept() again, and nothing else.', path=PYTHON2_ACCEPT)),
    ('killed_workers', 'one more worker', Hint(
        'replaces only some of its workers',
        f'pid=$({OLDEST}); kill -9 $(pgrep -P $pid | tail -1); sleep 3; ps -o pid,stat --ppid $pid',
        'You see no new worker in place of the one that was killed, which may still be a zombie (Z): wait '
        'for whichever child ends, with os.wait().', **PROBES)),
    ('stuck_application', 'takes its time to read', Hint(
        'limits the time of slow clients, too',
        'curl -s -o /dev/null --limit-rate 200k http://localhost:8888/ten-pieces; echo "exit status $?"',
        'You see another exit status than 0 after your time limit: stop the timer while you send.',
        **PROBES)),
    ('stuck_application', 'an idle worker', Hint(
        'limits the time of idle workers, too',
        f'curl -s -o /dev/null http://localhost:8888/; {LISTENERS}; sleep 35; echo; {LISTENERS}',
        'You see other pids the second time, although your workers had nothing to do: stop the timer when '
        'the application has returned.', **PROBES)),
    ('stuck_application', 'in the middle', Hint(
        'does not end an application that stops in the middle of its reply',
        'curl --max-time 60 http://localhost:8888/stuck-halfway',
        'You see "before," at the most, and curl times out: take the pieces of the reply inside your time '
        'limit, too.', **PROBES)),
    ('drip', 'stops halfway', Hint(
        'waits for the rest of a request without end',
        "(printf 'GET / HTTP/1.1\\r\\n'; sleep 60) | "
        'curl -s --max-time 60 telnet://localhost:8888; echo "exit status $?"',
        'You see exit status 28 after a minute: give each recv() what is left of the time.', **PROBES)),
    ('keep_alive', '^wrong: a client (that asks|of HTTP/1.0)', Hint(
        'keeps a connection that its client wants to end',
        "(printf 'GET / HTTP/1.0\\r\\nConnection: Close\\r\\n\\r\\n'; sleep 6) | "
        'curl -s --max-time 5 telnet://localhost:8888; echo "exit status $?"',
        'You see exit status 28: close the connection after the reply, if the client says "close", in small '
        'letters or capitals, or speaks HTTP/1.0 and does not say "keep-alive".', **PROBES)),
    ('end_of_reply', 'RST', Hint(
        'resets connections',
        CURL, 'You see curl: (56), reset by peer: close() resets where bytes of the request are unread, '
        'or where SO_LINGER has 0 seconds.', NO_STAGE)),
    ('descriptors', ' 0 of them sockets', Hint(
        'leaks descriptors',
        f"{CURL}; {CURL}; ls -l /proc/{SERVER_PID}/fd",
        'You see a descriptor for every client that has gone: you opened it, and did not close it.',
        NO_STAGE)),
    ('one_child', 'does not end', Hint(
        'keeps children that have answered',
        f'{CURL}; pid={SERVER_PID}; ps -o pid,ppid,stat,args -p $pid --ppid $pid',
        'You see your child below your server, alive (S): end it when it has answered, with os._exit(0).',
        'part3-v1.1-fd-leak')),
    ('children_at_once', r'^(\d+) zombies after \1 |one by one',
     HINTS['one_child']._replace(cure='part3-v1.2')),
    ('outlives', '^wrong: an app that raises halfway', Hint(
        'sends half a body as if it were complete',
        'curl -i http://localhost:8888/raise-after; echo "exit status $?"',
        'You see exit status 0: FIN is how a body without Content-Length ends, so end it with a reset.',
        **PROBES)),
    ('outlives', '^wrong: a client that is silent after its reply', Hint(
        'waits for a client that has its reply',
        f"(printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 9) | "
        f'curl -s telnet://localhost:8888 & sleep 1; {NEXT}',
        'You see curl time out: once you have sent a reply, give its client only a moment to close.',
        **PROBES)),
    ('outlives', '^wrong: a client that has gone before its reply', gone_before('GET / HTTP/1.1')),
    ('outlives', '^wrong: a client that has gone before an error reply', gone_before('mick')),
    ('waiting_application', 'does not come', Hint(
        'forgets the reply of an application that has waited',
        'curl -i --max-time 9 http://localhost:8888/wait',
        'You see curl time out: the application has returned, and you wait for something else to happen. '
        'Let its thread wake you, through a socketpair.', **PROBES)),
    ('stop_mid_reply', '^wrong: [0-9]+ processes do not end$', Hint(
        'does not end at SIGTERM',
        f"kill $({OLDEST}); sleep 3; ss -tlnp 'sport = :8888'",
        'You see a LISTEN line: some of your processes still hold the port.', **PROBES)),
    *variants('outlives', {'an app that calls exit': f'curl http://localhost:8888/exit; {NEXT}'}),
    *variants('outlives', {name: f'{as_typed(data)}; {NEXT}' for name, data in FAILURES.items()
                           if isinstance(data, bytes) and len(data) < 200}),
    *variants('refuses', {name: as_typed(data) for name, data, *_ in MALFORMED}),
    *variants('refuses', {name: as_typed(data) for name, data, *_ in WELL_FORMED},
              bug='refuses well-formed requests',
              look='You see an error where the RFCs allow none, or no hello.'),
    *variants('promises', {name: as_typed(request('GET', path)) for name, path, *_ in PROMISES}),
    *variants('smuggling', {name: as_typed(data) for name, data in SMUGGLING.items()}),
    *variants('keep_alive', {name: as_typed(data + BINARY) for name, data in {
        **FIRST_REQUESTS, 'a body': asking('POST', '/body', body=b'x' * 10),
        'two requests in one send': BINARY}.items()},
              bug='confuses the requests on one connection',
              look='You see no second reply, or a wrong one: read exactly one request, and end each reply.'),
    *variants('promises', {HEAD: as_typed(request('HEAD', '/closable'))}),
]


def hint(experiment, evidence):
    """The Hint for a bug that an experiment of that name has found."""
    for name, pattern, variant in VARIANTS:
        if name == experiment and re.search(pattern, evidence):
            return variant
    return HINTS[experiment]
