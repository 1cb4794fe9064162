"""Part 4: what its stages do beyond the questions of their table."""
import contextlib
import errno
import importlib.util
import os
import random
import re
import resource
import signal
import socket
import sys
import time

import h11
import pytest

from common.stages import ROOT, find_stage, stages_of
from laboratory.experiments.part2 import fifo, survives
from laboratory.experiments.part4 import asking
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    RST,
    connect,
    fetch,
    get,
    read_next,
    read_reply,
    readable,
    request,
    status_of,
)
from laboratory.instruments.process import ServerProcess, server_path
from tests.test_part2 import BAD_REQUESTS, TEST_APPS

STAGES = [stage.name for stage in stages_of('part4')]
PREFORK, SUPERVISED, LIMITED, KEEPING = STAGES[2:], STAGES[3:], STAGES[4:], STAGES[5:]
LOOPS, THREADED, GRACEFUL = STAGES[6:], STAGES[7:], STAGES[8:]
BLOCKING = [stage for stage in SUPERVISED if stage not in LOOPS]
WITH_TEST_APPS = {'PYTHONPATH': f'{TEST_APPS}{os.pathsep}{server_path("on")}'}
GET = request('GET', '/')
CHUNKED = 'Transfer-Encoding: chunked'
LINUX = pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='limits another process, on Linux')


def workers(server):
    server.let_rest()
    return kernel.children(server.pid)


@pytest.mark.parametrize('stage', STAGES)
def test_every_bad_request_gets_its_status(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    reads_chunks = {'a chunked body': 200, 'a chunked body with a length': 400} if stage in KEEPING else {}
    assert {name: status_of(server, data) for name, data, _ in BAD_REQUESTS} == {
        name: status for name, _, status in BAD_REQUESTS} | reads_chunks


@pytest.mark.parametrize(('coding', 'status'), [
    ('chunked', 200), ('Chunked', 200), ('gzip', 400), ('chunked, chunked', 400), ('chunked, gzip', 400),
    ('gzip, chunked', 501), ('', 400), ('chunked\r\nTransfer-Encoding: chunked', 400),
])
def test_only_one_transfer_coding_is_known(serve, coding, status):
    server = serve(KEEPING[0], 'wsgiapp:app')
    data = request('POST', '/', f'Transfer-Encoding: {coding}') + b'0\r\n\r\n'
    assert status_of(server, data) == status


@pytest.mark.parametrize('stage', STAGES)
def test_a_refused_head_request_gets_no_body(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    with connect(server) as client:
        client.sendall(b'HEAD / HTTP/1.1\r\n\r\n')
        reply = read_reply(client, server, 'HEAD')
        assert (reply.status, reply.extra) == (400, b'')


def test_a_child_of_v1_0_waits_for_the_children_of_its_application(serve, tmp_path):
    (tmp_path / 'runs.py').write_text(
        'import subprocess\n'
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [("Content-Type", "text/plain")])\n'
        '    return [b"%d" % subprocess.run(["sh", "-c", "exit 7"]).returncode]\n')
    server = serve('part4-v1.0', 'runs:app', env={'PYTHONPATH': str(tmp_path)})
    assert [get(server, '/').body for _ in range(5)] == [b'7'] * 5


@pytest.mark.parametrize('stage', PREFORK)
def test_as_many_workers_are_forked_as_workers_says(serve, stage):
    assert len(workers(serve(stage, 'wsgiapp:app', env={'WORKERS': '5'}))) == 5


@pytest.mark.parametrize('stage', SUPERVISED)
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_worker_outlives_its_supervisor(serve, stage, signum):
    if stage in GRACEFUL and signum == signal.SIGHUP:
        pytest.skip('to this stage SIGHUP says that it shall replace its workers')
    server = serve(stage, 'wsgi_probes:app', env={'STOP_TIMEOUT': '0.2'})
    forked = workers(server)
    with fifo(server), connect(server) as client:
        client.sendall(request('GET', '/stuck'))  # one of them is busy, even so
        server.let_rest()
        os.kill(server.pid, signum)
        status = server.popen.wait(kernel.LIMIT)
        if signum in (signal.SIGTERM, signal.SIGINT):
            assert status == 0
            assert not any(map(kernel.alive, forked))  # it has waited for them: the port is free
        assert kernel.eventually(lambda: not any(map(kernel.alive, forked)))
        assert 'Traceback' not in server.output()


@pytest.mark.parametrize('stage', SUPERVISED)
def test_a_stopped_worker_does_not_keep_its_supervisor(serve, stage):
    server = serve(stage, 'wsgiapp:app', env={'STOP_TIMEOUT': '0.2'})
    stopped = workers(server).pop()
    os.kill(stopped, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGTERM)
    assert server.popen.wait(kernel.LIMIT) == 0
    assert not kernel.alive(stopped)


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


@pytest.mark.parametrize('stage', LIMITED)
def test_a_client_that_says_nothing_is_dropped_without_a_word(serve, stage):
    server = serve(stage, 'wsgiapp:app', env={'REQUEST_TIMEOUT': '0.2', 'IDLE_TIMEOUT': '0.2'})
    with connect(server) as client:
        assert kernel.eventually(lambda: readable(client))
        assert client.recv(1) == b''


@pytest.mark.parametrize('stage', LIMITED)
@pytest.mark.parametrize('begun', [b'G', GET[:-2], request('POST', '/', 'Content-Length: 5') + b'x'])
def test_a_request_that_is_not_whole_in_time_gets_408(serve, stage, begun):
    server = serve(stage, 'wsgiapp:app', env={'REQUEST_TIMEOUT': '0.2'})
    with connect(server) as client:
        client.sendall(begun)
        assert kernel.eventually(lambda: readable(client))
        reply = read_reply(client, server)
        assert (reply.status, reply.values('Connection'), reply.end) == (408, ['close'], FIN)


@pytest.mark.parametrize('stage', LIMITED)
def test_a_request_whose_bytes_come_without_a_pause_has_a_deadline_too(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'REQUEST_TIMEOUT': '0.5'})
    with connect(server) as client:
        client.sendall(request('POST', '/body', 'Content-Length: 1000000'))
        began = time.monotonic()
        while not readable(client) and time.monotonic() - began < server.patience:
            client.sendall(b'x')
        assert client.recv(65536).startswith(b'HTTP/1.1 408 ')


@pytest.mark.parametrize('stage', KEEPING)
def test_the_extensions_of_all_chunks_together_are_limited(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    chunks = [b'1;%b\r\nx\r\n' % (b'e' * size) for size in (7000, 7000, 7000)]
    assert status_of(server, request('POST', '/body', CHUNKED) + b''.join(chunks[:2]) + b'0\r\n\r\n') == 200
    assert status_of(server, request('POST', '/body', CHUNKED) + b''.join(chunks) + b'0\r\n\r\n') == 400


@pytest.mark.parametrize('stage', STAGES)
def test_no_more_is_asked_for_of_a_body_that_is_not_sent(serve, stage):
    server = serve(stage, 'breaks_promises:app', env={**WITH_TEST_APPS, 'WORKERS': '1'})
    for _ in range(2):
        assert fetch(server, request('HEAD', '/without-end')).end == FIN


@pytest.mark.parametrize('stage', STAGES)
def test_a_205_has_no_content(serve, stage):
    with connect(server := serve(stage, 'wsgi_probes:app')) as client:
        client.sendall(request('GET', '/reset-content'))
        reply = read_reply(client, server)
        assert (reply.status, reply.body, reply.complete) == (205, b'', True)
        assert reply.values('Content-Length') in ([], ['0'])


@pytest.mark.parametrize('stage', STAGES)
def test_what_an_application_prints_is_not_lost(serve, stage, tmp_path):
    (tmp_path / 'prints.py').write_text(
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [("Content-Type", "text/plain")])\n'
        '    print("printed by the application")\n'
        '    return [b"x"]\n')
    server = serve(stage, 'prints:app', env={'PYTHONPATH': str(tmp_path)})
    get(server, '/')
    server.wait_for_output('printed by the application\n')


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
    path = f'{tmp_path}{os.pathsep}{server_path("on")}'
    server = serve(stage, 'wsgi_probes:app', env={'PYTHONPATH': path})
    one, other = workers(server)
    (tmp_path / 'full').touch()
    os.kill(one, signal.SIGKILL)
    server.wait_for_output('cannot fork a worker: ')
    assert kernel.eventually(lambda: len(workers(server) - {one}) == 2)
    assert other in workers(server)
    assert survives(server)


@LINUX
@pytest.mark.parametrize('stage', BLOCKING)
def test_a_worker_that_fails_without_standard_error_leaves_the_others_alone(serve, stage):
    command = f'{sys.executable} {find_stage(stage).server} wsgi_probes:app 2>/dev/full'
    env = {'PYTHONPATH': server_path('on'), 'WORKERS': '3'}
    with ServerProcess(['sh', '-c', f'exec {command}'], env=env) as server:
        before = workers(server)
        one = before.pop()
        resource.prlimit(one, resource.RLIMIT_NOFILE, (3, 3))  # so that its accept() fails
        for _ in range(50):  # until it gets one of them
            with connect(server) as client:
                client.sendall(GET)
                server.wait_until(lambda client=client: readable(client) or not kernel.alive(one))
        assert not kernel.alive(one)
        assert kernel.eventually(lambda: len(workers(server)) == 3)
        assert before < workers(server)


@pytest.mark.parametrize('stage', SUPERVISED)
def test_an_application_that_raises_keyboardinterrupt_does_not_end_its_worker(serve, stage, tmp_path):
    (tmp_path / 'interrupts.py').write_text(
        'def app(environ, start_response):\n'
        '    raise KeyboardInterrupt\n')
    server = serve(stage, 'interrupts:app', env={'PYTHONPATH': str(tmp_path), 'WORKERS': '1'})
    before = workers(server)
    assert status_of(server, GET) == 500
    assert workers(server) == before


@pytest.mark.parametrize('stage', SUPERVISED)
def test_a_child_of_the_application_that_raises_does_not_become_a_worker(serve, stage, tmp_path):
    (tmp_path / 'forks.py').write_text(
        'import os\n'
        'def app(environ, start_response):\n'
        '    if os.fork() == 0:\n'
        '        raise SystemExit\n'
        '    os.wait()\n'
        '    start_response("200 OK", [("Content-Type", "text/plain")])\n'
        '    return [b"x"]\n')
    server = serve(stage, 'forks:app', env={'PYTHONPATH': str(tmp_path), 'WORKERS': '1'})
    (worker,) = workers(server)
    with connect(server) as client:
        client.sendall(GET)
        assert kernel.eventually(lambda: readable(client))
    assert kernel.eventually(lambda: not kernel.children(worker))


def test_a_connection_ends_whose_send_has_failed_though_the_application_goes_on(serve):
    server = serve('part4-v1.4', 'breaks_promises:app', env={**WITH_TEST_APPS, 'SEND_TIMEOUT': '0.2'})
    with connect(server) as client:
        with fifo(server):
            client.sendall(asking('GET', '/swallow-everything'))
            server.wait_for_output('swallowed')  # because the client takes nothing
            while readable(client, 0.1):
                client.recv(65536)
        client.sendall(asking('GET', '/no-content'))  # now the client takes the rest
        data = b''
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                data += piece
        assert b' 204 ' not in data


def test_a_blank_line_behind_a_request_does_not_begin_another(serve):
    server = serve(STAGES[-1], 'wsgiapp:app', env={'IDLE_TIMEOUT': '0.3', 'REQUEST_TIMEOUT': '0.3'})
    with connect(server) as client:
        client.sendall(asking('GET', '/') + b'\r\n')
        assert read_next(client, server).status == 200
        assert kernel.eventually(lambda: readable(client))
        assert client.recv(1) == b''


@pytest.mark.parametrize('stage', LIMITED)
def test_a_client_that_takes_nothing_is_reset(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'SEND_TIMEOUT': '0.2', 'WORKERS': '1'})
    with connect(server) as deaf:
        deaf.sendall(request('GET', '/large'))
        assert kernel.eventually(lambda: readable(deaf))
        with connect(server) as client:
            client.sendall(GET)
            assert kernel.eventually(lambda: readable(client))
        errors = iter(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), None)
        assert kernel.eventually(lambda: next(errors) == errno.ECONNRESET)


@pytest.mark.parametrize('stage', LIMITED)
def test_the_time_limit_of_the_application_does_not_count_while_the_client_is_slow(serve, stage):
    server = serve(stage, 'breaks_promises:app', env={**WITH_TEST_APPS, 'APP_TIMEOUT': '1', 'WORKERS': '1'})
    (worker,) = workers(server)
    with connect(server) as slow:
        slow.sendall(request('GET', '/megabytes'))
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            slow.recv(65536)
            server.let_rest()
        assert len(read_reply(slow, server).data) > 10_000_000
    assert workers(server) == {worker}


@pytest.mark.parametrize('stage', LIMITED)
def test_the_server_shows_where_an_application_was_stuck(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'APP_TIMEOUT': '0.2'})
    with fifo(server), connect(server) as client:
        client.sendall(request('GET', '/stuck'))
        server.wait_for_output('has ended')
    assert re.search(r'wsgi_probes.py", line \d+ in do_not_return', server.output())


@pytest.mark.parametrize('stage', LIMITED)
def test_the_timer_is_off_between_requests(serve, stage):
    server = serve(stage, 'wsgiapp:app', env={'APP_TIMEOUT': '0.2', 'WORKERS': '1'})
    (worker,) = workers(server)
    assert survives(server)
    with connect(server):
        kernel.eventually(lambda: not kernel.alive(worker), 0.6)
    assert workers(server) == {worker}


@pytest.fixture
def kept(serve):
    """A server of the last stage, and a client that is connected to it."""
    server = serve(STAGES[-1], 'wsgi_probes:app')
    with connect(server) as client:
        yield server, client


@pytest.mark.parametrize(('version', 'header', 'stays'), [
    ('1.1', '', True), ('1.1', 'Connection: close', False), ('1.1', 'connection: x, CLOSE', False),
    ('1.0', '', False), ('1.0', 'Connection: Keep-Alive', True),
])
def test_the_connection_stays_open_as_the_client_asks(kept, version, header, stays):
    server, client = kept
    lines = [f'GET /binary HTTP/{version}', 'Host: x', *filter(None, [header]), '', '']
    client.sendall('\r\n'.join(lines).encode())
    reply = read_next(client, server)
    assert reply.status == 200
    assert reply.values('Connection') == ['keep-alive' if stays else 'close']
    client.settimeout(kernel.LIMIT)
    if stays:
        client.sendall(asking('GET', '/binary'))
        assert read_next(client, server).status == 200
    else:
        assert client.recv(1) == b''


def test_a_body_of_unknown_length_ends_with_the_connection_in_http_1_0(kept):
    server, client = kept
    client.sendall(b'GET /write HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
    reply = read_reply(client, server)
    assert (reply.body, reply.end) == (b'written, returned', FIN)
    assert reply.values('Transfer-Encoding') == []


def test_many_requests_in_one_send_are_answered_in_order(kept):
    server, client = kept
    client.sendall(b''.join(asking('GET', f'/{number}') for number in range(50)))
    behind = b''
    for number in range(50):
        reply = read_next(client, server, behind)
        behind = reply.extra
        assert f'"PATH_INFO": "/{number}"'.encode() in reply.body


def test_after_a_bad_request_the_connection_ends(kept):
    server, client = kept
    client.sendall(asking('GET', '/binary') + b'mick\r\n\r\n' + asking('GET', '/smuggled'))
    first = read_next(client, server)
    second = read_next(client, server, first.extra)
    assert (first.status, second.status, second.extra) == (200, 400, b'')
    assert client.recv(1) == b''


def test_half_a_response_is_reset_on_a_connection_that_is_kept(kept):
    server, client = kept
    client.sendall(asking('GET', '/raise-after'))
    reply = read_reply(client, server)
    assert (reply.complete, reply.end) == (False, RST)


def protocol_of(stage):
    """The module protocol.py of a stage."""
    spec = importlib.util.spec_from_file_location('protocol', ROOT / f'part4/{stage}/protocol.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROTOCOLS = {version: protocol_of(version) for version in ('v1.4', 'final')}


@pytest.mark.parametrize('version', PROTOCOLS)
def test_a_whole_response_goes_out_in_one_send(version):
    protocol = PROTOCOLS[version]
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


def ours(data, protocol):
    """The requests that our protocol reads, and how it ends: 'error', 'more' or 'end'."""
    buffer, found = bytearray(data), []
    try:
        for step in protocol.parse_requests(buffer):
            if not isinstance(step, protocol.Request):
                return found, 'more'
            found.append((step.method, step.body))
            if not step.keep_alive or step.version == 'HTTP/1.0':  # which h11 never keeps
                return found, 'end'
    except protocol.RequestError as error:
        assert re.fullmatch(r'[45]\d\d [A-Z][A-Za-z ]+', error.args[0])
        return found, 'error'


def theirs(data):
    """The same, as h11 reads it."""
    found = []
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=PROTOCOLS['final'].MAX_HEAD)
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


@pytest.mark.parametrize('version', PROTOCOLS)
def test_no_request_is_read_otherwise_than_h11_reads_it(version):
    chance = random.Random(1)
    for _ in range(2000):
        data = mutated(chance)
        (requests, end), (h11_requests, h11_end) = ours(data, PROTOCOLS[version]), theirs(data)
        both = min(len(requests), len(h11_requests))  # each refuses some that the other one takes
        assert requests[:both] == h11_requests[:both], data
        if 'error' not in (end, h11_end):
            assert (requests, end) == (h11_requests, h11_end), data


@pytest.mark.parametrize('version', PROTOCOLS)
@pytest.mark.parametrize('data', SEEDS)
def test_a_request_is_the_same_in_whatever_pieces_it_comes(data, version):
    protocol = PROTOCOLS[version]
    whole, _ = ours(data, protocol)
    for size in 1, 2, 3, 7:
        buffer, found = bytearray(), []
        parser = protocol.parse_requests(buffer)
        for at in range(0, len(data), size):
            buffer += data[at:at + size]
            while isinstance(step := next(parser), protocol.Request):
                found.append((step.method, step.body))
        assert found == whole


def test_a_client_that_connects_while_all_workers_are_busy_is_served_later(serve):
    server = serve('part4-v1.1', 'wsgi_probes:app')
    silent = [connect(server), connect(server)]
    server.let_rest()
    with connect(server) as client:
        client.sendall(GET)
        assert not server.wait_until(lambda: readable(client))
        for one in silent:
            one.close()
        assert read_reply(client, server).status == 200


def test_a_burst_of_connections_is_answered(serve):
    server = serve('part4-v1.4', 'wsgiapp:app')
    clients = [socket.create_connection(('127.0.0.1', server.port), timeout=kernel.LIMIT) for _ in range(500)]
    for client in clients:
        client.sendall(GET)
    for client in clients:
        with client:
            assert client.recv(65536).startswith(b'HTTP/1.1 200 OK')
