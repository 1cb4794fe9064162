"""Part 4: what workers, time limits and kept connections owe to clients."""
import contextlib
import errno
import json
import os
import random
import re
import resource
import shlex
import signal
import socket
import sys
import time

import h11
import pytest

from common.stages import find_stage
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, asking, connect, get, read_next, read_reply, readable, request
from laboratory.instruments.process import ServerProcess, server_path
from laboratory.instruments.wsgi import CHUNKED, fifo, survives
from tests.helpers import (
    GET,
    KEEPING,
    LIMITED,
    LINUX,
    MODULES,
    PREFORK,
    RELOADING,
    SUPERVISED,
    ends,
    names,
    sending,
    wait_for_output,
    workers,
)

STAGES = names('part4')
LAST = STAGES[-1]
BLOCKING = ends(STAGES[3:6])


@pytest.mark.parametrize('stage', PREFORK)
def test_as_many_workers_are_forked_as_workers_says(serve, stage):
    assert len(workers(serve(stage, 'wsgiapp:app', WORKERS='5'))) == 5


@pytest.mark.parametrize('stage', SUPERVISED)
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_worker_outlives_its_supervisor(serve, stage, signum):
    if stage in RELOADING and signum == signal.SIGHUP:
        pytest.skip('to this stage SIGHUP says that it shall replace its workers')
    server = serve(stage, 'wsgi_probes:app', STOP_TIMEOUT='0.2')
    one, other = workers(server)
    with fifo(server), sending(server, request('GET', '/stuck')):  # one of them is busy, even so
        server.let_rest()
        if asked_to_end := signum in (signal.SIGTERM, signal.SIGINT):
            kernel.suspend([one])
        os.kill(server.pid, signum)
        status = server.popen.wait(kernel.LIMIT)
        if asked_to_end:
            assert status == 0
            assert not kernel.alive(one) and not kernel.alive(other)  # it has waited: the port is free
        assert kernel.eventually(lambda: not kernel.alive(one) and not kernel.alive(other))
        assert 'Traceback' not in server.output()


@LINUX
@pytest.mark.parametrize('stage', SUPERVISED)
def test_workers_that_die_at_once_do_not_spin_the_machine(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    forked = workers(server)
    most = max(map(int, os.listdir(f'/proc/{server.pid}/fd')))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))  # a new worker can accept nobody
    for pid in forked:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert kernel.eventually(lambda: server.output().count('has ended') >= 6)
    used = kernel.activity([server.pid])[1]
    died = server.output().count('has ended') - len(forked)
    assert died <= 2 + 2 * (time.monotonic() - began) / 0.5  # the first two, and then two each half second
    assert used < 1


@pytest.mark.parametrize('stage', SUPERVISED)
def test_a_supervisor_that_cannot_fork_tries_again(serve, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import errno, os, pathlib\n'
        'fork, full = os.fork, pathlib.Path(__file__).with_name("full")\n'
        'def failing_fork():\n'
        '    if full.exists():\n'
        '        full.unlink()\n'
        '        raise BlockingIOError(errno.EAGAIN, "too many processes")\n'
        '    return fork()\n'
        'os.fork = failing_fork\n')
    server = serve(stage, 'wsgi_probes:app')
    one, other = workers(server)
    (tmp_path / 'full').touch()
    os.kill(one, signal.SIGKILL)
    wait_for_output(server, 'cannot fork a worker: ')
    assert kernel.eventually(lambda: len(kernel.children(server.pid) - {one}) == 2)
    assert other in workers(server)
    assert survives(server)


@LINUX
@pytest.mark.parametrize('stage', BLOCKING)
def test_a_worker_that_fails_without_standard_error_leaves_the_others_alone(stage):
    command = shlex.join([sys.executable, find_stage(stage).server, 'wsgi_probes:app'])
    env = {'PYTHONPATH': server_path('on'), 'WORKERS': '3'}
    with ServerProcess(['sh', '-c', f'exec {command} 2>/dev/full'], env=env) as server:
        one, *others = workers(server)
        resource.prlimit(one, resource.RLIMIT_NOFILE, (3, 3))  # so that its accept() fails
        for _ in range(50):  # until it gets one of them
            with sending(server, GET) as client:
                server.wait_until(lambda client=client: readable(client) or not kernel.alive(one))
        assert not kernel.alive(one)
        assert kernel.eventually(lambda: len(kernel.children(server.pid) - {one}) == 3)
        assert set(others) < workers(server)


@pytest.mark.parametrize('stage', SUPERVISED)
def test_neither_keyboardinterrupt_nor_a_fork_of_the_application_changes_the_workers(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1')
    (worker,) = workers(server)
    assert get(server, '/interrupt').status == 500
    with sending(server, request('GET', '/fork-and-raise')) as client:
        # its child raises, and may answer, but serves nobody else
        assert readable(client, kernel.LIMIT)
    assert kernel.eventually(lambda: not kernel.children(worker))
    assert workers(server) == {worker}


@pytest.mark.parametrize('stage', ends(STAGES))
def test_what_an_application_prints_is_not_lost_nor_the_status_of_a_command_that_it_runs(serve, stage):
    server = serve(stage, 'misbehaves:app')
    get(server, '/say-something')
    wait_for_output(server, 'printed by the application\n')
    assert [get(server, '/run-a-command').body for _ in range(5)] == [b'7'] * 5


@pytest.mark.parametrize('stage', LIMITED)
def test_a_request_that_is_not_whole_in_time_gets_408_and_one_that_never_begins_nothing(serve, stage):
    server = serve(stage, 'wsgiapp:app', REQUEST_TIMEOUT='0.2', IDLE_TIMEOUT='0.2', WORKERS='4')
    with contextlib.ExitStack() as stack:
        clients = {begun: stack.enter_context(connect(server))
                   for begun in (b'', b'G', GET[:-2], request('POST', '/', 'Content-Length: 5') + b'x')}
        for begun, client in clients.items():
            client.sendall(begun)
        for begun, client in clients.items():
            assert readable(client, kernel.LIMIT)
            reply = read_reply(client, server)
            assert (reply.status, reply.values('Connection'), reply.end) == (
                (408, ['close'], FIN) if begun else (0, [], FIN)), begun


@pytest.mark.parametrize('stage', LIMITED)
@pytest.mark.parametrize('path', ['/megabytes', '/two-blocks'])
def test_a_client_that_takes_nothing_is_reset(serve, stage, path):
    server = serve(stage, 'misbehaves:app', SEND_TIMEOUT='0.2', WORKERS='1')
    endless = f'GET {path} HTTP/1.0\r\n\r\n'.encode()  # only the end of the connection ends the reply
    with sending(server, endless) as deaf:
        assert readable(deaf, kernel.LIMIT)
        with sending(server, GET) as client:
            assert readable(client, kernel.LIMIT)
        errors = iter(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), None)
        assert kernel.eventually(lambda: next(errors) == errno.ECONNRESET)


@pytest.mark.parametrize('stage', LIMITED)
def test_the_time_limit_of_the_application_counts_for_each_block(serve, stage):
    server = serve(stage, 'misbehaves:app', APP_TIMEOUT='0.4', WORKERS='1')
    assert get(server, '/slow-blocks').body == b'x' * 8


@pytest.mark.parametrize('stage', LIMITED)
def test_an_application_that_lets_no_other_thread_run_is_ended_and_shown(serve, stage):
    server = serve(stage, 'misbehaves:app', APP_TIMEOUT='0.3', WORKERS='1')
    (worker,) = workers(server)
    with sending(server, request('GET', '/hold-the-lock')):
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)
    assert re.search(r'misbehaves.py", line \d+ in hold_the_lock', server.output())


def test_a_connection_ends_whose_send_has_failed_though_the_application_goes_on(serve):
    server = serve('part4-v1.4', 'misbehaves:app', SEND_TIMEOUT='0.2')
    with connect(server) as client:
        with fifo(server):
            client.sendall(asking('GET', '/swallow-everything'))
            wait_for_output(server, 'swallowed')  # because the client takes nothing
            while readable(client, 0.1):
                client.recv(65536)
        client.sendall(asking('GET', '/no-content'))  # now the client takes the rest
        data = b''
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                data += piece
        assert b' 204 ' not in data


@pytest.mark.parametrize('stage', KEEPING)
def test_a_connection_stays_open_as_the_client_asks_and_each_request_gets_its_reply(shared, stage):
    def replies(number, *requests):
        """So many of the replies to requests that are sent at once, and what comes then."""
        with sending(server, b''.join(requests)) as client:
            found = [read_next(client, server)]
            while len(found) < number:
                found.append(read_next(client, server, found[-1].extra))
            return [*found, found[-1].extra or client.recv(1)]

    server = shared(stage, 'wsgi_probes:app')
    for version, header, stays in [
            ('1.1', '', True), ('1.1', 'Connection: close\r\n', False), ('1.0', '', False),
            ('1.1', 'connection: x, CLOSE\r\n', False), ('1.0', 'Connection: Keep-Alive\r\n', True)]:
        data = f'GET /binary HTTP/{version}\r\nHost: x\r\n{header}\r\n'.encode()
        first, *others, end = replies(1 + stays, data, request('GET', '/binary'))
        assert first.values('Connection') == ['keep-alive' if stays else 'close'], data
        assert (first.status, [reply.status for reply in others], end) == (200, [200] * stays, b''), data
    *many, _ = replies(50, *(asking('GET', f'/{number}') for number in range(50)), b'mick\r\n\r\n')
    assert [json.loads(reply.body)['PATH_INFO'] for reply in many] == [f'/{number}' for number in range(50)]
    first, second, rest = replies(2, asking('GET', '/binary'), b'mick\r\n\r\n', asking('GET', '/smuggled'))
    assert (first.status, second.status, rest) == (200, 400, b'')
    with sending(server, b'GET /write HTTP/1.0\r\nConnection: keep-alive\r\n\r\n') as client:
        reply = read_reply(client, server)
        assert (reply.body, reply.end, reply.values('Transfer-Encoding')) == (b'written, returned', FIN, [])
    with sending(server, asking('GET', '/raise-after')) as client:
        reply = read_reply(client, server)
        assert (reply.complete, reply.end) == (False, 'RST')
    server = shared(stage, 'misbehaves:app')
    first, second, _ = replies(2, asking('GET', '/fail-to-close'), request('GET', '/no-content'))
    assert (len(first.body), second.status) == (10_000_000, 204)


def test_a_blank_line_behind_a_request_does_not_begin_another(serve):
    server = serve(LAST, 'wsgiapp:app', IDLE_TIMEOUT='0.3', REQUEST_TIMEOUT='0.3')
    with sending(server, asking('GET', '/') + b'\r\n') as client:
        assert read_next(client, server).status == 200
        assert readable(client, kernel.LIMIT)
        assert client.recv(1) == b''


def test_a_burst_of_connections_is_answered(shared):
    server = shared('part4-v1.4', 'wsgiapp:app')
    clients = [socket.create_connection(('127.0.0.1', server.port), timeout=kernel.LIMIT) for _ in range(500)]
    for client in clients:
        client.sendall(GET)
    for client in clients:
        with client:
            assert client.recv(65536).startswith(b'HTTP/1.1 200 OK')


CHUNKING = list(MODULES)[1:]


@pytest.mark.parametrize('version', CHUNKING)
def test_a_whole_response_goes_out_in_one_send(version):
    protocol = MODULES[version]
    response = protocol.Response(next(protocol.parse_requests(bytearray(GET))), send=None)
    response.start_response('200 OK', [])
    assert len(list(response.finish_response([b'a body']))) == 1


SEEDS = [
    GET, request('POST', '/a?b=c', 'X-Probe: one, two', body=b'a body'),
    request('POST', '/', CHUNKED) + b'5\r\nhello\r\n3;a="b"\r\nyes\r\n0\r\nX-T: t\r\n\r\n',
    asking('GET', '/1') + asking('POST', '/2', body=b'xx') + asking('HEAD', '/3'),
    b'GET http://x/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
    request('POST', '/', 'Content-Length: 5', 'Expect: 100-continue') + b'hello',
]
MUTATIONS = [*(bytes([byte]) for byte in b'\r\n\0 \t:;,01fx\xff-+'), b'\r\n', b'Content-Length: 3\r\n',
             CHUNKED.encode() + b'\r\n', b'Host: y\r\n', b'chunked', b'HTTP/1.1']


def mutated(chance):
    """The bytes of a seed, with up to three mutations put between its bytes, or over some of them."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 3)):
        begin = chance.randrange(len(data))
        data[begin:begin + chance.choice([0, 0, 1, 1, 2, 8])] = chance.choice(MUTATIONS)
    return bytes(data)


def ours(protocol, data, size=None):
    """What our protocol reads in pieces of a size: requests, and at the end 'error', 'more' or 'end'."""
    buffer, found, size = bytearray(), [], size or len(data)
    parser = protocol.parse_requests(buffer)
    try:
        for at in range(0, len(data), size):
            buffer += data[at:at + size]
            while isinstance(step := next(parser), protocol.Request):
                found.append((step.method, step.body))
                if not step.keep_alive or step.version == 'HTTP/1.0':  # which h11 never keeps
                    return found, 'end'
    except protocol.RequestError as error:
        assert re.fullmatch(r'[45]\d\d [A-Z][A-Za-z ]+', error.args[0])
        return found, 'error'
    return found, 'more'


def theirs(data, most):
    """The same, as h11 reads it."""
    found = []
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
    parser.receive_data(data)
    while True:
        try:
            method, body = None, b''
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return found, 'more'
                method = event.method.decode() if isinstance(event, h11.Request) else method
                body += event.data if isinstance(event, h11.Data) else b''
        except h11.RemoteProtocolError:
            return found, 'error'
        found.append((method, body))
        if parser.their_state is h11.MUST_CLOSE:
            return found, 'end'
        parser.send(h11.Response(status_code=200, headers=[('Content-Length', '0')]))
        parser.send(h11.EndOfMessage())
        parser.start_next_cycle()


@pytest.mark.parametrize('version', CHUNKING)
def test_no_request_is_read_otherwise_than_h11_reads_it(version):
    chance, protocol = random.Random(1), MODULES[version]
    for _ in range(2000):
        data = mutated(chance)
        (requests, end), (h11_requests, h11_end) = ours(protocol, data), theirs(data, protocol.MAX_HEAD)
        both = min(len(requests), len(h11_requests))  # each refuses some that the other one takes
        assert requests[:both] == h11_requests[:both], data
        if 'error' not in (end, h11_end):
            assert (requests, end) == (h11_requests, h11_end), data


@pytest.mark.parametrize('version', CHUNKING)
def test_a_request_is_the_same_in_whatever_pieces_it_comes(version):
    protocol = MODULES[version]
    for data in SEEDS:
        assert [ours(protocol, data, size)[0] for size in (1, 2, 3, 7)] == [ours(protocol, data)[0]] * 4
