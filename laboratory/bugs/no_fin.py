"""ends its reply: the client sees FIN"""
import time

from laboratory.instruments import kernel, process, views
from laboratory.instruments.children import connect_to_child
from laboratory.instruments.client import FIN, OPEN, REQUEST, RST, Reading, connect, read_on, readable
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed


def experiment(server, step):
    for _ in range(4):
        began = time.monotonic()
        result = be_a_client(server)
        if result.is_bad:
            server.let_rest()
            step('A client has had its reply, has waited for the end, and is gone', views.connections)
        if result.is_bad or time.monotonic() - began > process.A_WHILE:
            break
    return result


def be_a_client(server):
    """Return the Result for one reply, whose end may come a while later than the rest."""
    slept_before = set().union(*map(kernel.naps, server.processes()))
    with connect(server) as client:
        sent = time.monotonic()
        client.sendall(REQUEST)
        reading = Reading('GET')
        reply = read_on(client, server, reading)
        held_by, sleep = set(), False
        if reply.end == OPEN and not reply.complete:
            held_by, sleep = wait_for_the_end(client, server, sent + process.SLEEP, slept_before)
            if readable(client):
                reply = read_on(client, server, reading)
        waited = time.monotonic() - sent
    if not reply.data:
        raise NoAnswer('no byte of reply has come')
    seen = f'{len(reply.data)} bytes of reply, '
    if reply.end == FIN:
        return passed(seen + 'then FIN' + f', {waited:.0f} seconds after the request' * (waited > 1))
    if reply.complete:
        end = 'a reset (RST)' if reply.end == RST else 'the connection stays open'
        return passed(f'{seen}as its headers announce; then {end}')
    if reply.end == RST:
        return bug('reset', seen + 'then a reset (RST) instead of FIN')
    if sleep:
        who = 'the server' if held_by & server.own else f'child {min(held_by)}'
        return bug('sleeps', f'{seen}and no FIN yet: {who} has been asleep for {waited:.0f} seconds, and FIN '
                             'comes when it closes')
    forks = held_by & server.own and (server.forked or connect_to_child(server)[1])
    return bug('no_end' if forks else 'kept', seen + 'then nothing: no FIN')


def wait_for_the_end(client, server, deadline, slept_before):
    """Wait until a reply ends; return who has the connection, and whether all of them sleep since.

    What waits for other clients alone ends nothing, and a thread that slept before does not either.
    """
    asleep = {}
    while True:
        held_by = kernel.holders(client, server.port, server.processes())
        asleep = {pid: asleep.get(pid, naps) & naps
                  for pid in held_by for naps in [kernel.naps(pid) - slept_before]}
        stays = any(map(kernel.waits_for_others, held_by))
        if readable(client, kernel.LOOK_EVERY) or stays or time.monotonic() > deadline:
            return held_by, bool(asleep) and all(asleep.values())


CASES = {
    'no_end': Case(
        'does not end its replies',
        "curl -m 3 localhost:8888/hello & sleep 1; ss -tnp 'sport = :8888'",
        r'ESTAB.+users:',
        'You see the reply, and then curl hangs: the process in the last column still holds the socket.', """
        Ask for a page, and see who has the connection while curl hangs:
        {see}
        Is the process in the last column the child, or the server? (macOS has no ss: type lsof -nPi :8888.)

        The child is a copy of your server, so both have the client's socket. The kernel sends FIN only when
        the last copy is closed. So the other process has to close its own, too, and can do so at once.

        Where fork() has returned a pid and not 0, close the client's socket: client_fd.close() in
        serve_forever(). That line is for the parent, so put it after the block of the child. And keep no
        list of sockets."""),
    'kept': Case(
        'does not close its connections',
        "curl -m 3 localhost:8888/hello & sleep 1; ss -tnp 'sport = :8888'", '',
        'You see the reply, and then curl hangs: the process in the last column has the socket open.', """
        Ask for a page, and see who has the connection while curl hangs:
        {see}
        What does that process do when it has sent its reply?

        The client cannot know that your reply is complete, unless you say how long it is, or end the
        connection. The kernel sends FIN when you close the socket, or when your process ends.

        When a client has been answered, close its socket, and keep no list of sockets. Or send
        Content-Length, with the number of bytes of the body.""", cured_by=''),
    'sleeps': Case(
        'sleeps before it closes a connection',
        "curl -m 9 -w '%{time_total} seconds\\n' localhost:8888/hello", '',
        'You see the reply at once, and then curl waits: you sleep before you close the socket.', """
        Ask for a page, and see how long it takes:
        {see}
        The reply is there at once. What does your process do before it closes the socket?

        The client sees the end of its reply when the socket is closed, or when the process ends that has it.
        So FIN comes when your process wakes up. That is no leak, but its client waits so long.

        Close the socket of the client first, and sleep afterwards, if at all. A server that sleeps in order
        to show that it handles one client at a time can do so before it answers.""", cured_by=''),
    'reset': Case(
        'resets connections', 'curl -m 2 localhost:8888/hello', '',
        'You see curl: (56), reset by peer: you close() before you have read all, or SO_LINGER is 0.', """
        Ask for a page, and look at the error:
        {see}
        What has your server done with the socket just before?

        The kernel resets a connection if you close a socket whose bytes you have not read, or ask for it.

        Let recv() take the whole request before you close the socket. Set no SO_LINGER.""", cured_by=''),
}
BUG = about(
    globals(),
    witness='33 bytes of reply, then nothing: no FIN',
    predict='A child has answered its client and closed the socket. Does the client see that its reply ends?',
    why="after fork() both have the client's socket, and FIN goes out when the last copy is closed.")
