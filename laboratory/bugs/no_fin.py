"""ends its reply: the client sees FIN"""
from laboratory.instruments import process, views
from laboratory.instruments.client import FIN, OPEN, REQUEST, RST, Reading, connect, read_on, readable
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed


def experiment(server, step):
    for _ in range(4):
        result = be_a_client(server)
        if result.is_bad:
            server.let_rest()
            step('A client has had its reply, has waited for the end, and is gone', views.connections)
            break
    return result


def be_a_client(server):
    """Return the Result for one reply, whose end may come a while later than the rest."""
    with connect(server) as client:
        client.sendall(REQUEST)
        reading = Reading('GET')
        reply = read_on(client, server, reading)
        is_open = reply.end == OPEN and not reply.complete
        if is_open and server.comes_to(lambda: readable(client), process.A_WHILE):
            reply = read_on(client, server, reading)
    if not reply.data:
        raise NoAnswer('no byte of reply has come')
    seen = f'{len(reply.data)} bytes of reply, '
    if reply.end == FIN:
        return passed(seen + 'then FIN')
    if reply.complete:
        end = 'a reset (RST)' if reply.end == RST else 'the connection stays open'
        return passed(f'{seen}as its headers announce; then {end}')
    if reply.end == RST:
        return bug('reset', seen + 'then a reset (RST) instead of FIN')
    return bug('no_end', seen + 'then nothing: no FIN')


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

        In serve_forever(), where os.fork() has returned a pid and not 0, call client_fd.close(). That line
        is for the parent, so put it after the block of the child. And keep no list of sockets."""),
    'reset': Case(
        'resets connections', 'curl -m 2 localhost:8888/hello', '',
        'You see curl: (56), reset by peer: you close() before you have read all, or SO_LINGER is 0.', """
        Ask for a page, and look at the error:
        {see}
        What has your server done with the socket just before?

        The kernel resets a connection if you close a socket whose bytes you have not read, or ask for it.

        Let recv() take the whole request before client_fd.close(). Set no SO_LINGER.""", cured_by=''),
}
BUG = about(
    globals(),
    witness='33 bytes of reply, then nothing: no FIN',
    predict='A child has answered its client and closed the socket. Does the client see that its reply ends?',
    why="after fork() both have the client's socket, and FIN goes out when the last copy is closed.")
