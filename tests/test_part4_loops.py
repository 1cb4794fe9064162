"""Part 4 from v2.0 on: what an event loop, its turns, a graceful stop and a reload owe to clients."""
import contextlib
import os
import pty
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pexpect
import pytest

from common.stages import ROOT, find_stage
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, asking, connect, get, read_next, read_reply, readable, request
from laboratory.instruments.process import ServerProcess, server_path
from laboratory.instruments.wsgi import fifo, noted, survives
from tests.helpers import (
    GET,
    LOOPS,
    RELOADING,
    STOPPING,
    SUPERVISED,
    TURNS,
    names,
    sending,
    wait_for_output,
    wait_for_the_application,
    workers,
)

STAGES = names('part4')


@pytest.mark.parametrize('stage', [STAGES[0], LOOPS[0], *TURNS])
def test_multithread_says_whether_an_application_shares_its_process(shared, stage):
    shown = get(shared(stage, 'wsgi_probes:app'), '/').body.decode()
    assert f'"wsgi.multithread": {"true" if stage in TURNS else "false"}' in shown


@pytest.mark.parametrize('stage', LOOPS)
def test_a_loop_rests_whose_clients_are_silent(serve, stage):
    server = serve(stage, 'wsgi_probes:app', IDLE_TIMEOUT='60', REQUEST_TIMEOUT='60')
    with connect(server) as kept, connect(server) as silent, sending(server, GET[:10]):
        for _ in range(2):
            kept.sendall(asking('GET', '/large'))
            assert read_next(kept, server).complete
        before = kernel.activity(workers(server))[1]
        assert not server.wait_until(lambda: readable(silent))
        assert kernel.activity(workers(server))[1] - before < 0.05


@pytest.mark.parametrize('stage', LOOPS)
def test_each_of_many_clients_gets_its_own_replies(shared, stage):
    def be_client(number):
        with connect(server) as client:
            for step in range(40):
                name = f'{number}-{step}'
                client.sendall(asking('GET', '/header', f'X-Probe: {name}'))
                assert read_next(client, server).body == name.encode()

    server = shared(stage, 'wsgi_probes:app')
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(be_client, range(8)))


@pytest.mark.parametrize('stage', LOOPS)
def test_a_client_that_reads_an_endless_response_leaves_the_loop_to_others(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1')
    with sending(server, request('GET', '/blocks-without-end')) as reader:
        assert readable(reader, kernel.LIMIT)
        stopped = threading.Event()
        reading = threading.Thread(target=lambda: [reader.recv(65536) for _ in iter(stopped.is_set, True)])
        reading.start()
        try:
            with sending(server, GET) as other:
                assert readable(other, kernel.LIMIT)
        finally:
            stopped.set()
            reading.join()


@pytest.mark.parametrize('stage', TURNS)
def test_requests_wait_while_all_threads_are_busy_and_then_pipelined_ones_too_are_served(serve, stage):
    server = serve(stage, 'wsgi_probes:app', WORKERS='1', THREADS='2')
    with contextlib.ExitStack() as stack:
        busy, waiting = ([stack.enter_context(connect(server)) for _ in range(number)] for number in (2, 5))
        with fifo(server):
            for number, client in enumerate(busy, 1):
                client.sendall(asking('GET', '/stuck') + request('GET', '/binary'))
                assert kernel.eventually(lambda n=number: len(noted(server, 'waiting')) == n)
            for client in waiting:
                client.sendall(GET)
            assert not server.wait_until(lambda: any(map(readable, waiting)))
        for client in busy:
            first = read_next(client, server)
            assert [first.status, read_next(client, server, first.extra).status] == [200, 200]
        assert [read_reply(client, server).status for client in waiting] == [200] * 5


@pytest.mark.parametrize('stage', TURNS)
def test_a_request_whose_end_and_deadline_come_together_runs_one_application(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1', REQUEST_TIMEOUT='1')
    (worker,) = workers(server)
    whole = request('GET', '/wait')
    with connect(server) as client, connect(server) as holding, connect(server) as other:
        with fifo(server):
            client.sendall(whole[:-2])
            server.let_rest()
            holding.sendall(request('GET', '/hold-the-lock-for-a-while'))
            wait_for_output(server, 'holding')
            client.sendall(whole[-2:])
            wait_for_output(server, 'waiting')
            other.sendall(GET)
            assert read_reply(other, server).status == 200
        assert read_reply(client, server).status == 200
    assert workers(server) == {worker}


@pytest.mark.parametrize('stage', TURNS)
@pytest.mark.parametrize(('leaves', 'seconds'), [(False, '1'), (True, '60')], ids=['stays', 'leaves'])
def test_an_endless_response_that_is_not_read_costs_no_thread(serve, stage, leaves, seconds):
    server = serve(stage, 'misbehaves:app', WORKERS='1', THREADS='1', SEND_TIMEOUT=seconds)
    (worker,) = workers(server)
    threads = len(kernel.tasks(worker))
    with connect(server) as deaf, connect(server) as other:
        deaf.sendall(request('GET', '/blocks-without-end'))
        assert kernel.eventually(lambda: len(kernel.tasks(worker)) == threads + 1)  # one in its place
        before = kernel.anonymous_memory([worker])
        other.sendall(GET)
        assert readable(other, kernel.LIMIT)
        server.let_rest()
        assert kernel.anonymous_memory([worker]) - before < 3_000_000  # bytes
        if leaves:
            deaf.close()
        assert kernel.eventually(lambda: len(kernel.tasks(worker)) == threads)


@pytest.mark.parametrize('stage', TURNS)
@pytest.mark.parametrize('path', ['/yield-and-wait', '/write-and-wait'])
def test_a_block_goes_out_to_its_end_while_the_application_waits(serve, stage, path):
    server = serve(stage, 'misbehaves:app')
    with fifo(server), sending(server, request('GET', path)) as client:
        size = 0
        while size < 10_000_000:
            data = client.recv(65536)
            assert data
            size += len(data)


@pytest.mark.parametrize('stage', TURNS)
def test_a_response_is_whole_and_one_though_close_fails_or_the_application_forks(shared, stage):
    server = shared(stage, 'misbehaves:app')
    for path in '/fail-to-close', '/fail-to-close-a-stream':
        assert len(get(server, path).body) == 10_000_000, path
    for path in '/fork-and-return', '/fork-and-yield':
        reply = get(server, path)
        assert (reply.status, reply.body, reply.data.count(b'HTTP/1.1 ')) == (200, b'x', 1), path


@pytest.mark.parametrize('stage', TURNS)
def test_two_generators_that_wait_for_a_moment_wait_at_the_same_time(serve, stage):
    def be_client(_):
        with connect(server) as client:
            for _ in range(40):
                client.sendall(asking('GET', '/count-the-running'))
                yield read_next(client, server).body

    server = serve(stage, 'misbehaves:app', WORKERS='1')
    with ThreadPoolExecutor(2) as pool:
        assert b'2' in sum(pool.map(list, map(be_client, range(2))), [])


@pytest.mark.parametrize('stage', TURNS)
def test_an_application_that_goes_on_without_its_client_is_ended(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1', APP_TIMEOUT='0.4', SEND_TIMEOUT='0.2')
    (worker,) = workers(server)
    with sending(server, request('GET', '/write-for-ever')):
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)


@pytest.fixture
def reloading(serve, tmp_path):
    """reloading(stage) returns a server that says b'one', and change(what it says, or its source)."""
    def change(text):
        (tmp_path / 'own.py').write_text(text if '\n' in text else (
            f'def app(environ, start_response):\n    start_response("200 OK", [])\n    return [b"{text}"]\n'))

    def start(stage):
        change('one')
        return serve(stage, 'own:app', WORKERS='1'), change
    return start


@pytest.mark.parametrize('stage', RELOADING)
def test_sighup_loads_the_application_anew_once_it_can_be_loaded(reloading, stage):
    server, change = reloading(stage)
    (before,) = workers(server)
    assert get(server, '/').body == b'one'
    change('no Python\n')
    os.kill(server.pid, signal.SIGHUP)
    wait_for_output(server, 'SyntaxError')
    assert get(server, '/').body == b'one'
    assert before in kernel.children(server.pid)
    change('another')
    assert kernel.eventually(lambda: before not in kernel.children(server.pid))
    assert get(server, '/').body == b'another'
    change('import time\ntime.sleep(600)\n')
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: len(kernel.children(server.pid)) == 2)
    server.let_rest()
    change('the third')
    os.kill(server.pid, signal.SIGHUP)  # helps where the new worker hangs
    assert kernel.eventually(lambda: get(server, '/').body == b'the third')


@pytest.mark.parametrize('stage', RELOADING)
def test_a_signal_to_a_new_worker_is_none_to_its_supervisor(reloading, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, time\n'
        'def pause():\n'
        f'    while os.path.exists({str(tmp_path / "pause")!r}):\n'
        '        time.sleep(0.01)\n'
        'os.register_at_fork(after_in_child=pause)\n')
    server, _ = reloading(stage)
    old = workers(server)
    (tmp_path / 'pause').touch()
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: kernel.children(server.pid) - old)
    (new,) = kernel.children(server.pid) - old
    os.kill(new, signal.SIGTERM)
    server.let_rest()
    (tmp_path / 'pause').unlink()
    wait_for_output(server, f'worker {new} has ended: -15')
    assert get(server, '/').body == b'one'


@pytest.mark.parametrize('stage', STOPPING)
@pytest.mark.parametrize('path', ['/wait', '/sleep-with-the-lock'])
def test_a_stop_does_not_wait_longer_than_it_says(serve, stage, path):
    server = serve(stage, 'misbehaves:app', WORKERS='1', STOP_TIMEOUT='0.3')
    (worker,) = workers(server)
    with fifo(server), sending(server, request('GET', path)):
        wait_for_output(server, 'waiting')
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
        assert not kernel.alive(worker)
    assert ('clients not served to the end: 1' in server.output()) == (path == '/wait')


@pytest.mark.parametrize('stage', STOPPING)
def test_a_kept_client_may_send_one_more_request_while_its_server_stops(with_times, stage):
    server = with_times(stage, {'LINGER': 20}, 'wsgi_probes:app', WORKERS='1', STOP_TIMEOUT='20')
    with fifo(server), connect(server) as busy, connect(server) as kept:
        busy.sendall(request('GET', '/stuck'))  # so that the server does not end at once
        wait_for_the_application(server)
        kept.sendall(asking('GET', '/binary'))
        assert read_next(kept, server).values('Connection') == ['keep-alive']
        (worker,) = workers(server)
        os.kill(server.pid, signal.SIGTERM)
        assert kernel.eventually(lambda: server.port not in kernel.ports(worker))
        kept.sendall(asking('GET', '/binary'))
        last = read_reply(kept, server)
        assert (last.status, last.values('Connection'), last.end) == (200, ['close'], FIN)


@pytest.mark.parametrize('stage', STOPPING)
def test_an_idle_client_does_not_hold_up_a_stop(serve, stage):
    server = serve(stage, 'wsgiapp:app', IDLE_TIMEOUT='60', STOP_TIMEOUT='60')
    with sending(server, asking('GET', '/')) as idle:
        assert read_next(idle, server).status == 200
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
    assert 'not served' not in server.output()


@pytest.mark.parametrize(('stage', 'again'), [
    *((stage, signal.SIGTERM) for stage in STOPPING), *((stage, signal.SIGHUP) for stage in RELOADING)])
def test_a_second_signal_does_not_cut_off_what_the_first_one_lets_finish(serve, stage, again):
    server = serve(stage, 'wsgi_probes:app', WORKERS='1')
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/stuck'))
            wait_for_the_application(server)
            for signum in signal.SIGTERM, again:
                for pid in [server.pid, *workers(server)]:
                    os.kill(pid, signum)
                server.let_rest()
        reply = read_reply(client, server)
        assert (reply.status, reply.body) == (200, b'returned')
    assert server.popen.wait(kernel.LIMIT) == 0


@pytest.mark.parametrize('stage', RELOADING)
def test_two_signals_at_once_are_both_heeded(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    before = workers(server)
    kernel.suspend([server.pid])
    os.kill(min(before), signal.SIGKILL)
    os.kill(server.pid, signal.SIGHUP)
    os.kill(server.pid, signal.SIGCONT)
    assert kernel.eventually(lambda: not before & kernel.children(server.pid))
    assert len(workers(server)) == 2
    assert survives(server)


@pytest.mark.parametrize('stage', STOPPING)
def test_a_child_of_the_application_has_no_part_in_the_signals_of_its_worker(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1')
    before = workers(server)
    assert get(server, '/end-a-child').body == b'-15'
    assert workers(server) == before


@pytest.mark.parametrize('stage', SUPERVISED)
def test_a_server_ends_whose_terminal_is_closed(stage):
    server = pexpect.spawn(sys.executable, ['-m', 'common.run', stage], cwd=ROOT, timeout=kernel.LIMIT,
                           env={**os.environ, 'PORT': '0', 'WORKERS': '2'})
    server.expect('Serving HTTP')
    assert kernel.eventually(lambda: len(kernel.children(server.pid)) == 2)
    family = [server.pid, *kernel.children(server.pid)]
    server.ptyproc.fileobj.close()
    assert kernel.eventually(lambda: not server.isalive() and not any(map(kernel.alive, family)))


ON_A_TERMINAL = (  # which does not control it, as of a command that is in the background
    'import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), 0); '
    'os.execv(sys.executable, [sys.executable, *sys.argv[2:]])')


@pytest.mark.parametrize('stage', RELOADING)
def test_a_server_in_the_background_outlives_its_terminal(stage):
    ours, theirs = pty.openpty()
    path = find_stage(stage).server
    command = [sys.executable, '-c', ON_A_TERMINAL, os.ttyname(theirs), path, 'wsgiapp:app']
    with ServerProcess(command, env={'PYTHONPATH': server_path('on'), 'WORKERS': '1'}) as server:
        (worker,) = workers(server)
        os.close(theirs)
        os.close(ours)
        os.kill(worker, signal.SIGKILL)
        assert kernel.eventually(lambda: kernel.children(server.pid) - {worker})
        assert survives(server)
