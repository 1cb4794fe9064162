"""The load client."""
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from common.stages import ROOT
from laboratory.instruments import kernel

CLIENT = [sys.executable, 'common/client.py']


def run_client(*options):
    return subprocess.run([*CLIENT, *options], cwd=ROOT, text=True, capture_output=True, timeout=60)


@pytest.fixture
def holding_client(serve):
    """A client process that holds 3 x 2 connections, and the server's side."""
    server = serve('part3-v1.1')
    options = ['--port', str(server.port), '--max-clients', '3', '--max-conns', '2']
    client = subprocess.Popen([*CLIENT, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True)
    assert client.stdout.readline().endswith('6 connected, 6 answered, 0 refused\n')
    assert client.stdout.readline() == 'Holding the connections until Ctrl-C ...\n'
    yield client
    if client.poll() is None:
        os.killpg(client.pid, signal.SIGKILL)
    client.communicate()


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_connections_are_held_and_no_client_process_outlives_its_parent(holding_client, sent):
    clients = kernel.children(holding_client.pid)
    assert [len(psutil.Process(client).net_connections('tcp')) for client in clients] == [2, 2, 2]
    if sent == signal.SIGINT:
        os.killpg(holding_client.pid, sent)  # as Ctrl-C does
    else:
        os.kill(holding_client.pid, sent)
    output, _ = holding_client.communicate(timeout=10)
    assert output == ''
    assert holding_client.returncode == (0 if sent == signal.SIGINT else -sent)
    for client in clients:
        assert kernel.eventually(lambda client=client: kernel.status(client) in ('gone', 'zombie'))


def test_without_a_server_all_are_refused():
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        run = run_client('--port', str(unused.getsockname()[1]), '--max-clients', '2', '--max-conns', '3')
    assert run.stdout == (
        '2 clients with 3 connections each: 0 connected, 0 answered, 6 refused (Connection refused)\n')
    assert (run.returncode, run.stderr) == (1, '')


@pytest.mark.parametrize('options', [
    ['--max-clients', '0'], ['--max-conns', 'ten'], ['--port', '65536'], ['--hold', '-1'], ['--mick'],
    ['--max-clients', '101', '--max-conns', '100'],
])
def test_a_bad_option_is_reported(options):
    run = run_client(*options)
    assert run.returncode == 2
    assert run.stderr.startswith('client: ')
    assert run.stderr.count('\n') == 1
