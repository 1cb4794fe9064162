"""Part 3: descriptors, zombies, EINTR and lost signals, with exact figures."""
import contextlib
import ctypes
import errno
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from common.stages import ROOT, all_stages, find_stage
from laboratory.experiments.part2 import reset_while_asking, reset_while_silent
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, REQUEST, ask, connect, exchange, read_reply
from laboratory.instruments.process import SET_CHILD_SUBREAPER, ServerProcess, free_port

STAGES = [stage.name for stage in all_stages() if stage.name.startswith('part3')]
FORKING = STAGES[1:]
HANDLING = STAGES[3:]
REPLY = b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n'
LEAKING, CURED = 'part3-v1.1-fd-leak', 'part3-v1.1'

linux_only = pytest.mark.skipif(sys.platform != 'linux', reason='shown with tools that only Linux has')


def answer(server):
    """Be one client from beginning to end; return the reply."""
    return exchange(server).data


def tcp_states(port):
    """The states of the connections to the server: (on its side, on the client's side)."""
    lines = subprocess.check_output(['ss', '-tanH', f'( sport = :{port} or dport = :{port} )'], text=True)
    rows = [line.split() for line in lines.splitlines() if not line.startswith(('LISTEN', 'TIME-WAIT'))]
    sides = {row[3].endswith(f':{port}'): row[0] for row in rows}
    return sides.get(True), sides.get(False)


@pytest.mark.parametrize('stage', STAGES)
def test_every_stage_greets(serve, stage):
    assert answer(serve(stage)) == REPLY


@pytest.mark.parametrize('hang_up', [reset_while_silent, reset_while_asking])
@pytest.mark.parametrize('stage', STAGES)
def test_a_client_that_resets_is_survived(serve, stage, hang_up):
    server = serve(stage)
    hang_up(server)
    assert answer(server) == REPLY
    assert 'Traceback' not in server.output()


@pytest.mark.parametrize('stage', STAGES)
def test_output_redirected_to_a_file_is_complete(serve, stage):
    server = serve(stage)
    answer(server)
    server.let_rest()
    os.kill(server.pid, signal.SIGKILL)  # so that nothing is flushed on the way out
    first, *rest = server.output().splitlines()
    assert first == f'Serving HTTP on port {server.port} ...'
    assert REQUEST.decode().splitlines() == rest[:4]


def test_v1_0_lets_a_second_client_connect_but_not_be_answered(serve):
    server = serve('part3-v1.0')
    with connect(server), connect(server) as second:
        assert second.getpeername() == ('127.0.0.1', server.port)
        assert ask(second, server) == b''


@pytest.mark.parametrize('stage', FORKING)
def test_the_child_is_a_child_of_the_server_and_fork_returned_its_pid(serve, stage):
    server = serve(stage)
    with connect(server), connect(server):
        server.wait_until(lambda: len(kernel.children(server.pid)) == 2)
        children = kernel.children(server.pid)
        assert len(children) == 2
        assert {psutil.Process(child).ppid() for child in children} == {server.pid}


@linux_only
def test_the_leak_keeps_the_connection_established_then_half_closed(serve, tool):
    tool('ss')
    server = serve(LEAKING)
    with connect(server) as client:
        assert ask(client, server) == REPLY
        assert tcp_states(server.port) == ('ESTAB', 'ESTAB')
    half_closed = ('CLOSE-WAIT', 'FIN-WAIT-2')
    assert server.wait_until(lambda: tcp_states(server.port) == half_closed)


def test_the_leak_lets_curl_hang_after_the_greeting(serve, tool):
    server = serve(LEAKING)
    url = f'http://localhost:{server.port}/hello'
    curl = subprocess.run([tool('curl'), '-s', '--max-time', '0.5', url], capture_output=True)
    assert (curl.stdout, curl.returncode) == (b'Hello, World!\n', 28)  # 28: CURLE_OPERATION_TIMEDOUT


def test_the_leak_ends_the_server_under_a_limit_of_64_descriptors(serve):
    server = serve(LEAKING, limit=64)
    with pytest.raises(ConnectionError):
        for _ in range(64):
            answer_or_reset(server)
    assert server.popen.wait(kernel.LIMIT) == 1
    assert 'OSError: [Errno 24] Too many open files' in server.output()


def answer_or_reset(server):
    """Be a client that does not wait for FIN, which the leak never sends."""
    with connect(server) as client:
        client.sendall(REQUEST)
        if not client.recv(1024):
            raise ConnectionError


def test_v1_1_keeps_serving_under_the_same_limit(serve):
    server = serve(CURED, limit=64)
    for _ in range(100):
        answer_or_reset(server)


@pytest.mark.parametrize('requests', [1, 5])
def test_v1_1_leaves_a_zombie_for_every_request(serve, requests):
    server = serve(CURED)
    for _ in range(requests):
        answer(server)
    server.wait_until(lambda: len(kernel.zombies(kernel.children(server.pid))) == requests)
    assert len(kernel.zombies(kernel.children(server.pid))) == len(kernel.children(server.pid)) == requests


def test_kill_9_does_not_remove_a_zombie(serve):
    server = serve(CURED)
    answer(server)
    server.wait_until(lambda: kernel.zombies(kernel.children(server.pid)))
    (zombie,) = kernel.zombies(kernel.children(server.pid))
    os.kill(zombie, signal.SIGKILL)
    server.let_rest()
    assert kernel.zombies(kernel.children(server.pid)) == {zombie}


@linux_only
def test_the_zombies_of_a_dead_parent_are_reaped_by_the_one_that_inherits_them(serve):
    server = serve(CURED)
    answer(server)
    server.wait_until(lambda: kernel.zombies(kernel.children(server.pid)))
    (zombie,) = kernel.zombies(kernel.children(server.pid))
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    try:
        server.stop()
        assert psutil.Process(zombie).ppid() == os.getpid()
        assert os.waitpid(zombie, 0) == (zombie, 0)
    finally:
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0)
    assert kernel.status(zombie) == 'gone'


@pytest.mark.skipif(os.getuid() != 0, reason='runs the server as nobody, which takes root')
def test_zombies_use_up_the_processes_a_user_may_have():
    limit = 20
    start = (f'import os, resource, socket\n'
             f'resource.setrlimit(resource.RLIMIT_NPROC, ({limit}, {limit}))\n'
             f'os.setuid(65534)\n'
             f'exec(open("part3/v1.1/server.py").read())')
    with ServerProcess([sys.executable, '-c', start]) as server:
        with pytest.raises(ConnectionError):
            for _ in range(limit + 1):
                answer_or_reset(server)
        assert server.popen.wait(kernel.LIMIT) == 1
        assert f'BlockingIOError: [Errno {errno.EAGAIN}] Resource temporarily unavailable' in server.output()
        assert server.output().count('GET /hello') > 10


@pytest.mark.skipif(os.getuid() != 0, reason='runs the server as nobody, which takes root')
def test_final_ends_where_the_kernel_has_no_process_for_a_client():
    start = ('import contextlib, os, resource, signal, socket\n'
             'resource.setrlimit(resource.RLIMIT_NPROC, (5, 5))\n'
             'os.setuid(65533)\n'  # which nobody else uses here
             'exec(open("part3/final/server.py").read())')
    with ServerProcess([sys.executable, '-c', start]) as server:
        with contextlib.suppress(ConnectionError):
            for _ in range(6):
                server.until_end.enter_context(connect(server))
        assert server.popen.wait(kernel.LIMIT) == 1
        assert f'BlockingIOError: [Errno {errno.EAGAIN}]' in server.output()


@pytest.mark.parametrize('stage', HANDLING)
def test_the_parent_outlives_a_report_that_it_cannot_print(stage):
    command = f'{sys.executable} {find_stage(stage).server} | head -1'
    with ServerProcess(['sh', '-c', command]) as server:
        for _ in range(3):
            exchange(server)
            server.let_rest()
        assert not server.has_ended()
        assert 'Traceback' not in server.output()


def test_v1_2_as_it_is_survives_the_signal(serve):
    server = serve('part3-v1.2')
    with connect(server) as client:
        server.let_rest()
        assert ask(client, server) == REPLY
    server.wait_for_output('get SIGCHLD from: ')
    assert answer(server) == REPLY


def test_v1_2_with_the_accept_of_python_2_ends_with_eintr(serve):
    server = serve('part3-v1.2', pep475='off')
    with connect(server) as client:
        server.let_rest()
        client.sendall(REQUEST)
        assert server.popen.wait(kernel.LIMIT) == 1
    assert server.output().splitlines()[-1] == 'InterruptedError: [Errno 4] Interrupted system call'


@linux_only
def test_the_kernel_still_interrupts_accept_and_python_calls_it_again(tool, tmp_path):
    trace = tmp_path / 'trace'
    strace = [tool('strace'), '-o', str(trace), '-e', 'trace=accept4', '-e', 'signal=SIGCHLD']
    with ServerProcess([*strace, sys.executable, 'part3/v1.2/server.py']) as server:
        with connect(server) as client:
            server.let_rest()
            assert ask(client, server) == REPLY
        server.wait_for_output('get SIGCHLD from: ')
        server.wait_for(lambda: trace.read_text().count('accept4(') == 3, 'call accept() again')
    calls = [line.split()[0] for line in trace.read_text().splitlines()]
    assert calls[:4] == ['accept4(3,', 'accept4(3,', '---', 'accept4(3,']
    assert 'ERESTARTSYS' in trace.read_text().splitlines()[1]


@pytest.mark.parametrize('stage', HANDLING)
def test_every_reaped_child_is_reported(serve, stage):
    server = serve(stage)
    children = []
    for _ in range(3):
        with connect(server) as client:
            server.wait_until(lambda: kernel.children(server.pid))
            children += kernel.children(server.pid)
            ask(client, server)
        server.wait_for_output(f'get SIGCHLD from: {children[-1]}\n')
    assert re.findall(r'get SIGCHLD from: (\d+)', server.output()) == [str(child) for child in children]


def test_all_128_clients_of_the_article_are_answered(serve):
    server = serve('part3-v1.3')
    options = ['--port', str(server.port), '--max-clients', '128', '--hold', '0']
    run = subprocess.run([sys.executable, 'common/client.py', *options],
                         cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == '128 clients with 1 connection each: 128 connected, 128 answered, 0 refused\n'
    assert run.returncode == 0
    assert answer(server) == REPLY
    assert 'Traceback' not in server.output()
    server.let_rest()
    reaped = set(re.findall(r'get SIGCHLD from: (\d+)', server.output()))
    assert len(reaped) + len(kernel.zombies(kernel.children(server.pid))) == 129


@pytest.mark.parametrize('stage', FORKING)
def test_a_child_that_outlives_its_parent_does_not_keep_the_port(serve, stage):
    server = serve(stage, env={'PORT': str(free_port())})
    with connect(server) as client:
        server.wait_until(lambda: kernel.children(server.pid))
        server.let_rest()  # the child has closed its copy of the listening socket
        os.kill(server.pid, signal.SIGKILL)
        server.popen.wait(kernel.LIMIT)
        again = [sys.executable, 'part3/final/server.py']
        with ServerProcess(again, env={'PORT': str(server.port)}) as successor:
            assert answer(successor) == REPLY
        client.sendall(REQUEST)
        assert read_reply(client, server)[:2] == (REPLY, FIN)


def test_a_stopped_child_that_goes_on_ends_v1_3(serve):
    """SIGCONT sends SIGCHLD again: two handlers wait for one child, and the second finds none."""
    server = serve('part3-v1.3')
    with connect(server) as client:
        server.wait_until(lambda: kernel.children(server.pid))
        (child,) = kernel.children(server.pid)
        os.kill(child, signal.SIGSTOP)
        server.let_rest()
        os.kill(child, signal.SIGCONT)
        server.let_rest()
        client.sendall(REQUEST)
        server.wait_for_output('ChildProcessError: [Errno 10] No child processes')
