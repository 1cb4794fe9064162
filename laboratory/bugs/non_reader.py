"""answers others while clients do not read"""
from laboratory.instruments import views, wsgi
from laboratory.instruments.client import narrow, request
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.workers import held_up, silent_clients


def experiment(server, step):
    wsgi.must_answer(server)
    deaf = silent_clients(server, 24)  # more than the threads of most servers
    for number, client in enumerate(deaf):
        narrow(client)
        client.sendall(request('GET', '/ten-pieces' if number % 6 else '/one-piece'))
    server.let_rest()
    step(f'{len(deaf)} clients have asked for 10 MB, and do not read', views.connections)
    if others := held_up(server):
        return bug('others_wait', f'{others} while {len(deaf)} clients do not read')
    return passed(f'all others are answered while {len(deaf)} clients do not read')


CASES = {
    'others_wait': Case(
        'lets clients that do not read hold up the others',
        'for i in $(seq 24); do (curl -s localhost:8888/large | sleep 5 &); done; sleep 1; '
        'curl -i -m 2 localhost:8888/process', 'timed out',
        'You see curl time out: you wait until a client has read its reply. Keep what it does not take.', """
        Let some clients ask for a long reply, and then another one for a short one:
        {see}
        The first ones stop reading, because sleep takes nothing from them. The last one gives up.

        When the kernel has no more room for the bytes of a client that does not read, your call waits. So
        keep what it has not taken, for each client, and go on with the others until there is room again.

        In send(), use setblocking(False), add the data to a bytearray, and delete what client_fd.send()
        took. At BlockingIOError, wait for selectors.EVENT_WRITE, but only while bytes are left. Take the
        next piece from the application when all is sent."""),
}
BUG = about(
    globals(), apps=wsgi.PROBES,
    witness='8 of 8 other clients get no answer while 24 clients do not read',
    predict='24 clients ask for 10 MB each, and do not read. Is the next client answered?',
    why='a send() that waits for one client holds up all others. So keep what the kernel does not take yet.')
