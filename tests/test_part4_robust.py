"""Part 4: what no application, no client, no signal and no parent may do to a server."""
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from common.stages import ROOT, find_stage
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, asking, connect, get, read_next, read_reply, readable, request
from laboratory.instruments.process import ServerProcess, server_path
from laboratory.instruments.wsgi import CHUNKED, fifo, noted, survives
from tests.helpers import (
    GET,
    LIMITED,
    LINUX,
    LOOPS,
    RELOADING,
    STOPPING,
    SUPERVISED,
    TURNS,
    altered,
    sending,
    wait_for_output,
    wait_for_the_application,
    workers,
)

PATH = os.pathsep.join([str(ROOT / 'tests/apps'), server_path('on')])


def after(preparation, stage, app='wsgi_probes:app', **env):
    """A ServerProcess in whose process this Python is run before that of the server."""
    code = f'import os, signal, sys; {preparation}; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'
    command = [sys.executable, '-c', code, find_stage(stage).server, app]
    return ServerProcess(command, env={'PYTHONPATH': PATH, 'WORKERS': '1', **env})


def fill(pipe):
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b'x')


@pytest.mark.parametrize('stage', LIMITED)
@pytest.mark.parametrize('path', ['/raise-a-strange-syntax-error', '/raise-without-standard-error'])
def test_an_error_that_cannot_be_printed_gets_its_500_too(serve, stage, path):
    server = serve(stage, 'misbehaves:app', WORKERS='1')
    for _ in range(3):
        with sending(server, request('GET', path)) as client:
            assert readable(client, kernel.LIMIT)
            assert read_reply(client, server).status == 500
    assert survives(server)


@pytest.mark.parametrize('stage', TURNS)
def test_an_error_that_takes_long_to_print_holds_up_nobody_and_ends_its_worker(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1', APP_TIMEOUT='2')
    (worker,) = workers(server)
    with fifo(server), sending(server, request('GET', '/raise-what-is-slow-to-print')):
        wait_for_output(server, 'waiting')
        assert survives(server) and kernel.alive(worker)
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)


@pytest.mark.parametrize('stage', SUPERVISED)
@pytest.mark.parametrize('preparation', [
    'os.fork() or os._exit(3); os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)',
    'os.fork() or os.execvp("sleep", ["sleep", "60"])',
    'signal.signal(signal.SIGCHLD, signal.SIG_IGN)'], ids=['has ended', 'ends later', 'SIGCHLD is ignored'])
def test_children_that_a_server_did_not_fork_do_not_concern_it(stage, preparation):
    with after(preparation, stage) as server:
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        wait_for_output(server, 'has ended')
        assert survives(server)


@pytest.mark.parametrize(('stage', 'signum'), [
    *[(stage, signal.SIGTERM) for stage in STOPPING], *[(stage, signal.SIGHUP) for stage in RELOADING]])
def test_idle_workers_end_at_once_whatever_their_time_limits(serve, stage, signum):
    server = serve(stage, 'wsgiapp:app', APP_TIMEOUT='3000', STOP_TIMEOUT='300')
    before = workers(server)
    os.kill(server.pid, signum)
    assert kernel.eventually(lambda: not before & kernel.children(server.pid))


@pytest.mark.parametrize('stage', LOOPS)
def test_a_reply_is_whole_though_the_client_sends_a_blank_line_before_it_ends(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/stuck'))
            wait_for_the_application(server)
            client.sendall(b'\r\n')
        reply = read_reply(client, server)
        assert (reply.body, reply.end) == (b'returned', FIN)


@pytest.mark.parametrize('stage', LOOPS)
def test_a_connection_ends_though_the_application_has_left_a_child(serve, stage):
    server = serve(stage, 'misbehaves:app')
    with fifo(server):
        assert get(server, '/leave-a-child').end == FIN


@pytest.mark.parametrize('stage', STOPPING)
def test_ctrl_c_is_not_lost_while_a_worker_is_forked(serve, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import ctypes, functools, os, pathlib, signal\n'
        'signum = ctypes.c_int(0)  # kill() does nothing with it\n'
        'def look():\n'
        '    signum.value = signal.SIGINT * pathlib.Path(__file__).with_name("now").exists()\n'
        'kill = functools.partial(ctypes.CDLL(None).kill, os.getpid(), signum)  # no Python runs in it\n'
        'os.register_at_fork(before=look, after_in_parent=kill)\n')
    server = serve(stage, 'wsgiapp:app')
    one, other = workers(server)
    (tmp_path / 'now').touch()
    os.kill(one, signal.SIGKILL)
    assert server.popen.wait(kernel.LIMIT) == 0
    assert not kernel.alive(other)


@pytest.mark.parametrize('stage', STOPPING)
def test_who_was_told_keep_alive_may_send_another_request_though_a_stop_begins(with_times, stage):
    server = with_times(stage, {'LINGER': 20}, WORKERS='1', STOP_TIMEOUT='20')
    with connect(server) as client:
        with fifo(server):
            client.sendall(asking('GET', '/write-wait-and-return'))
            reply = read_next(client, server)
            assert reply.values('Connection') == ['keep-alive']
            os.kill(server.pid, signal.SIGTERM)
            assert kernel.eventually(lambda: server.port not in kernel.ports(server.pid))
            server.let_rest()
        client.sendall(asking('GET', '/'))
        last = read_reply(client, server)
        assert (last.status, last.values('Connection'), last.end) == (200, ['close'], FIN)


@pytest.mark.parametrize('stage', RELOADING)
def test_a_broken_reload_leaves_the_worker_of_the_good_one_before(serve, stage, tmp_path):
    def reload(text):
        (tmp_path / 'own.py').write_text(text)
        os.kill(server.pid, signal.SIGHUP)

    (tmp_path / 'own.py').write_text('from wsgi_probes import app\n')
    server = serve(stage, 'own:app', WORKERS='1')
    (old,) = workers(server)
    with fifo(server), sending(server, request('GET', '/stuck')):
        wait_for_the_application(server)
        reload('from misbehaves import app\n')
        assert kernel.eventually(lambda: get(server, '/').body == b'x')
        reload('no Python\n')
        wait_for_output(server, 'SyntaxError')
        assert old in kernel.children(server.pid)
        assert get(server, '/').body == b'x'


@pytest.mark.parametrize('stage', RELOADING)
def test_a_reload_goes_on_though_an_old_worker_does_not_end(serve, stage):
    server = serve(stage, 'wsgiapp:app', STOP_TIMEOUT='0.3')
    before = workers(server)
    kernel.suspend(before)
    os.kill(server.pid, signal.SIGHUP)
    assert kernel.eventually(lambda: not before & kernel.children(server.pid))


@pytest.mark.parametrize('stage', TURNS)
def test_an_application_is_ended_though_nobody_reads_standard_error(stage, tmp_path):
    os.mkfifo(path := tmp_path / 'full')
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fill(end)
    with after(f'os.dup2(os.open({str(path)!r}, os.O_WRONLY), 2)', stage, APP_TIMEOUT='0.3') as server:
        (worker,) = workers(server)
        with fifo(server), sending(server, request('GET', '/stuck')):
            assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)
    os.close(end)


@pytest.mark.parametrize('stage', LIMITED)
def test_a_server_whose_standard_streams_are_closed_sends_no_client_what_it_prints(stage):
    with after('os.closerange(0, 3)', stage, APP_TIMEOUT='0.5') as server:
        assert b'"wsgi.errors": null' not in get(server, '/').body
        with fifo(server), sending(server, request('GET', '/stuck')) as client:
            assert readable(client, kernel.LIMIT)
            assert read_reply(client, server).data == b''


@pytest.mark.parametrize('stage', STOPPING)
def test_the_time_in_which_a_server_was_stopped_is_not_that_of_its_application(serve, stage):
    server = serve(stage, 'wsgi_probes:app', WORKERS='1', APP_TIMEOUT='2')
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/stuck'))
            wait_for_the_application(server)
            kernel.suspend(server.processes())
            time.sleep(2.5)  # until the time of the application would be over
            kernel.resume(server.processes())
            server.let_rest()
        assert read_reply(client, server).body == b'returned'


@pytest.mark.parametrize('stage', LIMITED)
@pytest.mark.parametrize('alone', [False, True], ids=['supervised', 'alone'])
def test_an_application_that_waits_with_the_lock_of_the_interpreter_is_ended(serve, stage, alone):
    server = serve(stage, 'misbehaves:app', WORKERS='1', APP_TIMEOUT='0.5')
    (worker,) = workers(server)
    with sending(server, request('GET', '/sleep-with-the-lock')):
        wait_for_output(server, 'waiting')
        if alone:
            os.kill(server.pid, signal.SIGKILL)
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)


@pytest.mark.parametrize('stage', LOOPS)
def test_a_client_that_sends_much_holds_up_nobody(serve, stage):
    crumbs = request('POST', '/', CHUNKED) + b'1\r\nx\r\n' * 1_000_000 + b'0\r\n\r\n'
    server = serve(stage, 'misbehaves:app', WORKERS='1', REQUEST_TIMEOUT='60')
    kernel.suspend(workers(server))
    with connect(server) as busy, sending(server, GET) as client:
        sender = threading.Thread(target=busy.sendall, args=[crumbs])
        sender.start()
        try:
            assert kernel.eventually(lambda: not select.select([], [busy], [], 0)[1])  # all buffers are full
            kernel.resume(kernel.children(server.pid))
            answered, _, _ = select.select([busy, client], [], [], kernel.LIMIT)
            assert answered == [client]
        finally:
            sender.join()


@pytest.mark.parametrize('stage', TURNS)
def test_a_worker_that_can_call_no_application_now_leaves_new_clients_to_its_neighbour(serve, stage):
    server = serve(stage, 'wsgi_probes:app', THREADS='1')
    with fifo(server), sending(server, request('GET', '/stuck')), contextlib.ExitStack() as stack:
        wait_for_the_application(server)
        idle = workers(server) - {int(noted(server, 'waiting')[0])}
        kernel.suspend(idle)
        clients = [stack.enter_context(sending(server, GET)) for _ in range(5)]
        server.let_rest()
        kernel.resume(idle)
        assert all(readable(client, kernel.LIMIT) for client in clients)


def on_its_way(pid):
    """Whether a signal was sent to a process that has not got it, and does not hold it back."""
    pending, held = (int(kernel.value(f'/proc/{pid}/status', name), 16) for name in ('ShdPnd', 'SigBlk'))
    return pending & ~held


@LINUX
@pytest.mark.parametrize('stage', RELOADING)
def test_sigterm_is_heeded_after_hundreds_of_other_signals(serve, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, pathlib, time\n'
        'waitpid, pause = os.waitpid, pathlib.Path(__file__).with_name("pause")\n'
        'def slow_waitpid(*arguments):\n'
        '    while pause.exists():\n'
        '        time.sleep(0.01)\n'
        '    return waitpid(*arguments)\n'
        'os.waitpid = slow_waitpid\n')
    server = serve(stage, 'wsgiapp:app', WORKERS='1')
    (worker,) = workers(server)
    (tmp_path / 'pause').touch()
    os.kill(worker, signal.SIGKILL)
    server.let_rest()
    for signum in [signal.SIGHUP] * 400 + [signal.SIGTERM]:
        os.kill(server.pid, signum)
        assert kernel.eventually(lambda: not on_its_way(server.pid))  # or the next one would be none
    (tmp_path / 'pause').unlink()
    assert server.popen.wait(kernel.LIMIT) == 0


@pytest.mark.parametrize('stage', STOPPING)
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_that_is_ended_while_it_starts_leaves_no_process(stage, signum, tmp_path):
    def open_when_the_application_reads():
        with contextlib.suppress(OSError):
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    os.mkfifo(path := tmp_path / 'fifo')
    (tmp_path / 'own.py').write_text(f'open({str(path)!r}).read()\n')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path), 'PORT': '0'}
    server = subprocess.Popen([sys.executable, find_stage(stage).server, 'own:app'], cwd=ROOT, env=env)
    end = kernel.eventually(open_when_the_application_reads)
    family = [server.pid, *kernel.children(server.pid)]
    server.send_signal(signum)
    server.wait(kernel.LIMIT)
    try:
        assert kernel.eventually(lambda: not any(map(kernel.alive, family)), 3)
    finally:
        os.close(end)


@pytest.mark.parametrize('stage', RELOADING)
@pytest.mark.parametrize('line', ['import nosuch', 'raise SystemExit(0)'])
def test_a_server_does_not_start_whose_application_cannot_be_loaded(stage, line, tmp_path):
    (tmp_path / 'own.py').write_text(f'{line}\n')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path), 'PORT': '0'}
    command = [sys.executable, find_stage(stage).server, 'own:app']
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=kernel.LIMIT)
    assert (ended.returncode, ended.stdout) == (1, '')
    assert ("No module named 'nosuch'" in ended.stderr) == ('nosuch' in line)


@pytest.mark.parametrize('stage', LOOPS)
def test_an_empty_host_is_not_the_whole_network(serve, stage):
    server = serve(stage, 'wsgiapp:app', HOST='')
    assert {end.laddr.ip for end in psutil.Process(server.pid).net_connections('tcp')} == {'127.0.0.1'}


@pytest.mark.parametrize('stage', TURNS)
def test_a_server_that_may_have_no_thread_has_one(serve, stage):
    assert survives(serve(stage, 'wsgiapp:app', THREADS='0'))


@pytest.mark.parametrize('stage', STOPPING)
def test_half_a_reply_that_only_the_end_would_show_is_reset_when_a_stop_takes_too_long(serve, stage):
    server = serve(stage, 'wsgi_probes:app', WORKERS='1', STOP_TIMEOUT='0.3')
    with fifo(server), sending(server, b'GET /wait HTTP/1.0\r\n\r\n') as client:
        assert readable(client, kernel.LIMIT)
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
        assert read_reply(client, server).end == 'RST'


@pytest.mark.parametrize('stage', LIMITED)
def test_what_is_told_of_a_bad_header_does_not_reach_the_terminal_as_it_is(serve, stage):
    server = serve(stage, 'misbehaves:app')
    assert get(server, '/escape-in-a-name').status == 500
    wait_for_output(server, 'ValueError')
    assert '\x1b' not in server.output()


@LINUX
@pytest.mark.parametrize('stage', LIMITED)
def test_a_reply_in_a_list_takes_no_more_than_twice_its_size(serve, stage):
    server = serve(stage, 'misbehaves:app', WORKERS='1')
    (worker,) = workers(server)
    before = int(kernel.value(f'/proc/{worker}/status', 'VmHWM'))  # kB, the most that it had
    assert len(get(server, '/megabytes').body) == 20_000_000
    assert int(kernel.value(f'/proc/{worker}/status', 'VmHWM')) - before < 30_000


@pytest.mark.parametrize('stage', TURNS)
def test_an_application_with_a_handler_for_sigalrm_is_ended_too(serve, stage, tmp_path):
    (tmp_path / 'own.py').write_text(
        'import signal\nfrom wsgi_probes import app\nsignal.signal(signal.SIGALRM, lambda *_: None)\n')
    server = serve(stage, 'own:app', WORKERS='1', APP_TIMEOUT='0.3')
    (worker,) = workers(server)
    with fifo(server), sending(server, request('GET', '/stuck')):
        assert kernel.eventually(lambda: not kernel.alive(worker), server.patience)


@pytest.mark.parametrize('stage', RELOADING)
def test_sighup_does_not_end_a_server_that_starts(serve, stage, tmp_path):
    (tmp_path / 'wait').touch()
    (tmp_path / 'own.py').write_text(
        'import os, time\nfrom wsgi_probes import app\n'
        f'while os.path.exists({str(tmp_path / "wait")!r}):\n    time.sleep(0.01)\n')
    server = serve(stage, 'own:app', WORKERS='1')
    assert kernel.eventually(lambda: kernel.children(server.pid))
    server.let_rest()
    os.kill(server.pid, signal.SIGHUP)
    server.let_rest()
    (tmp_path / 'wait').unlink()
    assert kernel.eventually(lambda: survives(server), server.patience)


@pytest.mark.parametrize('stage', STOPPING)
def test_a_supervisor_goes_on_though_nobody_reads_standard_output(stage, tmp_path):
    os.mkfifo(path := tmp_path / 'full')
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with after(f'os.dup2(os.open({str(path)!r}, os.O_WRONLY), 1)', stage) as server:
        (worker,) = workers(server)
        fill(end)
        os.kill(worker, signal.SIGKILL)
        assert kernel.eventually(lambda: kernel.children(server.pid) - {worker})
        os.kill(server.pid, signal.SIGTERM)
        assert server.popen.wait(kernel.LIMIT) == 0
    os.close(end)


@pytest.mark.parametrize('stage', STOPPING)
def test_half_a_reply_that_only_the_end_would_show_is_reset_when_the_application_is_ended(serve, stage):
    server = serve(stage, 'wsgi_probes:app', WORKERS='1', APP_TIMEOUT='0.5')
    with fifo(server), sending(server, b'GET /wait HTTP/1.0\r\n\r\n') as client:
        assert readable(client, kernel.LIMIT)
        assert client.recv(65536)
        assert readable(client, kernel.LIMIT)
        assert read_reply(client, server).end == 'RST'


@LINUX
@pytest.mark.parametrize('stage', SUPERVISED)
def test_a_server_that_is_process_1_leaves_no_zombies_of_its_application(stage):
    reaps_orphans = 'import ctypes; ctypes.CDLL(None).prctl(36, 1)'  # PR_SET_CHILD_SUBREAPER, as process 1 is
    with after(reaps_orphans, stage, app='misbehaves:app') as server:
        (worker,) = workers(server)
        orphan = int(get(server, '/leave-an-orphan').body)
        assert kernel.eventually(lambda: kernel.status(orphan) == 'gone')
        assert worker in kernel.children(server.pid)


@pytest.mark.parametrize('stage', TURNS)
def test_a_time_limit_may_be_as_long_as_one_likes(serve, stage):
    server = serve(stage, 'misbehaves:app', IDLE_TIMEOUT='inf', SEND_TIMEOUT='1e9', APP_TIMEOUT='inf')
    assert len(get(server, '/fail-to-close-a-stream').body) == 10_000_000


@pytest.mark.parametrize('stage', TURNS)
def test_another_thread_is_tried_when_the_system_had_none(serve, stage, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import _thread, pathlib\n'
        'now = pathlib.Path(__file__).with_name("now")\n'
        'def unless_now(start):\n'
        '    def start_unless_now(*arguments, **others):\n'
        '        if now.exists():\n'
        '            now.unlink()\n'
        '            raise RuntimeError\n'
        '        return start(*arguments, **others)\n'
        '    return start_unless_now\n'
        'for name in {"start_new_thread", "start_joinable_thread"} & {*dir(_thread)}:\n'  # 3.13 has both
        '    setattr(_thread, name, unless_now(getattr(_thread, name)))\n')
    server = serve(stage, 'wsgi_probes:app', WORKERS='1')
    wait_for_output(server, 'Serving')
    (tmp_path / 'now').touch()
    with fifo(server), sending(server, request('GET', '/stuck')):
        wait_for_the_application(server)
        assert survives(server)
        assert not (tmp_path / 'now').exists()


@pytest.mark.parametrize('stage', RELOADING)
def test_a_new_worker_finishes_what_it_has_begun_though_another_reload_comes_at_once(serve, stage, tmp_path):
    (pause := tmp_path / 'pause').touch()
    late = rf'while self.has_started and os.path.exists({str(pause)!r}):\n{" " * 12}time.sleep(0.01)\n'
    stage = altered(stage, tmp_path, (r'( +)self\.sign\[1\] = 1', rf'\1{late}\g<0>'))
    server = serve(stage, 'wsgi_probes:app', WORKERS='1')
    old = workers(server)
    kernel.suspend(old)
    os.kill(server.pid, signal.SIGHUP)
    with connect(server) as client:
        with fifo(server):
            client.sendall(request('GET', '/stuck'))
            wait_for_the_application(server)
            os.kill(server.pid, signal.SIGHUP)
            server.let_rest()
        assert read_reply(client, server).body == b'returned'
    kernel.resume(old)
