"""Part 2: what each version of the WSGI server does, in detail."""
import json
import socket
import subprocess
import sys

import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.experiments import part2
from laboratory.experiments.part2 import (
    LENGTH,
    reset_after_an_error,
    reset_while_asking,
    reset_while_reading,
    reset_while_silent,
    survives,
)
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    connect,
    exchange,
    fetch,
    get,
    read_reply,
    readable,
    request,
    status_of,
)
from laboratory.instruments.process import ServerProcess, stage_server

STAGES = ['part2-v1.0', 'part2-v1.1', 'part2-v1.2', 'part2-final']
BAD_REQUESTS = [  # what it is, its bytes, the status that is due (0 for none)
    ('an empty connection', b'', 0),
    ('a malformed request line', b'mick\r\n\r\n', 400),
    ('a request that stops short', b'GET / HTTP/1.1\r\nHost: x\r\n', 400),
    ('a header without a colon', request('GET', '/', 'mick'), 400),
    ('a folded header', request('GET', '/', 'X-Probe: one', ' two'), 400),
    ('no Host', b'GET / HTTP/1.1\r\n\r\n', 400),
    ('two Hosts', request('GET', '/', 'Host: other'), 400),
    ('a Host with a space', b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400),
    ('a control character in the target', request('GET', '/\x7f'), 400),
    ('a control character in a header', request('GET', '/', 'X-Probe: \x7f'), 400),
    ('lines without carriage returns', b'GET / HTTP/1.1\nHost: x\n\n', 200),
    ('an expectation of HTTP/1.0', b'POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n', 200),
    ('a target without a slash', request('GET', 'mick'), 400),
    ('an empty line in front', b'\r\n' + request('GET', '/'), 200),
    ('HTTP/1.0 without Host', b'GET / HTTP/1.0\r\n\r\n', 200),
    ('a version of the future', b'GET / HTTP/9.1\r\nHost: x\r\n\r\n', 505),
    ('a negative Content-Length', request('POST', '/', LENGTH + '-1'), 400),
    ('a Content-Length in words', request('POST', '/', LENGTH + 'ten'), 400),
    ('two Content-Lengths', request('POST', '/', LENGTH + '1', LENGTH + '2') + b'xx', 400),
    ('a body that stops short', request('POST', '/', LENGTH + '9') + b'x', 400),
    ('a Transfer-Encoding', request('POST', '/', 'Transfer-Encoding: chunked') + b'0\r\n\r\n', 501),
    ('a long request line', request('GET', '/' + 'x' * 100_000), 414),
    ('a large head', request('GET', '/', *['X-Padding: ' + 'x' * 1000] * 100), 431),
    ('a large body', request('POST', '/', LENGTH + '9' * 5000) + b'x' * 100_000, 413),
    ('an app that raises', request('GET', '/raise-before'), 500),
    ('an app that raises late', request('GET', '/raise-after'), 200),
    ('an app that is cancelled', request('GET', '/cancelled'), 500),
    ('an app that calls exit', request('GET', '/exit'), 500),
    ('an app that is refused a connection', request('GET', '/refused'), 500),
    ('an app that breaks a header', request('GET', '/break-header'), 500),
    ('an app that breaks the status', request('GET', '/break-status'), 500),
    ('an app that keeps the connection', request('GET', '/keep-alive'), 500),
    ('an app that does not start', request('GET', '/no-start'), 500),
    ('an app that starts twice', request('GET', '/start-twice'), 500),
]
RESETS = [reset_while_silent, reset_while_asking, reset_while_reading, reset_after_an_error]
HELLOS = {
    'wsgiapp:app': b'Hello world from a simple WSGI application!\n',
    'flaskapp:app': b'Hello world from Flask!\n',
    'pyramidapp:app': b'Hello world from Pyramid!\n',
    'djangoapp:app': b'Hello world from Django!\n',
}


@pytest.mark.parametrize('app', HELLOS)
@pytest.mark.parametrize('stage', STAGES)
def test_every_stage_runs_every_application_unchanged(serve, stage, app):
    server = serve(stage, app)
    response = get(server, '/hello')
    assert (response.status, response.body) == (200, HELLOS[app])
    assert response.values('Content-Type')[0].partition(';')[0] == 'text/plain'


@pytest.mark.parametrize('stage', STAGES)
def test_request_and_response_are_echoed_as_curl_does(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    get(server, '/hello')
    server.wait_for_output('> Hello world from a simple WSGI application!\n')
    first, blank, *lines = server.output().splitlines()
    assert (first, blank) == (f'Serving HTTP on port {server.port} ...', '')
    assert lines[:3] == ['< GET /hello HTTP/1.1', '< Host: localhost', '< Connection: close']
    assert lines[5] == '> HTTP/1.1 200 OK'


@pytest.mark.parametrize('app', list(HELLOS)[1:])
def test_only_v1_0_takes_the_query_for_a_part_of_the_path(serve, app):
    server = serve('part2-v1.0', app)
    assert status_of(server, request('GET', '/hello?x=1')) == 404
    server = serve('part2-v1.1', app)
    assert status_of(server, request('GET', '/hello?x=1')) == 200


def test_v1_0_ends_at_an_empty_connection_with_an_index_error(serve):
    server = serve('part2-v1.0', 'wsgiapp:app')
    connect(server).close()
    server.wait_for_output('IndexError')
    assert server.popen.wait(kernel.LIMIT) == 1


def test_v1_0_sends_the_date_of_the_article(serve):
    server = serve('part2-v1.0', 'wsgiapp:app')
    assert get(server, '/').values('Date') == ['Tue, 31 Mar 2015 12:54:48 GMT']


@pytest.mark.parametrize('stage', STAGES[1:])
def test_a_client_that_waits_for_100_continue_is_told_to_go_on(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    head, body = request('POST', '/body', 'Expect: 100-continue', body=b'later')[:-5], b'later'
    with connect(server) as client:
        client.sendall(head)
        assert client.recv(1024) == b'HTTP/1.1 100 Continue\r\n\r\n'
        client.sendall(body)
        assert read_reply(client, server).body == body


@pytest.mark.parametrize('stage', STAGES[1:])
def test_a_request_is_read_byte_by_byte(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request('POST', '/body', body=b'bit by bit'):
            client.sendall(bytes([byte]))
        assert read_reply(client, server).body == b'bit by bit'


@pytest.mark.parametrize('rule', part2.RESPONSE_RULES)
def test_v1_1_breaks_each_rule_that_v1_2_keeps(serve, rule):
    complaint = part2.RESPONSE_RULES[rule]
    server = serve('part2-v1.1', 'wsgi_probes:app')
    assert complaint(server)
    server = serve('part2-v1.2', 'wsgi_probes:app')
    assert not complaint(server)


@pytest.mark.parametrize(('data', 'status'), [
    pytest.param(data, status, id=name) for name, data, status in BAD_REQUESTS])
def test_final_answers_a_bad_request_and_then_the_next_client(serve, data, status):
    server = serve('part2-final', 'wsgi_probes:app')
    assert status_of(server, data) == status
    assert survives(server)


@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_final_answers_head_as_get_without_the_body(serve, method):
    server = serve('part2-final', 'wsgiapp:app')
    response = fetch(server, request(method, '/hello'))
    assert response.status == 200
    assert response.values('Content-Type') == ['text/plain']
    assert response.body == (HELLOS['wsgiapp:app'] if method == 'GET' else b'')


def test_final_ends_the_body_where_the_application_raises(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    assert get(server, '/raise-after').body == b'the first bytes'


@pytest.mark.parametrize('hang_up', RESETS)
def test_final_drops_a_client_that_resets_without_a_word(serve, hang_up):
    server = serve('part2-final', 'wsgi_probes:app')
    hang_up(server)
    assert survives(server)
    assert 'Traceback' not in server.output()


@pytest.mark.parametrize('path', ['/', '/raise-before', 'mick'])
def test_final_says_that_it_closes_the_connection_and_does(serve, path):
    server = serve('part2-final', 'wsgi_probes:app')
    reply = exchange(server, request('GET', path))
    assert reply.values('Connection') == ['close']
    assert reply.end == FIN


def test_final_answers_a_client_that_sends_more_than_its_body(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    data = request('POST', '/large', body=b'x') + b'x' * 300_000
    assert len(fetch(server, data).body) == 300 * 65536


def test_final_sends_no_content_where_the_status_has_none(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    response = get(server, '/no-content')
    assert (response.status, response.body) == (204, b'')


def test_final_reports_an_application_that_raises(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    get(server, '/raise-before')
    assert "KeyError: 'before the headers'" in server.output()


@pytest.mark.parametrize(('target', 'path', 'query'), [
    ('http://other:80/hello?x=1', '/hello', 'x=1'),
    ('HTTP://other:80', '/', ''),
    ('http://other:80?x=1', '/', 'x=1'),
])
def test_final_takes_a_request_to_a_proxy_apart(serve, target, path, query):
    server = serve('part2-final', 'wsgi_probes:app')
    environ = json.loads(get(server, target).body)
    assert (environ['HTTP_HOST'], environ['PATH_INFO'], environ['QUERY_STRING']) == ('other:80', path, query)


def test_final_does_not_mistake_an_underscore_for_a_hyphen(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    assert b'HTTP_X_PROBE' not in get(server, '/', 'X_Probe: one').body


@pytest.fixture
def impatient(tmp_path):
    """Part 2 final with a TIMEOUT of 0.1 seconds."""
    source = (ROOT / 'part2/final/server.py').read_text()
    assert source.count('TIMEOUT = 10 ') == 1
    (tmp_path / 'server.py').write_text(source.replace('TIMEOUT = 10 ', 'TIMEOUT = 0.1 '))
    with stage_server(Stage('impatient', str(tmp_path)), 'wsgi_probes:app') as server:
        yield server


def test_final_drops_a_client_that_stays_silent(impatient):
    with connect(impatient) as silent:
        impatient.wait_for(lambda: readable(silent), 'drop a silent client')
        assert silent.recv(1) == b''
        assert survives(impatient)


def test_final_drops_a_client_that_never_reads(impatient):
    with connect(impatient) as deaf:
        deaf.sendall(request('GET', '/large'))
        assert survives(impatient)
        assert 'Traceback' not in impatient.output()


def test_final_drops_a_client_that_sends_on_after_its_error(impatient):
    with connect(impatient) as client:
        client.sendall(b'mick\r\n\r\n')
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                client.sendall(b'x' * 65536)
    assert survives(impatient)


@pytest.mark.parametrize(('argument', 'words'), [
    ([], ['Provide a WSGI application object as module:callable']),
    (['wsgiapp'], ['Provide a WSGI application object as module:callable']),
    (['..:app'], ['Provide a WSGI application object as module:callable']),
    (['nosuch:app'], ["No module named 'nosuch'", sys.executable, '-m pip install nosuch']),
    (['wsgiapp:nosuch'], ['wsgiapp:nosuch does not exist']),
    (['wsgi_probes:TEXT'], ['wsgi_probes:TEXT is not callable']),
])
def test_final_says_in_one_line_what_is_wrong_with_the_application(argument, words):
    command = [sys.executable, 'part2/final/server.py', *argument]
    run = subprocess.run(command, cwd=ROOT, env={'PYTHONPATH': 'part2/apps:laboratory/experiments/apps'},
                         text=True, capture_output=True, timeout=20)
    assert run.returncode == 1
    assert run.stdout == ''
    assert run.stderr.count('\n') == 1
    for word in words:
        assert word in run.stderr


def test_v1_0_without_an_argument_gives_the_message_of_the_article():
    run = subprocess.run([sys.executable, find_stage('part2-v1.0').server], cwd=ROOT,
                         text=True, capture_output=True, timeout=20)
    assert (run.returncode, run.stderr) == (1, 'Provide a WSGI application object as module:callable\n')


def test_an_application_is_found_in_the_current_folder(tmp_path):
    (tmp_path / 'mine.py').write_text((ROOT / 'part2/apps/wsgiapp.py').read_text())
    server = ROOT / 'part2/v1.0/server.py'
    with ServerProcess(['sh', '-c', f'cd {tmp_path}; exec {sys.executable} {server} mine:app']) as server:
        assert get(server, '/').body == HELLOS['wsgiapp:app']
