"""Part 4 from v2.0 on: what an event loop, application threads and a graceful stop owe to clients."""
import contextlib
import errno
import os
import pty
import re
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pexpect
import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.experiments.part2 import fifo, noted, survives
from laboratory.experiments.part4 import asking
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    connect,
    get,
    read_next,
    read_reply,
    readable,
    request,
    rest_of,
)
from laboratory.instruments.process import ServerProcess, server_path, stage_server
from tests.test_part4 import GET, GRACEFUL, LOOPS, STAGES, THREADED, WITH_TEST_APPS, workers

HOLDS_THE_LOCK = 'import re\ndef app(environ, start_response):\n    re.match("(a+)+$", "a" * 50 + "b")\n'
HOLDS_OR_WAITS = '''
import ctypes, os
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if environ['PATH_INFO'] == '/hold':
        print('holding', flush=True)
        ctypes.PyDLL(None).usleep(1_200_000)  # lets no other thread run
    if environ['PATH_INFO'] == '/wait':
        print('waiting', flush=True)
        with open(os.environ['PROBES'] + '/fifo') as fifo:
            fifo.read()
    return [b'']
'''
ENDLESS = '''
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    while True:
        yield b'x' * 50_000
'''

LARGE_THEN_WAITS = '''
import os
def app(environ, start_response):
    write = start_response('200 OK', [])
    if environ['PATH_INFO'] == '/write':
        write(b'x' * 10_000_000)
    else:
        yield b'x' * 10_000_000
    with open(os.environ['PROBES'] + '/fifo') as fifo:
        fifo.read()
'''

ENDLESS_OR_NOT = '''
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    yield b'x' * 1000
    while environ['PATH_INFO'] == '/endless':
        yield b'x' * 1000
'''


def with_app(serve, stage, folder, source, **env):
    """A server that runs an application with that source, module and callable 'own:app', and one worker."""
    (folder / 'own.py').write_text(source)
    path = f'{folder}{os.pathsep}{server_path("on")}'
    env = {'WORKERS': '1', 'PYTHONDONTWRITEBYTECODE': '1', 'PYTHONPATH': path, **env}
    return serve(stage, 'own:app', env=env)


@pytest.mark.parametrize('stage', STAGES[4:])
def test_an_application_that_lets_no_thread_run_is_ended(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, HOLDS_THE_LOCK, APP_TIMEOUT='0.3')
    (worker,) = workers(server)
    with connect(server) as client:
        client.sendall(GET)
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)
    assert re.search(r'own.py", line 3 in app', server.output())


@pytest.mark.parametrize('stage', STAGES)
def test_multithread_says_whether_an_application_shares_its_process(serve, stage):
    shown = get(serve(stage, 'wsgi_probes:app'), '/').body.decode()
    assert f'"wsgi.multithread": {"true" if stage in THREADED else "false"}' in shown


@pytest.mark.parametrize('stage', LOOPS)
def test_a_loop_rests_whose_clients_are_silent(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'IDLE_TIMEOUT': '60', 'REQUEST_TIMEOUT': '60'})
    with connect(server) as kept, connect(server) as silent, connect(server) as slow:
        slow.sendall(GET[:10])
        for _ in range(2):
            kept.sendall(asking('GET', '/large'))
            assert read_next(kept, server).complete
        before = kernel.activity(workers(server))[1]
        assert not server.wait_until(lambda: readable(silent))
        assert kernel.activity(workers(server))[1] - before < 0.05


@pytest.mark.parametrize('stage', LOOPS)
def test_each_of_many_clients_gets_its_own_replies(serve, stage):
    server = serve(stage, 'wsgi_probes:app')

    def be_client(number):
        with connect(server) as client:
            for step in range(40):
                name = f'{number}-{step}'
                client.sendall(asking('GET', '/header', f'X-Probe: {name}'))
                assert read_next(client, server).body == name.encode()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(be_client, range(8)))


@pytest.mark.parametrize('stage', THREADED)
def test_a_request_waits_when_all_threads_are_busy(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'WORKERS': '1', 'THREADS': '2'})
    with connect(server) as one, connect(server) as two, connect(server) as three:
        with fifo(server):
            for number, client in enumerate([one, two], 1):
                client.sendall(request('GET', '/stuck'))
                assert kernel.eventually(lambda n=number: len(noted(server, 'waiting')) == n)
            three.sendall(GET)
            assert not server.wait_until(lambda: readable(three))
        assert [read_reply(client, server).status for client in (one, two, three)] == [200] * 3


@pytest.mark.parametrize('stage', THREADED)
def test_all_requests_that_wait_for_a_thread_are_served_once_one_is_free(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, HOLDS_OR_WAITS, THREADS='1')
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(6)]
        with fifo(server):
            clients[0].sendall(request('GET', '/wait'))
            server.wait_for_output('waiting')
            for client in clients[1:]:
                client.sendall(GET)
            server.let_rest()
        assert [read_reply(client, server).status for client in clients] == [200] * 6


@pytest.mark.parametrize('stage', THREADED)
def test_a_request_whose_end_and_deadline_come_together_runs_one_application(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, HOLDS_OR_WAITS, REQUEST_TIMEOUT='1')
    (worker,) = workers(server)
    whole = request('GET', '/wait')
    with connect(server) as client, connect(server) as holding, connect(server) as other:
        with fifo(server):
            client.sendall(whole[:-2])
            server.let_rest()
            holding.sendall(request('GET', '/hold'))
            server.wait_for_output('holding')
            client.sendall(whole[-2:])
            server.wait_for_output('waiting')
            other.sendall(GET)
            assert read_reply(other, server).status == 200
        assert read_reply(client, server).status == 200
    assert workers(server) == {worker}


@pytest.mark.parametrize('stage', THREADED)
def test_a_pipelined_request_is_answered_though_the_application_took_long_before(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'WORKERS': '1'})
    with connect(server) as client:
        with fifo(server):
            client.sendall(asking('GET', '/stuck') + asking('GET', '/binary'))
            assert kernel.eventually(lambda: noted(server, 'waiting'))
            server.let_rest()
        first = read_next(client, server)
        assert [first.status, read_next(client, server, first.extra).status] == [200, 200]


@pytest.mark.parametrize('stage', THREADED)
def test_an_endless_response_that_is_not_read_costs_no_thread_of_the_pool(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, ENDLESS, THREADS='1', SEND_TIMEOUT='1')
    (worker,) = workers(server)
    server.let_rest()
    threads = len(kernel.tasks(worker))
    with connect(server) as deaf, connect(server) as other:
        deaf.sendall(GET)
        assert kernel.eventually(lambda: len(kernel.tasks(worker)) == threads + 1)  # one in its place
        before = kernel.anonymous_memory([worker])
        other.sendall(GET)
        assert kernel.eventually(lambda: readable(other))
        server.let_rest()
        assert kernel.anonymous_memory([worker]) - before < 3_000_000  # bytes
        assert kernel.eventually(lambda: len(kernel.tasks(worker)) == threads)  # SEND_TIMEOUT ends them


@pytest.mark.parametrize('stage', THREADED)
@pytest.mark.parametrize('path', ['/yield', '/write'])
def test_a_block_goes_out_to_its_end_while_the_application_waits(serve, stage, path, tmp_path):
    server = with_app(serve, stage, tmp_path, LARGE_THEN_WAITS)
    with fifo(server), connect(server) as client:
        client.settimeout(kernel.LIMIT)
        client.sendall(request('GET', path))
        size = 0
        while size < 10_000_000:
            data = client.recv(65536)
            assert data
            size += len(data)


@pytest.mark.parametrize('stage', THREADED)
@pytest.mark.parametrize('base', ['', '(list)'])
def test_a_response_is_sent_to_its_end_though_close_fails(serve, stage, base, tmp_path):
    source = (
        f'class Body{base}:\n'
        '    def __iter__(self):\n'
        '        yield b"x" * 10_000_000\n'
        '    def close(self):\n'
        '        raise RuntimeError\n'
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [("Content-Length", "10000000")])\n'
        '    return Body()\n')
    server = with_app(serve, stage, tmp_path, source)
    with connect(server) as client:
        client.sendall(GET)
        assert len(read_reply(client, server).body) == 10_000_000


@pytest.mark.parametrize('stage', THREADED)
def test_two_generators_that_wait_for_a_moment_wait_at_the_same_time(serve, stage, tmp_path):
    source = (
        'import time\n'
        'running = []\n'
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [])\n'
        '    running.append(1)\n'
        '    most = len(running)\n'
        '    time.sleep(0.002)\n'
        '    running.pop()\n'
        '    yield b"%d" % most\n')
    server = with_app(serve, stage, tmp_path, source)

    def be_client(_):
        with connect(server) as client:
            for _ in range(40):
                client.sendall(asking('GET', '/'))
                yield read_next(client, server).body
    with ThreadPoolExecutor(2) as pool:
        assert b'2' in sum(pool.map(list, map(be_client, range(2))), [])


def test_a_client_that_takes_no_more_of_a_list_is_reset(serve, tmp_path):
    source = (
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [])\n'
        '    return [b"x" * 10_000_000, b"y"]\n')
    server = with_app(serve, STAGES[-1], tmp_path, source, SEND_TIMEOUT='0.2')
    with connect(server) as deaf:
        deaf.sendall(b'GET / HTTP/1.0\r\n\r\n')  # the end of the connection is the end of its response
        errors = iter(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), None)
        assert kernel.eventually(lambda: next(errors) == errno.ECONNRESET)


@pytest.mark.parametrize('stage', THREADED)
def test_a_thread_ends_whose_client_has_gone(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, ENDLESS, THREADS='1')
    (worker,) = workers(server)
    server.let_rest()  # it has started its threads then
    threads = len(kernel.tasks(worker))
    for _ in range(3):
        with connect(server) as client:
            client.sendall(GET)
            client.recv(1)
    assert kernel.eventually(lambda: len(kernel.tasks(worker)) == threads)


@pytest.mark.parametrize('stage', LOOPS)
def test_a_client_that_reads_an_endless_response_leaves_the_loop_to_others(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, ENDLESS_OR_NOT)
    with connect(server) as reader:
        reader.sendall(request('GET', '/endless'))
        stopped = threading.Event()
        reading = threading.Thread(target=lambda: [reader.recv(65536) for _ in iter(stopped.is_set, True)])
        reading.start()
        try:
            with connect(server) as other:
                other.sendall(GET)
                assert readable(other, kernel.LIMIT)
        finally:
            stopped.set()
            reading.join()


@pytest.mark.parametrize('stage', STAGES[4:])
def test_a_response_may_take_longer_than_the_application_may_for_a_block(serve, stage, tmp_path):
    source = (
        'import time\n'
        'def app(environ, start_response):\n'
        '    start_response("200 OK", [])\n'
        '    for _ in range(8):\n'
        '        time.sleep(0.1)\n'
        '        yield b"x"\n')
    server = with_app(serve, stage, tmp_path, source, APP_TIMEOUT='0.4')
    with connect(server) as client:
        client.sendall(GET)
        assert readable(client, kernel.LIMIT)
        assert rest_of(client, kernel.LIMIT).body == b'x' * 8


@pytest.mark.parametrize('stage', THREADED)
def test_an_application_that_goes_on_without_its_client_is_ended(serve, stage, tmp_path):
    source = (
        'def app(environ, start_response):\n'
        '    write = start_response("200 OK", [])\n'
        '    while True:\n'
        '        try:\n'
        '            write(b"x" * 50_000)\n'
        '        except BaseException:\n'
        '            pass\n')
    server = with_app(serve, stage, tmp_path, source, APP_TIMEOUT='0.4', SEND_TIMEOUT='0.2')
    (worker,) = workers(server)
    with connect(server) as client:
        client.sendall(GET)
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)


REPLY = 'def app(environ, start_response):\n    start_response("200 OK", [])\n    return [b"%s"]\n'


@pytest.mark.parametrize('stage', GRACEFUL)
def test_sighup_loads_the_application_anew(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, REPLY % 'one')
    assert get(server, '/').body == b'one'
    (tmp_path / 'own.py').write_text(REPLY % 'another')
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: get(server, '/').body == b'another')


@pytest.mark.parametrize('stage', GRACEFUL)
def test_an_application_that_cannot_be_loaded_leaves_the_old_worker_until_it_can(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, REPLY % 'one')
    before = workers(server)
    (tmp_path / 'own.py').write_text('no Python')
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_output('SyntaxError')
    assert get(server, '/').body == b'one'
    (tmp_path / 'own.py').write_text(REPLY % 'another')
    assert kernel.eventually(lambda: not before & kernel.children(server.pid))
    assert get(server, '/').body == b'another'


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_server_whose_application_cannot_be_loaded_does_not_start(stage, tmp_path):
    (tmp_path / 'own.py').write_text('import no_such_module')
    command = [sys.executable, find_stage(stage).server, 'own:app']
    with pytest.raises(Exception, match='No module named .no_such_module.'), \
            ServerProcess(command, env={'PYTHONPATH': str(tmp_path)}):
        pass


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_stop_does_not_wait_longer_than_it_says(serve, stage):
    server = serve(stage, 'wsgi_probes:app', env={'STOP_TIMEOUT': '0.3'})
    with fifo(server), connect(server) as client:
        client.sendall(request('GET', '/stuck'))
        assert kernel.eventually(lambda: noted(server, 'waiting'))
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
    assert 'clients not served to the end: 1' in server.output()


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_kept_client_may_send_one_more_request_while_its_server_stops(stage, tmp_path):
    for file in find_stage(stage).files:
        source = (ROOT / find_stage(stage).folder / file).read_text()
        (tmp_path / file).write_text(source.replace('LINGER = 0.5', 'LINGER = 20'))  # on a busy machine too
    patient = Stage('patient', str(tmp_path))
    with stage_server(patient, 'wsgi_probes:app', env={'WORKERS': '1', 'STOP_TIMEOUT': '20'}) as server, \
            fifo(server), connect(server) as busy, connect(server) as kept:
        busy.sendall(request('GET', '/stuck'))  # so that the server does not end at once
        kept.sendall(asking('GET', '/binary'))
        assert read_next(kept, server).values('Connection') == ['keep-alive']
        os.kill(server.pid, signal.SIGTERM)
        assert kernel.eventually(lambda: server.port not in kernel.ports(server.pid))
        kept.sendall(asking('GET', '/binary'))
        last = read_reply(kept, server)
        assert (last.status, last.values('Connection'), last.end) == (200, ['close'], FIN)


@pytest.mark.parametrize('stage', STAGES[3:])
def test_a_server_ends_whose_terminal_is_closed(stage):
    server = pexpect.spawn(sys.executable, ['-m', 'common.run', stage], cwd=ROOT, timeout=kernel.LIMIT,
                           env={**os.environ, 'PORT': '0', 'WORKERS': '2'})
    server.expect('Serving HTTP')
    assert kernel.eventually(lambda: len(kernel.children(server.pid)) == 2)
    family = [server.pid, *kernel.children(server.pid)]
    server.ptyproc.fileobj.close()
    assert kernel.eventually(lambda: not server.isalive() and not any(map(kernel.alive, family)))


@pytest.mark.parametrize('stage', GRACEFUL)
def test_two_signals_at_once_are_both_heeded(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    before = workers(server)
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(before.pop(), signal.SIGKILL)
    os.kill(server.pid, signal.SIGHUP)
    os.kill(server.pid, signal.SIGCONT)
    assert kernel.eventually(lambda: not before & kernel.children(server.pid))
    assert len(workers(server)) == 2
    assert survives(server)


@pytest.mark.parametrize('stage', GRACEFUL)
@pytest.mark.parametrize('again', [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_off_what_the_first_one_lets_finish(serve, stage, again):
    server = serve(stage, 'wsgi_probes:app', env={'WORKERS': '1'})
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/stuck'))
            assert kernel.eventually(lambda: noted(server, 'waiting'))
            for signum in signal.SIGTERM, again:
                for pid in [server.pid, *workers(server)]:
                    os.kill(pid, signum)
                server.let_rest()
        reply = read_reply(client, server)
        assert (reply.status, reply.body) == (200, b'returned')
    assert server.popen.wait(kernel.LIMIT) == 0


@pytest.mark.parametrize('stage', THREADED)
@pytest.mark.parametrize('last', ['return [b"x"]', 'yield b"x"'])
def test_a_child_of_the_application_that_returns_answers_nobody(serve, stage, last, tmp_path):
    source = (
        'import os\n'
        'def app(environ, start_response):\n'
        '    if os.fork():\n'
        '        os.wait()\n'
        '    start_response("200 OK", [])\n'
        f'    {last}\n')
    server = with_app(serve, stage, tmp_path, source)
    with connect(server) as client:
        client.sendall(GET)
        first = read_reply(client, server)
        assert (first.status, first.body, first.data.count(b'HTTP/1.1 ')) == (200, b'x', 1)


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_child_of_the_application_has_no_part_in_the_signals_of_its_worker(serve, stage, tmp_path):
    source = (
        'import multiprocessing, time\n'
        'def run(pipe):\n'
        '    pipe.send("it runs")\n'
        '    time.sleep(60)\n'
        'def app(environ, start_response):\n'
        '    ours, theirs = multiprocessing.Pipe()\n'
        '    child = multiprocessing.get_context("fork").Process(target=run, args=(theirs,))\n'
        '    child.start()\n'
        '    ours.recv()\n'
        '    child.terminate()\n'
        '    child.join(10)\n'
        '    start_response("200 OK", [])\n'
        '    return [str(child.exitcode).encode()]\n')
    server = with_app(serve, stage, tmp_path, source)
    before = workers(server)
    assert get(server, '/').body == b'-15'
    assert workers(server) == before


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_signal_to_a_new_worker_is_none_to_its_supervisor(serve, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, time\n'
        'def pause():\n'
        f'    while os.path.exists({str(tmp_path / "pause")!r}):\n'
        '        time.sleep(0.01)\n'
        'os.register_at_fork(after_in_child=pause)\n')
    server = with_app(serve, stage, tmp_path, REPLY % 'one')
    old = workers(server)
    (tmp_path / 'pause').touch()
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: kernel.children(server.pid) - old)
    (new,) = kernel.children(server.pid) - old
    os.kill(new, signal.SIGTERM)
    server.let_rest()
    (tmp_path / 'pause').unlink()
    server.wait_for_output(f'worker {new} has ended: -15')
    assert get(server, '/').body == b'one'


@pytest.mark.parametrize('stage', GRACEFUL)
def test_another_sighup_helps_where_the_new_worker_hangs(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, REPLY % 'one')
    (tmp_path / 'own.py').write_text('import time\ntime.sleep(600)\n')
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: len(kernel.children(server.pid)) == 2)
    server.let_rest()
    (tmp_path / 'own.py').write_text(REPLY % 'another')
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: get(server, '/').body == b'another')


@pytest.mark.parametrize('stage', GRACEFUL)
def test_a_stop_ends_in_time_though_an_application_lets_no_thread_run(serve, stage, tmp_path):
    server = with_app(serve, stage, tmp_path, HOLDS_THE_LOCK, STOP_TIMEOUT='0.2')
    (worker,) = workers(server)
    with connect(server) as client:
        client.sendall(GET)
        assert kernel.eventually(lambda: kernel.activity([worker])[1] > 0.5)
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
        assert not kernel.alive(worker)


ON_A_TERMINAL = (  # which does not control it, as of a command that is in the background
    'import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), 0); '
    'os.execv(sys.executable, [sys.executable, *sys.argv[2:]])')


@pytest.mark.parametrize('stage', GRACEFUL)
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


@pytest.mark.parametrize('stage', STAGES[5:])
def test_a_close_that_fails_does_not_mix_up_replies(serve, stage):
    server = serve(stage, 'breaks_promises:app', env=WITH_TEST_APPS)
    with connect(server) as client:
        client.sendall(asking('GET', '/fail-to-close') + asking('GET', '/no-content'))
        assert read_next(client, server).body == b'x' * 200_000
