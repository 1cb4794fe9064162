"""replaces a worker that is killed"""
import signal

from laboratory.instruments import kernel, process, views, workers, wsgi
from laboratory.instruments.client import one_request, request
from laboratory.instruments.experiment import Case, about, bug, its_own_end, passed


def kill(server, top, killed):
    """Kill these workers; return how many are missing after a while, less than 0 where too many came."""
    number = len(server.listeners() - {top})
    for pid in killed:
        kernel.send(pid, signal.SIGKILL)
    kernel.eventually(lambda: not any(map(kernel.alive, killed)))
    kernel.eventually(lambda: len(server.listeners() - {top}) >= number, process.A_WHILE)
    server.let_rest()
    return number - len(server.listeners() - {top})


def experiment(server, step):
    wsgi.must_answer(server)
    top, killed = workers.workers_of(server)
    if not killed:
        return workers.without_workers(server, 'killed')
    missing = kill(server, top, killed)
    step('Every worker was killed', views.processes)
    all_of_them, one_more = f'{len(killed)} workers were killed, and', 'one more worker was killed, and'
    if not wsgi.survives(server):
        return bug('none_replaced', f'{all_of_them} the next client is not answered')
    if missing:
        came = f'{all_of_them} {len(killed) - missing} came in their place'
        return bug('too_many', came) if missing < 0 else bug('some_replaced', came)
    new = sorted(server.listeners() - {top})
    for worker in dict.fromkeys(new[-1:] + new[:1]):
        missing = kill(server, top, [worker])
        if missing or not wsgi.survives(server):
            step('One more worker was killed', views.processes)
            if missing < 0:
                return bug('too_many', f'{one_more} {1 - missing} came in its place')
            return bug('some_replaced', f'{one_more} no other one serves in its place')
    return passed(f'{all_of_them} new ones answer')


def a_worker_is_killed(server):
    """One request, and then SIGKILL to the workers, which a supervisor replaces."""
    one_request(server, request('GET', '/binary'))
    killed = kernel.children(server.pid)
    for worker in killed:
        kernel.send(worker, signal.SIGKILL)
    workers.wait_for_new_workers(server, killed)


LIST = 'ps -o pid,stat,args --ppid $pid'
ONE_IS_KILLED = f'pid={{pid}}; {LIST}; pkill -9 -n -P $pid; sleep 3; {LIST}'
CASES = {
    'none_replaced': Case(
        'does not replace a worker that is killed',
        'pkill -9 -P {pid}; sleep 3; curl -sS -m 2 localhost:8888/hello',
        'timed out',
        'You see curl time out: nobody accepts it. Wait for workers that end, and fork others.', """
        Kill workers, and see who serves then:
        {see}
        The parent still listens, so clients are connected. What does it do when a worker has ended?

        Somebody has to notice that a worker has ended, whichever it is. The parent can: it has nothing else
        to do. It sleeps until one of its children ends, makes a new one, and sleeps again, without end.

        In serve_forever(), in place of signal.pause(), keep the pids of your workers, and loop: os.fork()
        while some are missing, then pid, status = os.wait(), and take that pid from the list. If it lived
        only for a moment, call time.sleep() first, or you may fork without end."""),
    'some_replaced': Case(
        'replaces only some of its workers', ONE_IS_KILLED, '',
        'You see no new worker: the one that was killed may be a zombie (Z). Wait for any child, os.wait().'),
    'too_many': Case(
        'makes more workers than have ended', ONE_IS_KILLED, '',
        'You see one worker more than before: keep the pids that run, and fork only what is missing.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=its_own_end, scene=a_worker_is_killed,
    witness='2 workers were killed, and the next client is not answered',
    predict='Every worker is killed. Then a client connects. Is it refused, answered, or does it wait?',
    why='the kernel connects the client, but nobody accepts it. A supervisor replaces workers that end.')
