"""leaves no worker behind when it is killed"""
import signal

from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.experiment import Case, about, asked_to_end, bug, passed
from laboratory.instruments.workers import without_workers, workers_of


def experiment(server, step):
    top, workers = workers_of(server)
    if not workers:
        return without_workers(server, 'left behind')
    kernel.send(top, signal.SIGKILL)
    kernel.eventually(lambda: not kernel.alive(top))
    step('The supervisor was killed', views.processes)
    server.comes_to(lambda: not any(map(kernel.alive, workers)), server.patience, workers)
    left = [pid for pid in workers if kernel.alive(pid)]
    for pid in left:
        kernel.send(pid, signal.SIGKILL)
    return bug('orphans', f'it was killed, and {len(left)} workers still serve') if left else passed(
        f'its {len(workers)} workers end when it is killed')


CASES = {
    'orphans': Case(
        'leaves workers behind when it is killed',
        'kill -9 {pid}; sleep 3; for pid in {pids}; do echo $pid still serves; kill -9 $pid; done',
        r'\d+ still serves',
        'You see workers that still serve (and are ended then). Let each of them read from a pipe whose '
        'other end only the supervisor has, and end when that read returns.', """
        Kill the parent, and see who still listens, and has to be killed, too:
        {see}
        Nobody has told these workers that their parent is gone. Start your server again.

        A process that is killed can do nothing more, so its workers have to notice it. But the kernel
        closes what a process had open when it ends, and a worker can wait for this.

        Call os.pipe() before you fork. In each worker, os.close() the write end, and start a daemon thread
        that calls os.read() on the read end, and then os._exit(0). Only the supervisor's write end is left,
        so the read returns when the supervisor ends. See pipe(7)."""),
}
BUG = about(
    globals(), apps=wsgi.PROBES, when_ended=asked_to_end,
    witness='it was killed, and 2 workers still serve',
    predict='The supervisor is killed, and can tell its workers nothing. Do they end?',
    why='the kernel closes what a process had open when it ends. Who reads from its pipe sees that.')
