"""The experiments on WSGI servers: what they take, what they name, and what they leave behind."""
import os
import re
import socket
import threading
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

from common.stages import find_stage
from laboratory.bugs import BUGS
from laboratory.bugs.malformed_request import DUE, HELLO, NOTHING, ONE_TWO
from laboratory.instruments import kernel, views, wsgi
from laboratory.instruments.apps import wsgi_probes
from laboratory.instruments.client import FIN, OPEN, RST, Reply, connect, fetch, request, reset
from laboratory.instruments.experiment import measure
from laboratory.instruments.process import stage_server


@contextmanager
def scripted(*steps, patience=kernel.LIMIT):
    """A server for one client: each step is bytes that it sends, a number of bytes that it reads, or RST."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        def serve():
            client, _ = listener.accept()
            with client:
                for step in steps:
                    if step == RST:
                        reset(client)
                    elif isinstance(step, int):
                        client.recv(step)
                    else:
                        client.sendall(step)
        thread = threading.Thread(target=serve)
        thread.start()
        yield SimpleNamespace(port=listener.getsockname()[1], client_socket=socket.socket,
                              wait_until=lambda condition: kernel.eventually(condition, patience))
        thread.join()


GET = request('GET', '/')
OK = b'HTTP/1.1 200 OK\r\n'
LARGE = b'x' * 20_000_000
CHUNKS = b''.join(b'%x\r\n%b\r\n' % (65536, LARGE[:65536]) for _ in range(300)) + b'0\r\n\r\n'


@pytest.mark.parametrize(('sent', 'asked', 'seen'), [
    ([OK + b'Content-Length: 2\r\n\r\nhi'], GET, (200, b'hi', True, b'', FIN)),
    ([OK + b'Content-Length: 20000000\r\n\r\n' + LARGE], GET, (200, LARGE, True, b'', FIN)),
    ([OK + b'Transfer-Encoding: chunked\r\n\r\n' + CHUNKS], GET, (200, LARGE[:65536] * 300, True, b'', FIN)),
    ([OK + b'\r\nhi'], GET, (200, b'hi', True, b'', FIN)),
    ([OK + b'\r\nhi', RST], GET, (200, b'hi', False, b'', RST)),
    ([OK + b'Content-Length: 3\r\n\r\nhi'], GET, (200, b'hi', False, b'', FIN)),
    ([OK + b'Content-Length: 1\r\n\r\nhi'], GET, (200, b'h', True, b'i', FIN)),
    ([OK + b'Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n'], GET, (200, b'hi', False, b'', FIN)),
    ([OK + b'Content-Length: 2\r\n\r\n'], request('HEAD', '/'), (200, b'', True, b'', FIN)),
    ([OK + b'Content-Length: 2\r\n\r\nhi'], request('HEAD', '/'), (200, b'', True, b'hi', FIN)),
    ([b'HTTP/1.1 204 No Content\r\n\r\nhi'], GET, (204, b'', True, b'hi', FIN)),
    ([b'HTTP/1.1 100 Continue\r\n\r\n' + OK + b'\r\nhi'], GET, (200, b'hi', True, b'', FIN)),
    ([b'<html>'], GET, (0, b'', False, b'', FIN)),
    ([b'', RST], GET, (0, b'', False, b'', RST)),
    ([], GET, (0, b'', False, b'', FIN)),
])
def test_a_reply_is_read_as_http_says(sent, asked, seen):
    with scripted(65536, *sent) as server:
        reply = fetch(server, asked)
    assert (reply.status, reply.body, reply.complete, reply.extra, reply.end) == seen


def test_a_reply_that_comes_before_the_request_is_sent_is_read():
    with scripted(1000, b'HTTP/1.1 413 Content Too Large\r\n\r\n') as server:  # and closes: the rest is reset
        reply = fetch(server, request('POST', '/', body=b'x' * 10_000_000))
    assert reply.status == 413


def test_a_server_that_waits_for_more_is_told_that_there_is_no_more():
    with scripted(65536, 1, b'HTTP/1.1 400 Bad Request\r\n\r\n', patience=1) as server:
        assert fetch(server, b'GET / HTTP/1.1\r\n').status == 400


@pytest.mark.parametrize(('reply', 'words'), [
    (Reply(end=OPEN), 'no answer'),
    (Reply(end=FIN), 'closed without an answer'),
    (Reply(end=RST), 'a reset without an answer'),
    (Reply(status=200, body=b'x'), "200 with b'x'"),
    (Reply(status=200, body=b'x' * 100), '200'),
    (Reply(data=b'<html>'), "no status line, b'<html>'"),
])
def test_a_reply_is_described_in_words(reply, words):
    assert str(reply) == words


@pytest.mark.parametrize(('due', 'taken', 'not_taken'), [
    ('400', [Reply(status=400)], [Reply(status=200), Reply(status=500), Reply(end=FIN)]),
    ('an error', [Reply(status=400), Reply(status=501), Reply(end=FIN), Reply(end=RST)],
     [Reply(status=200), Reply(end=OPEN)]),
    (HELLO, [Reply(status=200, body=b'hello'), Reply(status=411)], [Reply(status=200)]),
    (ONE_TWO, [Reply(status=200, body=b'one  two'), Reply(status=400)],
     [Reply(status=200, body=b'one\0two')]),
    (NOTHING, [Reply(status=200), Reply(status=400)], [Reply(status=200, body=b'x')]),
])
def test_every_answer_is_taken_that_the_rfcs_allow(due, taken, not_taken):
    assert all(map(DUE[due], taken))
    assert not any(map(DUE[due], not_taken))


def on_stage(stage, bug):
    return measure(BUGS[bug], partial(stage_server, find_stage(stage)))


def test_every_wrong_answer_is_named_until_the_server_ends():
    found = on_stage('part2-v1.3', 'malformed_request')
    assert found.others[0].startswith('two Hosts: 200')
    assert re.match(r'\d+ of 22 left, also two Hosts, ', found.left)
    found = on_stage('part2-v1.2', 'malformed_request')
    assert (found.detail, found.left) == (
        'a request line of one word: the server ends', '1 of 22 left, 21 not asked')


def test_each_wrong_variable_is_shown_in_full_beside_what_is_due():
    found = on_stage('part2-v1.0', 'environ')
    shown = found.steps[-1][1].plain
    assert re.match(r"PATH_INFO\n    is +'/(\w+)/caf%C3%A9%20\+%2541\?a=.*'\n"
                    r"    should be +'/\1/cafÃ© \+%41', decoded as latin-1", shown)
    assert {'CONTENT_TYPE', 'CONTENT_LENGTH', 'QUERY_STRING'} <= set(re.findall(r'^\S+', shown, re.MULTILINE))


def test_a_server_that_works_without_end_is_called_so(monkeypatch):
    monkeypatch.setattr(wsgi, 'A_WHILE', 0)
    monkeypatch.setattr(kernel, 'activity', lambda pids: (False, 0))
    with socket.create_server(('127.0.0.1', 0)) as listener:  # whose clients nobody accepts
        server = SimpleNamespace(port=listener.getsockname()[1], client_socket=socket.socket, written=int,
                                 output=lambda since: '',
                                 wait_until=lambda condition: condition(), let_rest=bool,
                                 has_ended=lambda: False, family=list)
        found = wsgi.go_through(server, lambda words, view: None, {'a GET': lambda server: ''}, '')
    assert found.detail == 'a GET: the next client is not served, and the server is busy'


def test_only_what_was_printed_at_the_first_wrong_answer_is_kept():
    ended = on_stage('part2-v1.2', 'fatal_failure')
    assert ended.printed[-1] == 'ValueError: not enough values to unpack (expected at least 1, got 0)'
    printed_later = on_stage('part2-v1.1', 'partial_response')
    assert printed_later.case == 'streaming'
    assert 'Error' not in ''.join(printed_later.printed)


@pytest.mark.long
def test_a_connection_that_ends_because_a_look_took_long_is_not_held_against_the_server(monkeypatch):
    monkeypatch.setattr(views, 'connections', lambda server: kernel.eventually(  # until its IDLE_TIMEOUT
        lambda: 'ESTABLISHED' not in [end.status for end, _ in kernel.connections(server.port)]))
    assert on_stage('part4-final', 'one_request').outcome == 'pass'


def test_the_folder_goes_with_the_server():
    with pytest.raises(KeyboardInterrupt), stage_server(find_stage('part2-v1.2'), 'wsgiapp:app') as server:
        (server.folder / 'closed').touch()
        raise KeyboardInterrupt
    assert not server.folder.exists()


def test_an_application_that_waits_goes_on_when_the_experiment_fails(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    with connect(server) as client:
        with pytest.raises(ZeroDivisionError), wsgi.fifo(server):
            client.sendall(request('GET', '/wait'))
            server.let_rest()
            raise ZeroDivisionError
    assert wsgi.survives(server)


@pytest.mark.parametrize('is_there', [True, False])
def test_an_application_goes_on_if_the_experiment_has_just_let_go(is_there, tmp_path, monkeypatch):
    monkeypatch.setattr(wsgi_probes, 'FOLDER', str(tmp_path))
    monkeypatch.setattr(os.path, 'exists', lambda path: True)
    if is_there:
        os.mkfifo(tmp_path / 'fifo')  # without a writer: an ordinary open() would wait for one
    wsgi_probes.wait_for_the_experiment()
