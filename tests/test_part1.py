"""Part 1: whatever is sent, the answer is Hello, World!"""
import socket
import subprocess

import pytest

from laboratory.instruments.client import FIN, REQUEST, connect, fetch, read_reply, reset_after
from tests.helpers import wait_for_output

REPLY = b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n'
CLIENTS = {
    'a request': b'GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n',
    'mick': b'mick\r\n',
    'TLS': bytes.fromhex('16030100c4010000c00303') + bytes(range(185)),
    'latin-1': 'é'.encode('latin-1'),
    'nothing': b'',
}


def test_every_client_gets_the_same_answer(shared):
    def answer(data):
        with connect(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_reply(client, server)[:2]

    server = shared('part1')
    assert {name: answer(data) for name, data in CLIENTS.items()} == dict.fromkeys(CLIENTS, (REPLY, FIN))


def test_it_prints_what_it_got(serve):
    server = serve('part1')
    fetch(server, b'mick \xff')
    wait_for_output(server, 'mick \\xff\n')
    assert server.output() == f'Serving HTTP on port {server.port} ...\nmick \\xff\n'


def test_telnet_shows_the_whole_reply(shared, tool):
    telnet = subprocess.Popen([tool('telnet'), 'localhost', str(shared('part1').port)], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    telnet.stdin.write('GET /hello HTTP/1.1\n')
    telnet.stdin.flush()
    shown = telnet.stdout.read()
    telnet.communicate()
    assert "Escape character is '^]'.\nHTTP/1.1 200 OK\n\nHello, World!\nConnection closed" in shown


def test_a_request_longer_than_one_recv_is_answered_with_a_reset(serve):
    server = serve('part1')
    with connect(server) as client:
        client.sendall(b'GET / HTTP/1.1\r\nCookie: ' + b'x' * 2000 + b'\r\n\r\n')
        wait_for_output(server, 'xxx')
        with pytest.raises(ConnectionResetError):
            while client.recv(1024):
                pass


@pytest.mark.parametrize(('stage', 'others_are_served'), [
    ('part1', False), ('part3-v1.0', False), ('part3-v1.1', True), ('part3-final', True),
    ('part3-threads', True)])
def test_a_client_that_resets_ends_the_process_or_thread_that_serves_it(serve, stage, others_are_served):
    server = serve(stage)
    reset_after(b'')(server)
    wait_for_output(server, 'ConnectionResetError: [Errno 104] Connection reset by peer\n')
    assert (fetch(server, REQUEST)[:2] == (REPLY, FIN)) is others_are_served
