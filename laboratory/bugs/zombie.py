"""reaps a child that has ended"""
from laboratory.instruments import children, kernel, views
from laboratory.instruments.client import REQUEST, ask, read_reply
from laboratory.instruments.experiment import (
    NO_CHILD,
    NOT_TESTED,
    Case,
    NoAnswer,
    Result,
    about,
    bug,
    passed,
)


def experiment(server, step):
    before = len(server.processes())
    client, child = children.connect_to_child(server)
    if child:
        step('A client is connected, and a child waits for its request', views.processes)
    client.sendall(REQUEST)
    read_reply(client, server)
    server.wait_until(lambda: not children.zombies(server) and not any(map(kernel.alive, server.forked)))
    step('The child has answered', views.processes)
    was_seen = children.zombies(server)
    client.close()
    if child in children.copies(server):  # else it was about to run another program
        answered, what = {child, *next_two(server)} - {None}, 'a child that has answered'
    elif children.forks(server):
        answered, what = children.copies(server), 'what it forks for a client'
    else:
        return Result(NO_CHILD, detail=children.NONE_SEEN)
    server.wait_until(lambda: not children.zombies(server))

    def living():
        return list(filter(kernel.alive, answered))

    def all_three_are_there():
        """Beside as many as before: a worker takes the place of another one."""
        return min(len(living()), len(server.processes()) - before) >= 3
    ended = server.wakes_up(lambda: not all_three_are_there(), answered)
    if not children.reaps_later(server):
        if not was_seen:
            step('More clients have come and gone', views.processes)
        return bug('zombie', 'the child has answered and is a zombie')
    if ended:
        return passed(f'{what} is gone when the next client comes')
    if all(map(kernel.naps, living())):
        return Result(NOT_TESTED, detail=f'no child has ended: {len(living())} that have answered sleep')
    return bug('never_ends', 'the child has answered and does not end')


def next_two(server):
    """The children that answer two more clients, one after the other; None for one that was not seen."""
    for _ in range(2):
        client, child = children.connect_to_child(server)
        if not ask(client, server):
            raise NoAnswer('one of three clients that come one after the other is not answered')
        client.close()
        yield child


CASES = {
    'zombie': Case(
        'leaves zombies',
        'curl -s -m 2 localhost:8888/hello; ps -A -o pid,ppid,stat,comm | grep " Z"',
        r'\d+ +\d+ +Z',
        'You see your child as a zombie (Z): it has ended, and you do not wait() for it.', """
        Send a request, and look for processes in state Z:
        {see}
        Z is a child that has ended, and PPID is its parent, your server. What has the server not asked yet?

        The kernel keeps a child that has ended until its parent asks how it ended. A parent that asks too
        early has to wait. But the kernel sends it a signal when a child has ended: that is the time to ask.

        Before the loop in serve_forever(), set a handler for SIGCHLD that calls wait(). In Python:
        signal.signal(signal.SIGCHLD, handle_exit), and handle_exit(signum, frame) calls os.wait(). To report
        it, use os.write(1, b'...'), because print() is not safe in a signal handler."""),
    'never_ends': Case(
        'keeps children that have answered',
        'for i in 1 2; do curl -s -m 2 localhost:8888/hello; done; pid={pid}; '
        'ps -o pid,ppid,stat,args -p $pid --ppid $pid', '',
        'You see your child below your server, alive (S): end it when it has answered, with _exit(0).', """
        Send two requests, and list your processes:
        {see}
        Each client leaves one more. What does a child do when it has answered?

        A child is a copy of your server. When it has answered, it comes back to your loop, and serves
        clients like its parent. Nobody ends it.

        End the block of the child, where fork() has returned 0, with _exit(0): os._exit(0) in Python.""",
        cured_by='part3-v1.1-fd-leak'),
}
BUG = about(
    globals(),
    witness='the child has answered and is a zombie',
    predict='A child has answered its client and ended. What does ps show?',
    why='the kernel keeps the exit status of a child until its parent asks for it with wait().')
