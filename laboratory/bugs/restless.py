"""rests when it has nothing to do"""
import re
import time
from contextlib import suppress

from laboratory.instruments import cpu, kernel, views
from laboratory.instruments.client import REQUEST, ask, connected, try_to_connect
from laboratory.instruments.experiment import NOT_TESTED, Case, Result, about, bug, passed

BUSY = 0.3  # of the time of a CPU: who uses so much spins
LONG = 2  # seconds in which a server comes to rest, or is seen to spin
LEAST_WORK = 0.05  # seconds of CPU in this time: less is no spinning, however long the machine is busy
CLIENTS = 6  # that leave in the same way
MOST_THREADS = 128  # up to which a pool may grow
QUICK = 0.05  # seconds for a reply of a server that can be asked so often
CALLS = {  # that a thread makes again and again, as strace has them, and what it gets
    'reads': (r'^(read|readv|recvfrom|recvmsg)\(.* = 0$', 'which returns no bytes: the client has gone'),
    'handler': (r'^(wait4|waitid)\(.* = 0$', 'which finds no child that has ended'),
    'accepts': (r'^(accept4?)\(.*EAGAIN', 'which finds no client'),
    'polls': (r'^(select|pselect6|poll|ppoll|epoll_wait|epoll_pwait2?)\(', 'which returns at once'),
}


def experiment(server, step):
    if not kernel.LINUX:
        return Result(NOT_TESTED, detail='only Linux tells which process uses the CPU')
    before, silent = threads(server), connected(server)
    for moment in 'while one client is silent, and others have gone', 'when its clients have gone':
        visit(server, 1)
        if spinning := who_spins(server):
            step(f'Nobody asks anything {moment}', views.processes)
            return what_spins(server, *spinning, moment)
        silent.close()
    more, clients = kept_threads(server, before)
    if more >= MOST_THREADS:
        step(f'{clients} more clients have come and gone', views.processes)
        return bug('threads', f'{more} more threads than before, although all clients have gone')
    return passed('it rests while one client is silent, and when its clients have gone')


def visit(server, number):
    """Be so many clients that ask, that leave without a word, and that leave after half a request."""
    for data in [REQUEST, b'', REQUEST[:20]] * number:
        client = try_to_connect(server)
        if not client:  # it has ended, or is stuck
            break
        with client, suppress(ConnectionError):  # it may have ended just now
            ask(client, server) if data == REQUEST else client.sendall(data)


def threads(server):
    return sum(len(kernel.threads(pid)) for pid in server.own)


def kept_threads(server, before):
    """How many more threads than before the server has, and after how many clients that have gone."""
    rounds = more = 0
    while (CLIENTS * rounds <= more < MOST_THREADS  # one kind of the three keeps its threads
           and server.pace < QUICK and not any(map(kernel.naps, server.own))):
        visit(server, CLIENTS)
        rounds += 1
        server.wait_until(lambda due=before + CLIENTS * rounds: threads(server) < due)
        more = threads(server) - before
    return more, 3 * CLIENTS * rounds


def who_spins(server):
    """The thread that uses most of a CPU, as its folder in /proc, and how much; None where all rest."""
    for _ in range(2):  # it may have had something left to do
        begin, before = time.monotonic(), cpu.run_times(server.processes())
        server.wait_until(lambda: False, most=LONG)
        seconds, shares = time.monotonic() - begin, {}
        for task, (used, waited) in cpu.run_times(server.processes()).items():
            used_before, waited_before = before.get(task, (0, 0))
            used, waited = used - used_before, waited - waited_before
            if used > LEAST_WORK:
                shares[task] = used / max(used, seconds - waited)
        task = max(shares, key=shares.get, default=None)
        if not task or shares[task] < BUSY:
            return None
    return task, shares[task]


def what_spins(server, task, share, moment):
    """The Result for a thread that spins, which names its process and the call that it makes."""
    pid = int(task.split('/')[2])
    busy = f'{"child" if pid in server.forked else "process"} {pid} uses {share:.0%} of a CPU {moment}'
    calls = cpu.calls_of(task)
    for case, (pattern, what) in CALLS.items():
        if made := re.search(pattern, calls, re.MULTILINE):
            return bug(case, f'{busy}: it calls {made[1]}() again and again, {what}')
    closed = sum(end.status == 'CLOSE_WAIT' for end in kernel.sockets_of(pid))
    if closed and not calls:
        return bug('reads', f'{busy}: {closed} of its sockets are in CLOSE_WAIT, as their clients have gone')
    return bug('computes', busy)


def others_have_gone(server):
    """One client is silent, and others come and go."""
    connected(server)
    visit(server, 1)
    server.let_rest()


TOP = 'top -b -n 1 | head -12'
TRACE = 'timeout 1 strace -f -p {pid} 2>&1 | tail'
ALONE = f'curl -s -m 1 telnet://localhost:8888 </dev/null; sleep 1; {TOP}; {TRACE}'
CASES = {
    'reads': Case(
        'spins when a client has gone', ALONE, '',
        'You see your server above all others, though nobody asks: recv() returns no bytes, and you call it '
        'again.', """
        Connect, leave without a word, and see who uses the CPU:
        {see}
        Nobody is connected any more. Which call does your server make, again and again (with strace)?

        If recv() returns no bytes (b'' in Python, 0 in C), the client has closed. It will return the same
        at once, each time, for ever. So this is not "nothing yet", but "nothing more".

        Where recv() has returned no bytes, leave the loop that reads and close the socket. In a loop of
        events, take it out of select() or epoll first, or it is ready for ever."""),
    'handler': Case(
        'spins in its handler while a child lives',
        'sleep 9 | curl -s -m 9 telnet://localhost:8888 & sleep 1; curl -s -m 1 localhost:8888/hello; '
        f'{TOP}; {TRACE}', '',
        'You see your server above all others: its handler asks for a child that has ended until there are '
        'no children. Stop at the pid 0.', """
        One client is silent, another one comes and goes, and then see who uses the CPU:
        {see}
        It is your first process. Which call does it make, and what does that return (with strace)?

        With WNOHANG, waitpid() has three answers: the pid of a child that has ended, 0 if there are
        children and none of them has ended, and an error (ECHILD) if there are no children. If you go on
        after the second one, you ask as long as any child lives, and nobody accepts.

        In the loop of your handler, leave as soon as the pid is not greater than 0:
        pid, status = os.waitpid(-1, os.WNOHANG), and then if pid == 0: return. In C:
        while (waitpid(-1, NULL, WNOHANG) > 0);"""),
    'accepts': Case(
        'spins until a client comes', f'{TOP}; {TRACE}', '',
        'You see your server above all others: it calls accept() again and again instead of waiting.', """
        Send nothing, and see who uses the CPU:
        {see}
        Your server asks for a client, gets EAGAIN, and asks again. Who else could have this CPU?

        A socket that does not block answers at once, also if nobody is there. You need a call that waits
        for whatever comes first, and the kernel then wakes you up.

        Either let accept() block: setblocking(True), no O_NONBLOCK. Or wait before it, in select(), poll()
        or epoll_wait(), with all your sockets and no time limit, or one of seconds."""),
    'polls': Case(
        'spins in a call that should wait', ALONE, '',
        'You see your server above all others: a socket is ready for ever, or the time limit is 0.', """
        Connect, leave, and see who uses the CPU:
        {see}
        The call returns at once, each time. What does it say is ready, and what do you do about it?

        select(), poll() and epoll_wait() return at once as long as one socket is ready. A connection whose
        client has gone is ready for ever. And any socket is ready for writing nearly always.

        Take a socket out when its client has gone (EPOLLHUP, EPOLLRDHUP, or recv() without bytes), and
        close it. Ask for EPOLLOUT only while you have bytes left to send. Set no time limit of 0."""),
    'computes': Case(
        'uses the CPU when nobody asks', ALONE, '',
        'You see your server above all others, though nobody asks: some loop never waits.', """
        Connect, leave without a word, and see who uses the CPU:
        {see}
        Does it begin when a client leaves, or does it do so from the beginning?

        A server that has nothing to do waits in a call, and the kernel wakes it up. A loop that uses the
        CPU meanwhile has no such call in it, or one that returns at once, time after time.

        Look at each while: what ends it, and can that come true when the client has gone? Print a line in
        it, and you see which one runs. recv() without bytes means the end, not "try again"."""),
    'threads': Case(
        'keeps a thread for each client that has gone',
        'for i in $(seq 20); do curl -s -m 1 localhost:8888/hello; '
        'curl -s -m 0.1 telnet://localhost:8888 </dev/null; done; sleep 1; ps -o pid,nlwp,args -p {pids}', '',
        'You see more than 20 threads (NLWP) for nobody: each of them should end with its client.', """
        Let some clients come and go, and count the threads (NLWP):
        {see}
        Nobody is connected. What do the threads wait for?

        A thread ends when its function returns. If it serves a client, that should be when the client has
        its reply, or has gone. A thread that waits for something that will never come stays for ever,
        with its stack.

        Return when the reply is sent, and when recv() returns no bytes. Don't wait in it for another
        thread, a lock or an event that comes no more. In C, pthread_detach() it as well."""),
}
BUG = about(
    globals(), scene=others_have_gone,
    predict='All clients have gone. How much of the CPU does the server use now?',
    why='a server that has nothing to do waits in one call, and the kernel wakes it up when a client comes.')
