"""rests when it has no descriptors left"""
import time

from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.experiment import NOT_TESTED, Case, Result, about, bug, its_own_end, passed
from laboratory.instruments.workers import OTHERS, silent_clients

SPARE = 6  # descriptors that a process may still open
LOOK = 1.5  # seconds, so that a loop that pauses for a second is seen at work
MOST_BUSY = 1 / 3
LEAST_WORK = 0.02  # seconds of CPU in this time, since to be given a core takes long on a busy machine


def busy_time(server, pids):
    """The share of a while in which one of the processes is at work, or would like to be."""
    began, looks, (_, before) = time.monotonic(), [], kernel.activity(pids)
    while time.monotonic() < began + LOOK and not (len(looks) > 5 and server.waits_for_others(pids)):
        time.sleep(kernel.LOOK_EVERY)
        asleep, used = kernel.activity(pids)
        looks.append(not asleep)
    return sum(looks) / len(looks) if used - before > LEAST_WORK else 0


def experiment(server, step):
    if not kernel.LINUX:
        return Result(NOT_TESTED, detail='this needs prlimit(2), which only Linux has')
    server.let_rest()
    pids = server.listeners()
    limits = {pid: kernel.first_free(pid) + SPARE for pid in pids}
    for pid, limit in limits.items():
        kernel.limit_descriptors(pid, limit)
    clients = silent_clients(server, SPARE * len(pids) + OTHERS)
    reached = server.wait_until(
        lambda: any(kernel.first_free(pid) >= limit for pid, limit in limits.items()))
    busy = busy_time(server, pids) if reached else 0
    step(f'{len(clients)} clients are connected', views.connections)
    if busy > MOST_BUSY:
        return bug('never_rests',
                   f'it tries to accept again and again, and is at work in {busy:.0%} of the time')
    server.until_end.close()  # they leave
    served = kernel.eventually(lambda: wsgi.survives(server) or server.has_ended(), server.patience)
    if not all(map(kernel.alive, pids)):
        return bug('ends', 'a process ends when it has no descriptor left')
    if not served:
        return bug('serves_nobody', 'it serves nobody any more, although its clients have left')
    if not reached:
        return Result(NOT_TESTED, detail=f'{len(clients)} clients at once do not take all its descriptors')
    return passed('it rests as long as no descriptor is left, and serves on when clients leave')


NONE_LEFT = (
    'for pid in {pids}; do prlimit --pid $pid --nofile=12:; done; '
    'for i in $(seq 60); do (sleep 9 | curl -s -m 9 telnet://localhost:8888 &); done; sleep 7; ')
CASES = {
    'never_rests': Case(
        'keeps a core busy when it has no descriptors left',
        NONE_LEFT + 'ps -o pid,cputimes,args -p {pids}', r'(?m)^ *\d+ +([2-9]|\d\d+) ',
        'You see seconds of CPU time: accept() fails with EMFILE again and again. Catch it, and pause.', """
        Leave your server few descriptors, and let more clients come than it has:
        {see}
        It should live on, with 0 or 1 second of CPU time. What does it do all the time?

        When no descriptor is left, the next client stays in the backlog, and the kernel reports the
        listening socket as ready again at once. Do not look at it for a moment, and serve those you have.

        Where your loop calls accept(), catch BlockingIOError and ConnectionAbortedError first, which are
        harmless. At any other OSError, which is EMFILE here, take the listening socket out of your selector
        for half a second (unregister()). See accept(2)."""),
    'ends': Case(
        'ends when it has no descriptors left', 'echo {pids}; ' + NONE_LEFT + 'echo {pids}', '',
        'You see that a pid is missing at the end: accept() fails with EMFILE. Catch it, and pause.'),
    'serves_nobody': Case(
        'serves nobody any more when it had no descriptors left',
        NONE_LEFT + 'sleep 4; curl -i -m 5 localhost:8888/process', '',
        'You see curl time out: call accept() again when clients have left, or after half a second.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=its_own_end,
    predict='A server has no descriptor left, and clients still come. How busy is it?',
    why='a client that is not accepted stays in the backlog, so its socket is ready again at once. Look away '
        'from it for a moment.')
