"""Part 3: descriptors, zombies, EINTR and lost signals, with exact figures."""
import contextlib
import ctypes
import os
import random
import re
import shlex
import signal
import subprocess
import sys

import psutil
import pytest

from common.stages import find_stage
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, REFUSED, REQUEST, ask, connect, fetch, read_reply, reset
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import ServerProcess
from tests.helpers import ends, names, wait_for_output

STAGES = names('part3')
FORKING, HANDLING = ends(STAGES[1:]), ends(STAGES[3:])
REPLY = b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n'
LEAKING, CURED = 'part3-v1.1-fd-leak', 'part3-v1.1'
SET_CHILD_SUBREAPER = 36  # prctl(2)

linux_only = pytest.mark.skipif(sys.platform != 'linux', reason='shown with tools that only Linux has')
root_only = pytest.mark.skipif(os.getuid() != 0, reason='runs the server as another user, which takes root')


@linux_only
def test_the_leak_keeps_the_connection_established_then_half_closed(serve):
    server = serve(LEAKING)

    def states():
        return sorted(end.status for end, _ in kernel.connections(server.port))
    with connect(server) as client:
        assert ask(client, server) == REPLY
        assert states() == ['ESTABLISHED', 'ESTABLISHED']
    assert server.wait_until(lambda: states() == ['CLOSE_WAIT', 'FIN_WAIT2'])


@pytest.mark.parametrize(('stage', 'status'), [
    ('part1', 0), (CURED, 0), (LEAKING, 28)])  # 28: CURLE_OPERATION_TIMEDOUT
def test_the_leak_lets_curl_hang_after_the_greeting(serve, tool, stage, status):
    url, seconds = f'http://localhost:{serve(stage).port}/hello', '0.5' if status else '20'
    curl = subprocess.run([tool('curl'), '-s', '--max-time', seconds, url], capture_output=True)
    assert (curl.stdout, curl.returncode) == (b'Hello, World!\n', status)


@linux_only
def test_only_the_one_who_inherits_the_zombies_of_v1_1_removes_them(serve):
    server = serve(CURED)
    for _ in range(5):
        fetch(server, REQUEST)
    server.wait_until(lambda: len(kernel.zombies(kernel.children(server.pid))) == 5)
    zombies = kernel.zombies(kernel.children(server.pid))
    assert len(zombies) == 5
    for zombie in zombies:
        os.kill(zombie, signal.SIGKILL)
    server.let_rest()
    assert kernel.zombies(kernel.children(server.pid)) == zombies
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    try:
        server.stop()
        assert {psutil.Process(zombie).ppid() for zombie in zombies} == {os.getpid()}
        assert {os.waitpid(zombie, 0) for zombie in zombies} == {(zombie, 0) for zombie in zombies}
    finally:
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0)
    assert {kernel.status(zombie) for zombie in zombies} == {'gone'}


def under_a_limit(stage, processes):
    """The command of a server whose user, whom nobody else has here, may have so many processes."""
    taken = {process.info['uids'] and process.info['uids'].real for process in psutil.process_iter(['uids'])}
    user = random.choice([uid for uid in range(20_000, 60_000) if uid not in taken])
    return [sys.executable, '-c', 'import contextlib, os, resource, signal, socket, traceback\n'
            f'source = open({find_stage(stage).server!r}).read()\n'
            f'resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))\n'
            f'os.setuid({user})\n'
            'exec(source)']


@root_only
def test_zombies_use_up_the_processes_a_user_may_have():
    with ServerProcess(under_a_limit(CURED, 20)) as server:
        assert [fetch(server, REQUEST).end for _ in range(40)][-1] == REFUSED
        assert server.popen.wait(kernel.LIMIT) == 1
        assert 'BlockingIOError: [Errno 11] Resource temporarily unavailable' in server.output()
        assert server.output().count('GET /hello') > 10


@root_only
def test_final_ends_where_the_kernel_has_no_process_for_a_client():
    with ServerProcess(under_a_limit('part3-final', 5)) as server:
        with contextlib.suppress(ConnectionError):
            for _ in range(6):
                server.until_end.enter_context(connect(server))
        assert server.popen.wait(kernel.LIMIT) == 1
        assert 'BlockingIOError: [Errno 11]' in server.output()


@pytest.mark.parametrize('stage', HANDLING)
def test_the_parent_outlives_a_report_that_it_cannot_print(stage):
    command = shlex.join([sys.executable, find_stage(stage).server])
    with ServerProcess(['sh', '-c', f'{command} | head -1']) as server:
        for _ in range(3):
            fetch(server, REQUEST)
            server.let_rest()
        assert not server.has_ended()
        assert 'in handle_exit' not in server.output()  # while a child that cannot print ends of it


@pytest.mark.parametrize('stage', HANDLING)
def test_every_reaped_child_is_reported(serve, stage):
    server = serve(stage)
    children = []
    for _ in range(3):
        with connect(server) as client:
            server.wait_until(lambda: kernel.children(server.pid))
            children += kernel.children(server.pid)
            ask(client, server)
        wait_for_output(server, f'get SIGCHLD from: {children[-1]}\n')
    assert re.findall(r'get SIGCHLD from: (\d+)', server.output()) == [str(child) for child in children]


@pytest.mark.parametrize('stage', HANDLING)
def test_a_child_that_an_error_ends_is_reaped_as_any_other(serve, stage):
    server = serve(stage)
    with connect(server) as client:
        server.wait_until(lambda: kernel.children(server.pid))
        (child,) = kernel.children(server.pid)
        reset(client)
    wait_for_output(server, f'get SIGCHLD from: {child}\n')
    assert server.output().count('Traceback') == 1
    assert server.processes() == [server.pid]


@pytest.mark.parametrize('stage', FORKING)
def test_a_child_that_outlives_its_parent_does_not_keep_the_port(serve, stage):
    server = serve(stage, PORT=str(free_port()))
    with connect(server) as client:
        server.wait_for(lambda: kernel.children(server.pid), 'fork a child')
        server.let_rest()  # the child has closed its copy of the listening socket
        os.kill(server.pid, signal.SIGKILL)
        server.popen.wait(kernel.LIMIT)
        assert fetch(serve('part3-final', PORT=str(server.port)), REQUEST).data == REPLY
        client.sendall(REQUEST)
        assert read_reply(client, server)[:2] == (REPLY, FIN)


def test_a_stopped_child_that_goes_on_ends_v1_3(serve):
    """SIGCONT sends SIGCHLD again: two handlers wait for one child, and the second finds none."""
    server = serve('part3-v1.3')
    with connect(server) as client:
        server.wait_for(lambda: kernel.children(server.pid), 'fork a child')
        (child,) = kernel.children(server.pid)
        os.kill(child, signal.SIGSTOP)
        server.let_rest()
        os.kill(child, signal.SIGCONT)
        server.let_rest()
        client.sendall(REQUEST)
        wait_for_output(server, 'ChildProcessError: [Errno 10] No child processes')
