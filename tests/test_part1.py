"""Part 1: whatever is sent, the answer is Hello, World!"""
import socket
import subprocess

import pytest

from laboratory.experiments.part2 import reset_while_asking, reset_while_silent
from laboratory.instruments.client import FIN, connect, exchange, read_reply

REPLY = b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n'
TLS_CLIENT_HELLO = bytes.fromhex('16030100c4010000c00303') + bytes(range(185))


@pytest.mark.parametrize('data', [
    pytest.param(b'GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n', id='a request'),
    pytest.param(b'mick\r\n', id='mick'),
    pytest.param(TLS_CLIENT_HELLO, id='TLS'),
    pytest.param('é'.encode('latin-1'), id='latin-1'),
    pytest.param(b'', id='nothing'),
])
def test_every_client_gets_the_same_answer(serve, data):
    server = serve('part1')
    with connect(server) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_reply(client, server)[:2] == (REPLY, FIN)


def test_it_prints_what_it_got(serve):
    server = serve('part1')
    exchange(server, b'mick \xff')
    server.wait_for_output('mick \\xff\n')
    assert server.output() == f'Serving HTTP on port {server.port} ...\nmick \\xff\n'


def test_curl_shows_the_greeting(serve, tool):
    server = serve('part1')
    url = f'http://localhost:{server.port}/hello'
    assert subprocess.check_output([tool('curl'), '-s', url]) == b'Hello, World!\n'


def test_telnet_shows_the_whole_reply(serve, tool):
    server = serve('part1')
    telnet = subprocess.Popen([tool('telnet'), 'localhost', str(server.port)], text=True,
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
        server.wait_for_output('xxx')
        with pytest.raises(ConnectionResetError):
            while client.recv(1024):
                pass


@pytest.mark.parametrize('hang_up', [reset_while_silent, reset_while_asking])
def test_a_client_that_resets_does_not_end_it(serve, hang_up):
    server = serve('part1')
    hang_up(server)
    assert exchange(server)[:2] == (REPLY, FIN)
    assert 'Traceback' not in server.output()
