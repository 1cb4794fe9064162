"""does not cut off a client that was in time"""
import time

from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.client import GET, Reply, connected, readable
from laboratory.instruments.experiment import NOT_TESTED, Case, Result, about
from laboratory.instruments.workers import replies_to, workers_of

HALF, NOTHING = 'a client that has sent half of its request', 'a client that has sent nothing'
BEGUN = {NOTHING: b'', HALF: GET[:20]}  # what they have sent
TRIES = 5  # on a busy machine a server may reach its time limit before it is stopped


def begin(server, each):
    """So many clients of each kind in the middle of things: {connection: kind}."""
    clients = {connected(server): kind for kind in list(BEGUN) * each}
    for client, kind in clients.items():
        client.sendall(BEGUN[kind])
    return clients


def time_limits(server):
    """{a kind of clients: after how many seconds the server ends one of them}, where it does."""
    began, limits, clients = time.monotonic(), {}, begin(server, each=1)

    def all_end():
        for client in filter(readable, clients):
            limits.setdefault(clients[client], time.monotonic() - began)
        return len(limits) == len(clients)
    server.comes_to(all_end, server.patience)
    server.until_end.close()
    return limits


def experiment(server, step):
    (top, _), limits = workers_of(server), time_limits(server)
    if not limits:
        return Result(NOT_TESTED, detail='it has no time limit for a client, or a longer one than '
                      f'{server.patience:.0f} seconds')
    for _ in range(TRIES):
        began, clients = time.monotonic(), begin(server, each=4)
        server.wait_until(lambda: kernel.activity(server.processes())[0])  # now it waits for the clients
        kernel.suspend(server.processes())
        if not any(map(readable, clients)):
            break
        kernel.resume(server.processes())
        server.until_end.close()
    else:
        return Result(NOT_TESTED, detail='it reaches its time limit before it can be stopped')
    for client, kind in clients.items():
        client.sendall(GET.removeprefix(BEGUN[kind]))
    step(f'The server is stopped, and {len(clients)} clients have sent the rest of their requests',
         views.processes)
    time.sleep(max(0.0, began + 1.2 * max(limits.values()) - time.monotonic()))  # until it is too late
    kernel.resume(server.listeners() - {top} or {top})  # first, or their supervisor could take them for stuck
    replies = replies_to(server, clients)
    kernel.resume(server.processes())
    replies |= replies_to(server, clients.keys() - replies.keys())
    wrong = {kind: reply for client, kind in clients.items() if kind in limits
             and (reply := replies.get(client, Reply())).status != 200}
    return wsgi.all_that_is_wrong([(kind, kind, f'{reply}') for kind, reply in wrong.items()],
                                  'what has come in time is answered, even if it is read late', len(limits))


def late(sent, rest):
    """The command of a client that sends the rest while the server is stopped, for longer than its limit."""
    return (f"(printf '{sent}'; sleep 1; kill -STOP {{pids}}; printf '{rest}'; sleep 35; "
            'kill -CONT {pids}; sleep 1) | curl -s -m 38 telnet://localhost:8888')


CASES = {
    HALF: Case(
        'cuts off a client that was in time', late(r'GET / HTTP/1.1\r\n', r'Host: x\r\n\r\n'), '',
        'You see no 200: all of it was there, but you looked at the clock, and not at the socket.', """
        Send what is missing of a request while your server is stopped, for longer than its time limit:
        {see}
        The bytes came in time, and were read late. Where do you look at the clock, and where at the socket?

        What has come by now is in time, however late you read it. So try to read first, even when the time
        is up. It is too late only if nothing is there.

        Set is_late = time.monotonic() >= deadline, and call recv() all the same. Raise your timeout only if
        recv() raises BlockingIOError and is_late. If the socket blocks, call settimeout(max(left, 0.001)),
        so that recv() is always tried."""),
    NOTHING: Case(
        'cuts off an idle client whose request came in time',
        late('', r'GET / HTTP/1.1\r\nHost: x\r\n\r\n'), '',
        'You see no 200: the request was there, but you looked at the clock, and not at the socket.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, env={'REQUEST_TIMEOUT': '1', 'IDLE_TIMEOUT': '1'},  # seconds
    predict='A request comes in time, but the server is stopped, and reads it too late. Is it answered?',
    why='what has come waits in the socket. Look there before you look at the clock.')
