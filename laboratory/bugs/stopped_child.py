"""keeps serving while a child is stopped"""
from laboratory.instruments import children, kernel, views
from laboratory.instruments.children import connect_to_child
from laboratory.instruments.client import ask, connected
from laboratory.instruments.experiment import NO_CHILD, NOT_TESTED, Case, Result, about, bug, passed


def experiment(server, step):
    stopped = 0
    for _ in server.listened:  # one for each worker that may wait for it
        client, child = connect_to_child(server)
        if child is None:
            break
        server.let_rest()  # it waits for the request
        if not any(children.handlers(server)) and not ask(connected(server), server):
            held_up = 'a silent client holds up the next one even before a child is stopped'
            return Result(NOT_TESTED, detail=held_up)
        if not kernel.alive(child):
            return Result(NOT_TESTED, detail='the child of a client that says nothing has ended by itself')
        kernel.suspend([child])
        stopped += 1
        server.let_rest()
    if not stopped:
        return Result(NOT_TESTED, detail=children.SILENT) if children.forks(server) else Result(
            NO_CHILD, detail=children.NONE_SEEN)
    # a handler may take its time
    is_answered = children.answers_in_a_while(connected(server), server, children.parents(server))
    step('A child is stopped, not ended; another client has sent its request', views.processes)
    if is_answered:
        return passed('the next client is answered while a child is stopped')
    in_wait = not kernel.LINUX or any(map(kernel.waits_for_a_child, children.parents(server)))
    return bug('waits' if in_wait else 'held_up', 'the next client waits while a child is stopped')


def a_child_is_stopped(server):
    """The child of a silent client is stopped, and another client sends a request."""
    _, child = connect_to_child(server)
    stopped = [child] if child else []
    server.let_rest()
    kernel.suspend(stopped)
    server.let_rest()  # its parent may have a handler
    ask(connected(server), server)
    kernel.resume(stopped)
    server.let_rest()


CASES = {
    'waits': Case(
        'hangs while a child is stopped',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; pkill -STOP -nP {pid}; sleep 1; '
        'curl -m 2 localhost:8888/hello; pkill -CONT -P {pid}',
        r'curl: \(28\)',
        'You see curl time out: you wait() for a child that has not ended.', """
        Stop the child of a silent client, and then send a request:
        {see}
        The request gets no answer. What does your server wait for?

        The kernel also sends SIGCHLD when a child is stopped. Your handler then waits until a child ends,
        and the whole server with it. It must only ask whether one has ended, and return if none has.

        wait() waits until a child ends. Call waitpid() with -1 and WNOHANG instead, see waitpid(2): it gives
        the pid 0 at once if there are children, but none has ended. Then return."""),
    'held_up': Case(
        'serves nobody while a child is stopped',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; pkill -STOP -nP {pid}; sleep 1; '
        'curl -m 2 localhost:8888/hello; ps -o pid,stat,args -p {pid}; pkill -CONT -P {pid}', '',
        'You see curl fail, although your server is in no wait(): it runs (R), or sleeps (S). What does it '
        'do until the child has ended?', """
        Stop the child of a silent client, send a request, and look at the server:
        {see}
        The request gets no answer. If the state is R, your server runs in a loop: which one?

        A child that is stopped has not ended, and may not end for hours. So nothing that other clients need
        may depend on its end: no loop that asks until no child is left, and no place that must become free.

        waitpid() with WNOHANG returns 0 if there are children, but none has ended: stop asking then, go
        back to accept(), and ask again at the next SIGCHLD. If you limit your children, allow for silent
        ones."""),
}
BUG = about(
    globals(), scene=a_child_is_stopped,
    witness='the next client waits while a child is stopped',
    predict='A child is stopped, not ended. Is the next client answered?',
    why='a child that is stopped sends SIGCHLD too, and wait() waits until one ends. WNOHANG does not wait.')
