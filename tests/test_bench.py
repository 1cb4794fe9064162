"""make bench: what it reads, counts and writes. How fast a server is, no test says."""
import shutil
import subprocess
import sys

import pytest

from common.stages import stages_of
from laboratory.instruments import kernel, servers
from laboratory.instruments.client import FIN, OPEN, connect, fetch, read_next, request
from laboratory.instruments.process import ServerProcess


@pytest.fixture
def linux(tool):
    """linux('wrk') skips the test on other systems, and where that command is missing."""
    def need(*names):
        if not kernel.LINUX:
            pytest.skip('make bench runs on Linux alone')
        for name in names:
            tool(name)
    return need


USES_CPU = """
import os, socket, time
def work():
    while time.process_time() < 0.3:
        pass
    os._exit(0)
waited_for, zombie = os.fork() or work(), os.fork() or work()
os.waitpid(waited_for, 0)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
listener = socket.create_server(('127.0.0.1', 0))
print('ready', flush=True)
listener.accept()
"""


def test_the_cpu_time_of_children_that_have_ended_is_counted_waited_for_or_not(linux):
    linux()
    with ServerProcess([sys.executable, '-c', USES_CPU]) as server:
        server.wait_for_output('ready')
        assert kernel.cpu_time(server.family()) >= 0.6


SHARES_MEMORY = """
import os, socket
pages, size = bytearray(b'x') * 50_000_000, 50_000_000
listener = socket.create_server(('127.0.0.1', 0))
for _ in range(3):
    if os.fork() == 0:
        break
listener.accept()
"""


def test_memory_that_processes_share_is_counted_once(linux):
    linux()
    with ServerProcess([sys.executable, '-c', SHARES_MEMORY]) as server:
        server.let_rest()
        assert len(server.processes()) == 4
        assert 50e6 < kernel.memory(server.processes()) < 150e6


def test_a_process_that_has_ended_has_used_nothing(linux):
    linux()
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    assert (kernel.cpu_time([ended.pid]), kernel.memory([ended.pid])) == (0, 0)


@pytest.fixture
def in_c(linux):
    """The server in C, running."""
    linux('cc')
    with servers.limit() as (server,), server.start(2) as process:
        yield process


def test_the_server_in_c_answers_on_a_connection_until_it_is_told_to_close(in_c):
    last = request('GET', '/')
    first = last.replace(b'close', b'keep-alive')
    with connect(in_c) as client:
        client.sendall(first + first[:20])
        reply = read_next(client, in_c)
        assert (reply.status, reply.body, reply.end) == (200, b'Hello, World!\n', OPEN)
        client.sendall(first[20:] + last)
        reply = read_next(client, in_c)
        assert reply.values('Connection') == []
        assert read_next(client, in_c, before=reply.extra).values('Connection') == ['close']
    assert fetch(in_c, last).end == FIN
    assert fetch(in_c, b'GET / HTTP/1.0\r\n\r\n').end == FIN
    assert fetch(in_c, b'x' * 8191).status == 0


def test_without_a_compiler_the_server_in_c_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with servers.limit() as found:
        assert found == []
    assert capsys.readouterr().err == ('C epoll is left out, since cc cannot compile it here: '
                                       'apt install gcc libc6-dev\n')


def test_every_stage_is_measured_or_it_is_said_why_not():
    names = [server.name for server in servers.stages()]
    assert names == [stage.name for stage in [*stages_of('part3'), *stages_of('part4')]]
    assert set(servers.UNMEASURED) <= set(names)
