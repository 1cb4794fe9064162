"""What to tell somebody who writes a cure: a question before each lesson, and three hints for each bug.

A line of a hint that begins with four spaces is a command. It is typed in the top folder, while the
server runs on port 8888 in another terminal. {server} stands for what starts it, {server module:app}
for the same with another application.
"""
import re

from laboratory.experiments.verdicts import NO_VERDICT, by_eintr


def start(app='', env=''):
    """The lines of a hint that start the server, with an application and variables of its own."""
    server = f'{{server {app}}}' if app else '{server}'
    return f'Start your server:\n    {env}{server}\nIn another terminal, type:\n'


PROBES, ONE_WORKER = start('wsgi_probes:app'), start('wsgi_probes:app', 'WORKERS=1 ')
SERVER = "'^[^ ]*ython[^ ]* my/'"  # for pgrep: not an editor that has the file open

# What to predict before the lesson that ends with that stage, in the order of the lessons. It is
# about the first experiment that the stage cures.
PREDICTIONS = {
    'part3-v1.1-fd-leak':
        'One client is connected and says nothing. Is the next one answered?',
    'part3-v1.1':
        'A child has answered its client and closed the socket. Does the client see that its reply ends?',
    'part3-v1.2':
        'A child has answered its client and ended. What does ps show?',
    'part3-v1.3':
        'A signal interrupts accept(), with the accept() of Python 2. Does the server survive?',
    'part3-final':
        '24 children end at the same moment. How many zombies are left?',
    'part2-v1.1':
        'A client asks for /caf%C3%A9%20x?a=1. What does the application find in PATH_INFO?',
    'part2-v1.2':
        'An application yields a piece of its body, and waits before the next. When is the first one sent?',
    'part2-v1.3':
        'A client connects and leaves without a word. Is the next one answered?',
    'part2-v1.4':
        'A request has no Host header, although HTTP/1.1 requires it. What is the status of the reply?',
    'part2-final':
        'An application sends a header whose value has a line break in it. What does the client see?',
    'part4-v1.1':
        'A hundred clients connect and say nothing. How many more processes does the server have then?',
    'part4-v1.2':
        'Every worker is killed. Then a client connects. Is it refused, answered, or does it wait?',
    'part4-v1.3':
        'An application never returns. How long does its worker wait for it?',
    'part4-v1.4':
        'A client has its reply, and sends a second request on the same connection. Is it answered?',
    'part4-v2.0':
        '150 clients do nothing, or send their requests slowly. Is another one answered?',
    'part4-v2.1':
        'In each worker an application waits for something. Are other clients answered?',
    'part4-v2.2':
        'Two clients wait for the rest of their replies when the server gets SIGTERM. Do they get it?',
}

# The same three steps for a server that has ended, or does not answer.
WHEN_IT_STOPS = (
    'Look at the last lines that it printed. If there is a traceback, its last line names the error, and the '
    'lines above it name the place. If there is none, press t: you see the system calls of one request.',

    'An error in a child ends only the child. An error in the first process, or in a signal handler that '
    'runs there, ends the server. So find out which process has failed, and at which client: the first one, '
    'or a later one?',

    "Put print('...', flush=True) before each line that can fail or wait, such as accept(), recv() and "
    "send(). In a signal handler, call os.write(1, b'...') instead. The last line that is printed shows how "
    'far the server has come.')

# The same for what some experiments find besides their question: (experiment, what its evidence says).
OTHER_HINTS = {
    ('silent_client', 'a later client'): (
        'One client is silent, a second one is answered, and the next one waits:\n'
        '    sleep 9 | telnet localhost 8888 & sleep 1\n'
        '    curl -m 2 localhost:8888/hello; sleep 1; curl -m 2 localhost:8888/hello\n'
        'What has happened in between? If your server forks for each client, the child of the second one has '
        'ended.',

        'If your server waits for a child, it waits for the one of the silent client, too, which does not '
        'end. Perhaps it waits in the loop of your first process, perhaps in what is called when a child '
        'ends. It may ask whether one has ended, but must not wait until one does.',

        'Look for os.wait(), and for os.waitpid() without os.WNOHANG. os.waitpid(-1, os.WNOHANG) never '
        'waits: it returns (0, 0) if there are children, but none has ended. Then leave your loop.'),
    ('one_child', 'does not end'): (
        'Send two requests, and list your processes:\n'
        '    curl -s -m 2 localhost:8888/hello; curl -s -m 2 localhost:8888/hello\n'
        f'    ps -o pid,ppid,stat,args -p $(pgrep -d, -f {SERVER})\n'
        'Each client leaves one more. What does a child do when it has answered?',

        'A child is a copy of your server, and goes on where it was made. When it has answered, it comes '
        'back to your loop, and serves clients like its parent. Nobody ends it.',

        'Call os._exit(0) as the last thing that a child does, after its close(), in the block where '
        'os.fork() has returned 0.'),
    ('keep_alive', 'two requests in one send'): (
        'Send two requests at once:\n'
        r"    (printf 'GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 2) | "
        'curl -sm 3 telnet://localhost:8888\n'
        'You see one reply. Your recv() has got the bytes of both requests: where are those of the second?',

        'What comes on a connection belongs to the connection, not to one request. A recv() may give you the '
        'end of one request and the beginning of the next.',

        'Make the buffer and the parser once for each connection, in handle_client(). Take from the buffer '
        'what belongs to this request, and leave the rest of it for the next one.'),
    ('keep_alive', 'stays open'): (
        'Be a client that wants to end the connection, and count the seconds:\n'
        r"    (printf 'GET / HTTP/1.0\r\nConnection: Close\r\n\r\n'; sleep 5) | "
        'curl -sm 4 telnet://localhost:8888\n'
        'You see the reply at once. But your server waits for another request.',

        'A client can say that this request is its last one. It says so in the header Connection, in large '
        'letters or small. A client of HTTP/1.0 says the opposite if it wants to go on.',

        "Split the value of Connection at the commas, and compare strip().lower() of each with 'close'. With "
        "HTTP/1.0, close unless there is 'keep-alive'. Reply with Connection: close. See RFC 9112, 9.3."),
    ('stuck_application', 'in the middle'): (
        ONE_WORKER +
        '    curl -m 5 localhost:8888/stuck-halfway\n'
        'The application has returned, and curl gets the first piece of the reply. Then who makes the next '
        'piece, and how long may that take?',

        'The pieces of a reply can come from a generator. It is code of the application, which runs when you '
        'ask for the next piece. So it can get stuck there just as in the call.',

        'Leave the timer on while your loop asks for the pieces. Stop it while you send one to the client, '
        'and start it again when it is sent. Stop it for good in a finally, after the loop.'),
}

# By experiment: what to look at, the idea, and the place, with the call.
THREE_HINTS = {
    'silent_client': (
        'Let one client say nothing, and then send a request:\n'
        '    sleep 5 | telnet localhost 8888 & sleep 1; curl -m 2 localhost:8888/hello\n'
        'curl is connected, but gives up after two seconds. Where in your code is the server meanwhile?',

        'While a process waits for the silent client, it can do nothing else. So give each client a process '
        'of its own, made when the client connects. The first process must not wait for the client, nor for '
        'the new process: it takes the next client at once.',

        'In serve_forever(), call os.fork() after accept(). It returns 0 in the new process, the child: '
        'there, call handle_request(), close the socket, and end with os._exit(0), or the child goes on in '
        'your loop. The parent goes straight back to accept().'),
    'end_of_reply': (
        'Ask for a page, and see who has the connection while curl hangs:\n'
        "    curl -m 3 localhost:8888/hello & sleep 1; ss -tnp 'sport = :8888'\n"
        'The last column names the process that still has the socket: the child, or the server itself? '
        '(macOS has no ss: type lsof -nPi :8888.)',

        "The child is a copy of your server, so both have the client's socket. The kernel sends FIN only "
        'when the last copy is closed. The child closes its own, and the other process has to do the same. '
        'It can do so at once, because the child keeps its copy.',

        'In serve_forever(), where os.fork() has returned a pid and not 0, call client_fd.close(). That '
        'line is for the parent, so put it after the block of the child. If you keep the sockets '
        'in a list, remove the list.'),
    'descriptors': (
        'Send a request, and see which connections the server still has:\n'
        "    curl -m 1 localhost:8888/hello; ss -tan 'sport = :8888'\n"
        'CLOSE-WAIT means that the client has closed its end, and your server has not. Repeat it: each '
        'client adds a line. (macOS has no ss: type lsof -nPi :8888.)',

        'A process keeps a descriptor until it closes it, or ends. Your server does not end. So whatever it '
        'opens for a client, it has to close again, in every process that has a copy of it.',

        'Find the process that keeps the socket. If it is the parent, call client_fd.close() there, after '
        'os.fork(), and remove the list of sockets if you have one. If it is a child that has answered, '
        'end it with os._exit(0).'),
    'one_child': (
        'Send a request, and look for processes in state Z:\n'
        '    curl -s -m 2 localhost:8888/hello; ps -A -o pid,ppid,stat,comm | grep " Z"\n'
        'Z is a child that has ended, and PPID is its parent, your server. What has the server not asked '
        'yet? If there is no such line, the child may not have ended at all.',

        'The kernel keeps a child that has ended until its parent asks how it ended. A parent that asks too '
        'early has to wait, and so do its clients. But the kernel sends it a signal when a child has ended, '
        'and that is the time to ask.',

        'Before the loop in serve_forever(), call signal.signal(signal.SIGCHLD, handle_exit). Then write '
        "handle_exit(signum, frame), which calls os.wait(). To report it, use os.write(1, b'...'), because "
        'print() is not safe in a signal handler.'),
    'eintr': (
        'The last lines that it printed name the call and the error. To see it happen (in Python only): ' +
        start(env='PYTHONPATH=common/python2_accept ') +
        '    (sleep 1; echo; sleep 1) | telnet localhost 8888\n'
        'The server dies when the child of this client ends.',

        'A signal that has a handler interrupts a system call that waits. The handler runs, and the call '
        "fails, although nothing is wrong. Today's Python then makes the call again. With the accept() of "
        'Python 2 you have to do that yourself.',

        'Put only the line with accept() into a try, and go back to the top of the loop when the signal '
        'has interrupted it: except InterruptedError: continue. The manual, accept(2), calls this error '
        'EINTR.'),
    'children_at_once': (
        'Let many children end together, and count the zombies:\n'
        '    make client MAX_CLIENTS=128 HOLD=0; sleep 1\n'
        f'    ps -A -o ppid,stat | grep -w $(pgrep -of {SERVER}) | grep -c Z\n'
        'Then look at what happened in the test: how many children ended, and how many zombies are left?',

        'The kernel does not count signals: while one SIGCHLD has not been delivered yet, more of them add '
        'nothing. So your handler may run once for 24 children, and cannot know how many have ended. It has '
        'to reap all of them each time, and must not wait for those that still run.',

        'In the handler, call os.waitpid(-1, os.WNOHANG) in a loop, see waitpid(2). It never waits. Return '
        'when it gives the pid 0, because the other children still run, or when it raises '
        'ChildProcessError, because no child is left.'),
    'stopped_child': (
        'Stop the child of a silent client, and then send a request:\n'
        f'    sleep 9 | telnet localhost 8888 & sleep 1; pkill -STOP -nf {SERVER}\n'
        f'    curl -m 2 localhost:8888/hello; pkill -CONT -nf {SERVER}\n'
        'curl gives up. What does your server wait for?',

        'The kernel also sends SIGCHLD when a child is stopped. Your handler then waits until a child ends, '
        'and the whole server waits with it. It must only ask whether a child has ended, and return if none '
        'has.',

        'In the handler, os.wait() waits until a child ends. Call os.waitpid(-1, os.WNOHANG) instead, see '
        'waitpid(2): it returns (0, 0) at once if there are children, but none has ended. Then your handler '
        'has to return, too.'),
    'hello': (
        'Your server may have printed why. Each of wsgiapp:app, flaskapp:app, pyramidapp:app and '
        'djangoapp:app (in part2/apps) has to answer this:\n'
        '    curl -i localhost:8888/hello\n'
        'The frameworks need .venv/bin/python.',

        'A framework relies on what PEP 3333 promises: some variables in the environ, a start_response that '
        'it can call, and a server that goes through whatever iterable it returns. All this worked in the '
        'stage that you began with. What have you changed?',

        'Compare get_environ() with "environ Variables" in PEP 3333. wsgi.input has to be a file of bytes, '
        'wsgi.url_scheme and SERVER_NAME text, and SERVER_PORT too: str(8888). Then see that '
        'finish_response() sends all of the result.'),
    'environ': (
        PROBES +
        "    curl 'localhost:8888/a%20b?x=1'\n"
        'The application answers with its environ. Look at PATH_INFO, and look for the User-Agent of curl. '
        'What else did curl send that is not there?',

        'The application wants the parts of the request one by one: the decoded path, the query string as '
        'it came, and a variable for each header. All of it is text, in which each character stands for one '
        'byte (latin-1). So é, which is two bytes in UTF-8, has to become the two characters Ã©.',

        "In get_environ(), split self.path with partition('?'), and decode the path with "
        'urllib.parse.unquote_to_bytes(). Take the header lines in parse_request(): X-Probe becomes '
        "HTTP_X_PROBE. If it comes twice, join the values with ', '. See PEP 3333."),
    'whole_request': (
        PROBES +
        '    head -c 4096 /dev/zero | curl -s --data-binary @- localhost:8888/body | wc -c\n'
        'The application sends back the body that it got. How many of the 4096 bytes have come?',

        'TCP carries bytes, not messages, so one read may give you only part of a request. Read on until the '
        'blank line that ends the headers. One header says how many bytes of body follow. Read exactly that '
        'many, and give the application only these.',

        "In handle_one_request(), read from self.client_fd.makefile('rb') in a with block: readline() up "
        'to the blank line, then read() as much as Content-Length says, or nothing without it. Then '
        'wsgi.input is an io.BytesIO of that body. See socket.makefile.'),
    'whole_response': (
        'You see the first rule that you break, and where it is written. Fix that and save, and you see the '
        'next one. curl shows some of them, such as the Date:\n'
        '    curl -i localhost:8888/hello\n'
        'Is that the current time, in GMT?',

        'Send nothing when start_response() is called, because the headers may still change. Send them with '
        'the first bytes of the body, and each further piece as soon as it comes. If the application has '
        'sent a header, do not add another of that name.',

        'Return a method write(data) from start_response(). It sends the head once (headers_sent), then '
        'the data. finish_response() calls it for each piece, and result.close() in a finally. With '
        'exc_info, raise it if headers_sent. For Date: email.utils.formatdate(usegmt=True).'),
    'validator': (
        'The complaint comes from wsgiref.validate, which watches both sides. ' +
        start('wsgi_probes:checked') +
        '    curl localhost:8888/\n'
        'Your server should print "close() was called".',

        'What the application returns may hold something open, such as a file. Only the server knows when '
        'the response is over, so it has to tell the application, whether all went well or not.',

        "In finish_response(), in a finally around the loop over result: if hasattr(result, 'close'), call "
        'result.close(). If the complaint is another one, look for its words in wsgiref/validate.py of '
        'your Python: the code around them shows the rule.'),
    'binary_body': (
        PROBES +
        '    curl -s localhost:8888/binary | od -An -v -t u1\n'
        'The numbers should go from 0 to 255. Which is the first that is missing or different?',

        'A body is bytes, not text. It may hold any of the 256 byte values, also those of a line end, and '
        'none of them means anything to the server. So pass them on as they are. Only the head is text.',

        'Look at finish_response(), and at write() if you have it. Nothing there may decode(), strip() or '
        "split the body, or format it into a string. Encode the head alone, with 'latin-1', and send head "
        '+ body with sendall().'),
    'outlives': (
        'The screen says what failed, and the traceback says where. Fix that and save, and you see the '
        'next failure. An empty connection looks like this:\n'
        '    python3 -c \'import socket; socket.create_connection(("localhost", 8888))\'\n'
        'Does your server still run?',

        'An error that nobody catches ends the process. Catch it where you handle one request, then close '
        'the connection and go on. If the client is gone, no answer is needed. If the application fails, '
        'the client gets a 500, or a reset if its response has begun.',

        'In handle_one_request(), put a try around everything. Catch BaseException, which includes '
        'SystemExit, and let KeyboardInterrupt through. Print the traceback and answer 500, which may fail '
        'too. Close in a finally. Call settimeout() after accept(). For a reset, set SO_LINGER to 0 seconds: '
        'socket(7).'),
    'refuses': (
        'You see a request, what it got, and the section of the RFC that says otherwise. This one has no '
        'Host:\n'
        "    curl -i -H 'Host:' localhost:8888/hello\n"
        'Why does your code not notice? It looks for what it needs, and for nothing else.',

        'Say what a good line looks like, and refuse every other line. Also refuse a request that could be '
        'read in two ways, such as one with two lengths: do not choose. All this comes before the '
        'application is called.',

        'In parse_request(), use re.fullmatch() for the request line and for each header line: NAME:VALUE, '
        'without control characters. Host has to be one host, and Content-Length [0-9]+. If a line does not '
        'match, raise an error of your own, and answer with 400 where you catch it.'),
    'promises': (
        PROBES +
        '    curl -i localhost:8888/break-header\n'
        'X-Smuggled is a header that the application never named. How has it come into your reply?',

        'An application may pass on what its users type, so check what it gives you, as you check a '
        'request. Do not send a malformed status or header. Do not send more bytes than it has announced, or '
        'a body where none is allowed.',

        'In start_response(), before you set headers_set, check status, names and values: re.fullmatch(), '
        'and wsgiref.util.is_hop_by_hop() for names. If one is wrong, raise ValueError. Send no more of a '
        'body than its Content-Length says, and none for HEAD, 204, 205 and 304. A 204 has no '
        'Content-Length.'),
    'few_processes': (
        'Let twenty clients say nothing, and count your processes:\n'
        '    for i in $(seq 20); do (sleep 5 | telnet localhost 8888 >/dev/null 2>&1 &) done; sleep 1\n'
        f'    pgrep -f {SERVER} | grep -c .\n'
        'Do it again with thirty. What decides how many there are?',

        'A process can serve one client after the other. So make a few of them before the first client '
        'comes, and let none of them end. They all wait for clients at the same listening socket, and the '
        'kernel gives each client to one of them.',

        'In serve_forever(), call os.fork() WORKERS times before the first accept(). Each child, a worker, '
        'has the loop: accept(), handle the client, accept() again. The parent only waits, in '
        'signal.pause(). Take WORKERS from os.environ, else os.cpu_count().'),
    'killed_workers': (
        'Kill all workers, and then send a request:\n'
        f'    pkill -9 -P $(pgrep -of {SERVER}); curl -m 2 localhost:8888/hello\n'
        'curl is connected, since the parent still listens, but nobody accepts it. What does the parent do '
        'meanwhile?',

        'Somebody has to notice that a worker has ended. The parent can: it has nothing else to do. It '
        'sleeps until one of its children ends, makes a new one, and sleeps again.',

        'In serve_forever(), in place of signal.pause(), keep the pids of your workers, and loop: pid, '
        'status = os.wait(), then os.fork() another worker. If the last one lived only for a moment, call '
        'time.sleep() first, or you may fork without end.'),
    'killed_supervisor': (
        'Kill the parent, and then send a request:\n'
        f'    pkill -9 -of {SERVER}; sleep 1; curl -m 2 localhost:8888/hello; pgrep -f {SERVER}\n'
        f'Workers still answer. To end them: pkill -f {SERVER}',

        'A process that is killed can do nothing more, so its workers have to notice it. There is one thing '
        'that the kernel does for every process that ends: it closes what that process had open. A worker '
        'can wait for this.',

        'Call os.pipe() before you fork. In each worker, os.close() the write end, and start a daemon thread '
        "that calls os.read() on the read end, and then os._exit(0). Only the supervisor's write end is "
        'left, so the read returns when the supervisor ends. See pipe(7).'),
    'stuck_application': (
        ONE_WORKER +
        '    curl -m 2 localhost:8888/stuck; curl -m 2 localhost:8888/header\n'
        'Both give up. The first client has left long ago, but its worker is still in the application. In '
        'the test, APP_TIMEOUT is 0.5: does your server read it?',

        'A worker cannot end the call that it is in. But the kernel can send it a signal after some time, '
        'and the signal ends the worker. That is no loss, because the supervisor makes a new one.',

        'Before you call the application: signal.setitimer(signal.ITIMER_REAL, APP_TIMEOUT). SIGALRM then '
        'ends the process. Set the timer to 0 while you send, because the client may be slow, and in a '
        "finally. With threads, check a deadline in your loop. float(os.environ['APP_TIMEOUT']) is 0.5 in "
        'the test.'),
    'drip': (
        'Send a byte each second:\n'
        r"    (printf 'GET / HTTP/1.1\r\nX: '; for i in $(seq 20); do sleep 1; printf x; done) | curl -m 20 "
        'telnet://localhost:8888\n'
        'Does your server end it after its limit, or is it curl that gives up? Then when does your limit '
        'begin? In the test, REQUEST_TIMEOUT is 0.5.',

        'A limit that begins anew with each byte limits the pause, not the request. So decide once, when '
        'the request begins, at what time it has to be whole. Before each wait, see how much of that time '
        'is left.',

        'In read_request(), before the loop: deadline = time.monotonic() + REQUEST_TIMEOUT. Before each '
        'recv(), call client_fd.settimeout() with what is left, but more than 0. (An event loop is told the '
        "deadline.) Then answer 408. float(os.environ['REQUEST_TIMEOUT']) is 0.5 in the test."),
    'slow_client': (
        PROBES +
        '    curl -s --limit-rate 2M localhost:8888/megabytes | wc -c\n'
        'The number should be 4194304. If it is smaller, you have given up on a client that was still '
        'reading.',

        'A client that is slow is not stuck. It may take as long as it needs for a large body, as long as '
        'some bytes move now and then. So limit each pause in which no byte moves, and not the whole reply.',

        'In send(), call client_fd.send() in a loop, and go on after the bytes that it took: each call '
        'has the time of settimeout() to itself, while sendall() has it for all bytes together (Python '
        'docs, socket). When you read a body, recv() may return less than you want.'),
    'keep_alive': (
        'Ask for two pages with one curl, and look at its own lines:\n'
        "    curl -sv localhost:8888/a localhost:8888/b 2>&1 | grep -i 'connect'\n"
        'It has to connect twice. Which header of your reply tells it so?',

        'If a reply says where its body ends, the connection need not end there. Then wait for the next '
        'request. Its first bytes may have come with the previous one, so keep them. Close only if the '
        'client asks for it, after an error, or where the client could not see the end.',

        'In handle_client(), loop over handle_one_request(), with one buffer and one parse_requests(), '
        'which loops too. In response_head(): Content-Length if the body is one piece (0 for a 205), else '
        r"Transfer-Encoding: chunked: b'%x\r\n%b\r\n' for each piece, then b'0\r\n\r\n'. RFC 9112, 7 and 9."),
    'chunked_body': (
        'Send a body in chunks:\n'
        "    curl -i -m 2 -H 'Transfer-Encoding: chunked' -d hello localhost:8888/hello\n"
        'Where in your code does this status come from?',

        'A chunked body has no length of its own. Each piece comes after a line with its size, in '
        'hexadecimal, and is followed by a line end. A size of 0 is the end, but header lines may follow, '
        'up to a blank line. The application gets the pieces put together.',

        'In take_body(), where the 501 is: take_line(), then int(size, 16) of what is before a ";", then '
        'take(buffer, size + 2), the piece and its line end. At 0, take_fields(). Put the length into '
        "headers['content-length']. RFC 9112, section 7.1."),
    'smuggling': (
        'The request can be read in two ways, and your server saw a second request in it. In this one, a '
        'size has a sign:\n'
        r"    (printf 'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n'; sleep "
        '1) | curl -s telnet://localhost:8888\n'
        'A 200 is wrong.',

        'If a proxy reads the request in one way and your server in another, one of them sees a second '
        'request in it. So refuse it, and close the connection, because nobody knows where the next one '
        'begins. A size has only digits, hexadecimal ones in a chunk, and each line ends as the RFC says.',

        'In take_body(): a 400 if Transfer-Encoding comes with Content-Length or in HTTP/1.0, or is not '
        'just "chunked". For a size, re.fullmatch() [0-9A-Fa-f]{1,8} up to ";" or CRLF, because int() also '
        r"takes +0, 0x0 and 1_0. A chunk has to end with b'\r\n'."),
    'idle_clients': (
        'Let one client do nothing, and then send a request. ' +
        start(env='WORKERS=1 ') +
        '    (sleep 4 | telnet localhost 8888 >/dev/null 2>&1 &); sleep 1; curl -m 1 localhost:8888/hello\n'
        'curl gives up. Where does the worker sleep, and for how many clients?',

        'Sleep in one place only, for all clients at once. Ask the kernel which sockets can be read or '
        'written now, do what you can without waiting, and ask again. Keep what you know of each client in a '
        'table, because you serve the others in between.',

        'In each worker, loop over selectors.DefaultSelector().select(), with setblocking(False) for all '
        'sockets. Each client is an object, whose handle_client() is a generator: it yields where '
        'recv() or send() raises BlockingIOError. Call next() when its socket is ready, or its time is '
        'over.'),
    'waiting_application': (
        ONE_WORKER +
        '    (curl -m 3 localhost:8888/stuck &); sleep 1; curl -m 1 localhost:8888/header\n'
        'The second page is ready at once, but curl gives up. Who should have served it?',

        'While the application runs, your loop does not. So something else in the worker has to run it, and '
        'there have to be several of these. They hand the response to the loop. The loop may be asleep, so '
        'they also have to wake it up, or the response is not sent.',

        'After the fork, start some threads (threading.Thread) that take requests from a queue.SimpleQueue '
        'and call the application. What it returns goes into a buffer of the connection. Then send a byte '
        'into a socket.socketpair(), whose other end is in your selector: select() returns.'),
    'non_reader': (
        ONE_WORKER +
        '    curl -s localhost:8888/large | sleep 5 & sleep 1; curl -m 2 localhost:8888/header\n'
        'The first curl stops reading, because sleep takes nothing from it. The second one gives up.',

        'The kernel stores some bytes for a client that does not read. When there is no more room, your '
        'call waits. So keep what the kernel has not taken, for each client, and go on with the others '
        'until it has room again.',

        'In send(), use setblocking(False), add the data to a bytearray, and delete what client_fd.send() '
        'took. At BlockingIOError, wait for selectors.EVENT_WRITE, but only while bytes are left. Take the '
        'next piece from the application when all is sent.'),
    'late_clock': (
        'The bytes came in time, but the server was stopped and read them late. The screen says which '
        'clients were cut off. In your code, find where you look at the clock, and where at the socket. '
        'Which comes first?',

        'What has come by now is in time, however late you read it. So try to read first, even when the '
        'time is up. It is too late only if nothing is there.',

        'Set is_late = time.monotonic() >= deadline, and call recv() all the same. Raise your timeout '
        'only if recv() raises BlockingIOError and is_late. If the socket blocks, call '
        'settimeout(max(left, 0.001)), so that recv() is always tried.'),
    'no_descriptors': (
        'Leave a worker few descriptors. ' +
        start(env='WORKERS=1 ') +
        f'    pid=$(pgrep -nf {SERVER}); prlimit --nofile=10 --pid $pid; for i in $(seq 20); do (sleep 9 | '
        'telnet localhost 8888 >/dev/null 2>&1 &) done; sleep 5; ps -o pid,time -p $pid\n'
        'Its CPU time should be 00:00:00.',

        'When no descriptor is left, you cannot have the next client, but it stays in the backlog. So the '
        'kernel reports the listening socket as ready again at once. Do not look at that socket for a '
        'moment, and serve the clients that you have.',

        'Where your loop calls accept(), catch BlockingIOError and ConnectionAbortedError first, which are '
        'harmless. At any other OSError, which is EMFILE here, take the listening socket out of your '
        'selector for half a second (unregister()). See accept(2).'),
    'stop_mid_reply': (
        PROBES +
        f'    curl -s localhost:8888/large | (sleep 1; pkill -of {SERVER}; wc -c)\n'
        'pkill sends SIGTERM in the middle of a reply of 19660800 bytes. How many of them have come?',

        'SIGTERM asks you to stop, but not at once. Accept no new client, finish what has begun, and then '
        'end. The supervisor tells its workers, and waits for them, but not for ever. A process that sleeps '
        'has to wake up when the signal comes.',

        'In each worker, give SIGTERM a handler that does nothing, and pass one end of a non-blocking '
        'socket.socketpair() to signal.set_wakeup_fd(). When the other end has bytes, close the '
        'listening socket, and end when no connection is left. In the finally of serve_forever(), send '
        'SIGTERM, not SIGKILL.'),
    'restart_backlog': (
        'Send SIGHUP to the server, and then a request:\n'
        f'    pgrep -f {SERVER}; pkill -HUP -of {SERVER}; sleep 1; pgrep -f {SERVER}\n'
        '    curl -m 2 localhost:8888/hello\n'
        'The first pid should still be there, and the others should be new.',

        'A client that waits in the backlog belongs to the listening socket, not to a worker. So keep this '
        'socket open in the supervisor, from beginning to end. SIGHUP then means: make new workers, and ask '
        'the old ones to finish and stop.',

        'In serve_forever(), give signal.SIGHUP a handler that calls os.fork() for a new worker in place '
        'of each old one, and then os.kill() for the old ones, with SIGTERM. Set it back to SIG_DFL in a '
        'worker. Leave the listening socket open: the new workers accept() whoever waits there.'),
    'reload': (
        'Send SIGHUP while many requests come, and count the answers:\n'
        f'    (sleep 1; pkill -HUP -of {SERVER}) & for i in $(seq 300); do curl -so /dev/null -w '
        "'%{http_code}\\n' localhost:8888/; done | sort | uniq -c\n"
        'Each 000 is a request that was lost.',

        'Begin with the new worker: an old one may stop only when the new one serves. And a client whose '
        'connection you have kept may be sending its next request just now. So give it a moment before you '
        'close.',

        'Let the new worker os.kill() the old one with SIGTERM, just before its own loop begins. When an '
        'old one stops, it sends Connection: close with its last replies, gives idle connections half a '
        'second, and uses shutdown(socket.SHUT_WR) before close().'),
    'flat': (
        'Look at the memory of a worker, in KB. ' +
        start(env='WORKERS=1 ') +
        "    for i in 1 2 3 4; do curl -so /dev/null 'localhost:8888/?[1-3000]'; ps -o rss= -p $(pgrep -nf "
        f'{SERVER}); done\n'
        'The last numbers should be equal, or nearly.',

        'Something of each request stays when its reply has been sent. It is in a list, a table or a set '
        'that only grows. Whatever you add when a client comes has to go when the client goes, also after '
        'an error or a time limit.',

        'Look at each list, dict and set of the server, such as tasks and connections. Remove the entry, '
        'unregister() the socket and close() it, all in a finally of handle_client(). tracemalloc (Python '
        'docs) shows which line has taken the memory.'),
}


def hints_for(experiment, verdict):
    """The three hints for what an experiment has found."""
    if by_eintr(verdict):
        return THREE_HINTS['eintr']
    if verdict.outcome in NO_VERDICT:
        return WHEN_IT_STOPS
    others = [hints for (name, said), hints in OTHER_HINTS.items()
              if name == experiment.__name__ and said in verdict.evidence]
    return others[0] if others else THREE_HINTS[experiment.__name__]


def filled(hint, start_line):
    """The hint with the lines that start the server: start_line(app), where app is '' for the usual one."""
    return re.sub(r'\{server ?(\S*)\}', lambda start: start_line(start[1]), hint)
