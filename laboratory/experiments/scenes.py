"""The scenes of the bugs: what to ask before an experiment, what to show of it, which stage cures it."""
from typing import NamedTuple

from laboratory.experiments import part3, part4, part4_stopping, part4_waiting
from laboratory.experiments.lessons import PREDICTIONS
from laboratory.experiments.verdicts import setup_of


class Scene(NamedTuple):
    question: str  # to be asked before
    experiment: object
    view: str  # of the kernel: 'processes', 'connections' or 'output'
    stage: str  # that cures it; the one before has the bug
    why: str

    @property
    def setup(self):
        """How its server is started."""
        return setup_of(self.experiment)


SCENES = {
    'silent-client': Scene(
        PREDICTIONS['part3-v1.1-fd-leak'],
        part3.silent_client, 'connections', 'part3-v1.1-fd-leak',
        'one process cannot wait for two clients. A child for each client can.'),
    'fd-leak': Scene(
        '24 clients come and go. How many more descriptors does the server have open then?',
        part3.descriptors, 'connections', 'part3-v1.1',
        'after fork() parent and child both hold the socket, and FIN goes out when the last copy is closed.'),
    'zombie': Scene(
        PREDICTIONS['part3-v1.2'],
        part3.one_child, 'processes', 'part3-v1.2',
        'the kernel keeps the exit status of a child until its parent asks for it with wait().'),
    'eintr': Scene(
        PREDICTIONS['part3-v1.3'],
        part3.eintr, 'output', 'part3-v1.3',
        'a signal with a handler interrupts the call that the process is waiting in. Call it again.'),
    'lost-signal': Scene(
        PREDICTIONS['part3-final'],
        part3.children_at_once, 'processes', 'part3-final',
        'SIGCHLD is one bit, not a queue: 24 exits set it once. So reap until no child is left to reap.'),
    'stopped-child': Scene(
        'A child is stopped, not ended. Is the next client answered?',
        part3.stopped_child, 'processes', 'part3-final',
        'a child that is stopped sends SIGCHLD too, and wait() waits until one ends. WNOHANG does not wait.'),
    'many-processes': Scene(
        PREDICTIONS['part4-v1.1'],
        part4.few_processes, 'processes', 'part4-v1.1',
        'a few workers, forked in advance, share the listening socket. No client makes a new one.'),
    'dead-worker': Scene(
        PREDICTIONS['part4-v1.2'],
        part4.killed_workers, 'processes', 'part4-v1.2',
        'the kernel connects the client, but nobody accepts it. A supervisor waits for dead workers, and '
        'forks new ones.'),
    'stuck-worker': Scene(
        PREDICTIONS['part4-v1.3'],
        part4.stuck_application, 'processes', 'part4-v1.3',
        'the supervisor only sees workers that end. So a timer ends one whose application does not return.'),
    'drip': Scene(
        'A client sends its request byte by byte, without end. How long does the server wait?',
        part4.drip, 'connections', 'part4-v1.3',
        'a time limit for each recv() begins again with each byte. A deadline for the request does not.'),
    'one-request': Scene(
        PREDICTIONS['part4-v1.4'],
        part4.keep_alive, 'connections', 'part4-v1.4',
        'a reply that says how long it is need not end with the connection. So the next request can follow.'),
    'idle-clients': Scene(
        PREDICTIONS['part4-v2.0'],
        part4_waiting.idle_clients, 'processes', 'part4-v2.0',
        'a worker that waits for one client serves no other. An event loop waits for all of them at once.'),
    'waiting-application': Scene(
        PREDICTIONS['part4-v2.1'],
        part4_waiting.waiting_application, 'processes', 'part4-v2.1',
        'while the application runs, the loop does not. So it runs in a thread, which wakes the loop up.'),
    'lost-reply': Scene(
        PREDICTIONS['part4-v2.2'],
        part4_stopping.stop_mid_reply, 'processes', 'part4-v2.2',
        'a worker that is killed leaves its clients with half a reply. One that is told to stop can finish.'),
    'lost-restart': Scene(
        'Five clients have connected and are not accepted yet. Then the server restarts. Are they answered?',
        part4_stopping.restart_backlog, 'processes', 'part4-v2.2',
        'the clients are in the backlog of the listening socket. It outlives the workers, and so do they.'),
}
