"""Part 2: what each version of the WSGI server does, in detail."""
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time

import pytest

from common.stages import ROOT, Stage, find_stage, stages_of
from laboratory.experiments import part2
from laboratory.instruments import kernel
from laboratory.instruments.client import (
    FIN,
    RST,
    connect,
    fetch,
    get,
    read_reply,
    readable,
    request,
    status_of,
)
from laboratory.instruments.process import ServerProcess, server_path, stage_server
from tests.apps.breaks_promises import RESPONSES

STAGES = [stage.name for stage in stages_of('part2')]
LASTING, REFUSING = STAGES[3:], STAGES[4:]
TEST_APPS = ROOT / 'tests/apps'
WITH_TEST_APPS = {'PYTHONPATH': f'{TEST_APPS}{os.pathsep}{server_path("on")}'}
HELLO = b'Hello world from a simple WSGI application!\n'


@pytest.mark.parametrize('stage', STAGES)
def test_request_and_response_are_echoed_as_curl_does(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    get(server, '/hello')
    server.wait_for_output('> Hello world from a simple WSGI application!\n')
    first, blank, *lines = server.output().splitlines()
    assert (first, blank) == (f'Serving HTTP on port {server.port} ...', '')
    assert lines[:3] == ['< GET /hello HTTP/1.1', '< Host: localhost', '< Connection: close']
    assert lines[5] == '> HTTP/1.1 200 OK'


def test_only_v1_0_leaves_the_query_in_the_path(serve):
    assert status_of(serve('part2-v1.0', 'flaskapp:app'), request('GET', '/hello?x=1')) == 404
    assert status_of(serve('part2-v1.1', 'flaskapp:app'), request('GET', '/hello?x=1')) == 200


def test_v1_0_dies_of_an_index_error_at_an_empty_connection(serve):
    server = serve('part2-v1.0', 'wsgiapp:app')
    connect(server).close()
    server.wait_for_output('IndexError')
    assert server.popen.wait(kernel.LIMIT) == 1


def test_v1_0_sends_the_date_of_the_article(serve):
    server = serve('part2-v1.0', 'wsgiapp:app')
    assert get(server, '/').values('Date') == ['Tue, 31 Mar 2015 12:54:48 GMT']


@pytest.mark.parametrize('stage', [*STAGES[1:], *(stage.name for stage in stages_of('part4'))])
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


LENGTH, CHUNKED = 'Content-Length: ', 'Transfer-Encoding: chunked'
BAD_REQUESTS = [  # what it is, its bytes, the status from v1.4 on
    ('a malformed request line', b'mick\r\n\r\n', 400),
    ('a control character before the request line', b'\x0b' + request('GET', '/'), 400),
    ('a carriage return before the request line', b'\r' + request('GET', '/'), 400),
    ('a space before the request line', b' ' + request('GET', '/'), 400),
    ('two spaces in the request line', b'GET  / HTTP/1.1\r\nHost: x\r\n\r\n', 400),
    ('an empty line in front', b'\r\n' + request('GET', '/'), 200),
    ('a header without a colon', request('GET', '/', 'mick'), 400),
    ('a space before the colon', request('GET', '/', 'X-Probe : one'), 400),
    ('a folded header', request('GET', '/', 'X-Probe: one', ' two'), 400),
    ('a carriage return in a header', request('GET', '/', 'X-Probe: one\rtwo'), 400),
    ('no Host', b'GET / HTTP/1.1\r\n\r\n', 400),
    ('two Hosts', request('GET', '/', 'Host: other'), 400),
    ('a Host with a space', b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400),
    ('a Host with a user', b'GET / HTTP/1.1\r\nHost: u@x\r\n\r\n', 400),
    *[(f'Host: {host}', f'GET / HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode(), 400)
      for host in ('a:b:c', '<script>', 'x:99z', '[::1', 'a"b', 'x\\y')],
    *[(f'Host: {host}', f'GET / HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode(), 200)
      for host in ('', 'localhost:8888', '[::1]:8888', 'a_b.example', 'x:')],
    ('a user in the target', request('GET', 'http://u:p@evil/'), 400),
    ('no host in the target', request('GET', 'http:///'), 400),
    ('a control character in the target', request('GET', '/\x7f'), 400),
    ('a control character in a header', request('GET', '/', 'X-Probe: \x7f'), 400),
    ('lines without carriage returns', b'GET / HTTP/1.1\nHost: x\n\n', 200),
    ('an expectation of HTTP/1.0', b'POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n', 200),
    ('a target without a slash', request('GET', 'mick'), 400),
    ('HTTP/1.0 without Host', b'GET / HTTP/1.0\r\n\r\n', 200),
    ('a version of the future', b'GET / HTTP/9.1\r\nHost: x\r\n\r\n', 505),
    ('a negative Content-Length', request('POST', '/', LENGTH + '-1'), 400),
    ('a Content-Length with zeros in front', request('POST', '/', LENGTH + '0' * 5000 + '5') + b'hello', 200),
    ('a Content-Length in words', request('POST', '/', LENGTH + 'ten'), 400),
    ('two Content-Lengths', request('POST', '/', LENGTH + '1', LENGTH + '2') + b'xx', 400),
    ('a chunked body', request('POST', '/', CHUNKED) + b'0\r\n\r\n', 501),
    ('a chunked body with a length', request('POST', '/', CHUNKED, LENGTH + '5') + b'0\r\n\r\n', 501),
    ('a long request line', request('GET', '/' + 'x' * 100_000), 414),
    ('a large head', request('GET', '/', *['X-Padding: ' + 'x' * 1000] * 100), 431),
    ('a large body', request('POST', '/', LENGTH + '9' * 5000) + b'x' * 100_000, 413),
]
CUT_SHORT = [b'', b'GET / HT', b'GET / HTTP/1.1\r\nHost: x\r\n', request('POST', '/', LENGTH + '9') + b'x']


def client_hello():
    """What a client that speaks TLS says first."""
    says = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context = ssl.create_default_context()
        context.wrap_bio(ssl.MemoryBIO(), says, server_hostname='localhost').do_handshake()
    return says.read()


@pytest.mark.parametrize('stage', LASTING)
def test_from_v1_3_on_every_bad_request_is_survived(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    for data in [data for _, data, _ in BAD_REQUESTS] + CUT_SHORT:
        status_of(server, data)
        assert get(server, '/').status == 200, data[:100]


@pytest.mark.parametrize('stage', REFUSING)
def test_from_v1_4_on_every_bad_request_gets_its_status(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    assert {name: status_of(server, data) for name, data, _ in BAD_REQUESTS} == {
        name: status for name, _, status in BAD_REQUESTS}


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_leaves_in_the_middle_of_its_request_gets_no_answer(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    for data in CUT_SHORT:
        with connect(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_reply(client, server)[:2] == (b'', FIN)
    assert 'Traceback' not in server.output()


@pytest.mark.parametrize('stage', REFUSING)
def test_what_does_not_begin_like_a_request_is_refused_at_once(serve, stage):
    """The client does not end its half, and says no more."""
    server = serve(stage, 'wsgiapp:app')
    for data in b'garbage\r\n', client_hello(), b'GET / HTTP/1.1 \n':
        with connect(server) as client:
            client.sendall(data)
            assert read_reply(client, server).status == 400


def test_v1_3_hands_no_bytes_of_a_chunked_body_to_its_application_and_v1_4_says_so(serve):
    chunked = request('POST', '/body', CHUNKED) + b'5\r\nhello\r\n0\r\n\r\n'
    silent = fetch(serve('part2-v1.3', 'wsgi_probes:app'), chunked)
    assert (silent.status, silent.body) == (200, b'')
    assert fetch(serve('part2-v1.4', 'wsgi_probes:app'), chunked).status == 501


@pytest.mark.parametrize('stage', LASTING)
def test_an_application_that_fails_gets_a_500_and_a_traceback(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    paths = ['/raise-before', '/exit', '/cancelled', '/refused', '/no-start', '/start-twice']
    for path in paths:
        assert get(server, path).status == 500, path
    assert server.output().count('Traceback (most recent call last)') == len(paths)
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
def test_half_a_response_ends_with_a_reset(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    reply = get(server, '/raise-after')
    assert (reply.end, reply.complete) == (RST, False)
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', REFUSING)
def test_a_client_that_resets_is_dropped_without_a_word(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    for hang_up in part2.RESETS:
        hang_up(server)
        assert get(server, '/').status == 200
    assert 'Traceback' not in server.output()


@pytest.mark.parametrize('stage', STAGES[2:])
def test_from_v1_2_on_every_reply_is_what_a_strict_client_expects(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    for path in '/', '/write', '/large', '/binary', '/own-headers', '/closable':
        reply = get(server, path)
        assert (reply.status, reply.complete, reply.extra, reply.problem) == (200, True, b'', ''), path
        assert (reply.end, reply.values('Connection')) == (FIN, ['close']), path


@pytest.mark.parametrize('stage', STAGES[2:])
def test_a_client_that_sends_more_than_its_body_gets_the_whole_response(serve, stage):
    """Its small buffer keeps the end of the response in the server's, which a reset would empty."""
    server = serve(stage, 'wsgi_probes:app')
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(('127.0.0.1', server.port))
        client.sendall(request('POST', '/body', body=b'x' * 200_000) + b'more' * 10_000)
        reply = read_reply(client, server)
        assert (len(reply.body), reply.end) == (200_000, FIN)


@pytest.mark.parametrize(('target', 'path', 'query'), [
    ('http://other:80/hello?x=1', '/hello', 'x=1'),
    ('HTTP://other:80', '/', ''),
    ('http://other:80?x=1', '/', 'x=1'),
])
@pytest.mark.parametrize('stage', REFUSING)
def test_a_request_to_a_proxy_is_taken_apart(serve, stage, target, path, query):
    environ = json.loads(get(serve(stage, 'wsgi_probes:app'), target).body)
    assert (environ['HTTP_HOST'], environ['PATH_INFO'], environ['QUERY_STRING']) == ('other:80', path, query)


@pytest.mark.parametrize('stage', STAGES[1:])
def test_an_underscore_is_not_mistaken_for_a_hyphen(serve, stage):
    assert b'HTTP_X_PROBE' not in get(serve(stage, 'wsgi_probes:app'), '/', 'X_Probe: one').body


@pytest.fixture
def with_times(tmp_path, request):
    """with_times(stage, TIMEOUT=0.1) starts a copy of that stage with other limits, in seconds."""
    def start(stage, app='wsgi_probes:app', **limits):
        source = (ROOT / find_stage(stage).server).read_text()
        for name, seconds in limits.items():
            source, count = re.subn(f'^{name} = [0-9]+ ', f'{name} = {seconds} ', source, flags=re.MULTILINE)
            assert count == 1
        (tmp_path / 'server.py').write_text(source)
        server = stage_server(Stage('a copy', str(tmp_path)), app, env=WITH_TEST_APPS).__enter__()
        request.addfinalizer(server.stop)
        return server
    return start


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_stays_silent_is_dropped(with_times, stage):
    server = with_times(stage, TIMEOUT=0.1)
    with connect(server) as silent:
        server.wait_for(lambda: readable(silent), 'drop a silent client')
        assert silent.recv(1) == b''
        assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_never_reads_is_reset(with_times, stage):
    server = with_times(stage, TIMEOUT=0.1)
    with connect(server) as deaf:
        deaf.sendall(request('GET', '/large'))
        assert get(server, '/').status == 200
        assert 'Traceback' not in server.output()
        with pytest.raises(ConnectionResetError):
            while deaf.recv(65536):
                pass


@pytest.mark.parametrize('stage', LASTING)
def test_an_application_cannot_hide_that_its_client_is_too_slow(with_times, stage):
    server = with_times(stage, 'breaks_promises:app', TIMEOUT=0.1)
    with connect(server) as deaf:
        deaf.sendall(request('GET', '/swallow-errors'))
        assert get(server, '/text').status == 500
        reply = read_reply(deaf, server)
        assert (reply.end, reply.complete) == (RST, False)


@pytest.mark.parametrize('stage', LASTING)
def test_a_whole_response_stays_whole_though_close_fails(serve, stage):
    server = serve(stage, 'breaks_promises:app', env=WITH_TEST_APPS)
    reply = get(server, '/fail-to-close')
    assert (len(reply.body), reply.end) == (200_000, FIN)
    assert 'KeyError' in server.output()


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_reads_slowly_gets_all_of_it(with_times, stage):
    """It takes longer than TIMEOUT for the whole, and never that long for a piece."""
    server = with_times(stage, 'breaks_promises:app', TIMEOUT=1)
    with connect(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.sendall(request('GET', '/megabytes'))
        begin, taken = time.monotonic(), 0
        while time.monotonic() - begin < 2.5:
            taken += len(slow.recv(500_000))
            time.sleep(0.1)
        assert taken + len(read_reply(slow, server).data) > 20_000_000


@pytest.mark.parametrize('stage', STAGES[2:])
def test_a_client_that_keeps_its_end_open_does_not_block_the_next_one(with_times, stage):
    limits = {'TIMEOUT': 1000} if stage in LASTING else {}
    server = with_times(stage, LINGER=0.1, **limits)
    with connect(server) as first, connect(server) as second:
        for client in first, second:
            client.sendall(request('GET', '/'))
            assert client.recv(1024).startswith(b'HTTP/1.1 200 OK')


@pytest.mark.parametrize('stage', REFUSING)
def test_a_client_that_sends_on_after_its_error_is_dropped(with_times, stage):
    server = with_times(stage, LINGER=0.1)
    with connect(server) as client:
        client.sendall(b'mick\r\n\r\n')
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                client.sendall(b'x' * 65536)
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
@pytest.mark.parametrize('output', ['> /dev/full 2>&1', '>&- 2>&-', '| true'])
def test_a_server_that_cannot_print_still_answers(stage, output):
    command = f'{sys.executable} {find_stage(stage).server} wsgi_probes:app {output}'
    with ServerProcess(['sh', '-c', command], env={'PYTHONPATH': server_path('on')}) as server:
        assert get(server, '/').status == 200
        assert get(server, '/raise-before').status == 500
        assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
def test_the_server_outlives_an_application_that_closes_its_output(serve, stage):
    server = serve(stage, 'breaks_promises:app', env=WITH_TEST_APPS)
    assert get(server, '/close-the-output').status == 200
    assert get(server, '/text').status == 500


@pytest.mark.parametrize('stage', STAGES)
def test_control_characters_of_a_client_do_not_reach_the_terminal(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    get(server, '/', 'X-Probe: \x1b[2J\x07\xe9')
    server.wait_for_output('X-Probe: \\x1b[2J\\x07\\xe9')
    assert '\x1b' not in server.output()


@pytest.fixture
def breaker(serve):
    """Part 2 final with the application that breaks promises."""
    return serve('part2-final', 'breaks_promises:app', env=WITH_TEST_APPS)


def test_final_answers_500_to_a_promise_that_is_broken_before_anything_is_sent(breaker):
    in_time = set(RESPONSES) - {'/megabytes', '/not-modified', '/no-content', '/reset-content',
                                '/too-long-later', '/too-short'}
    for path in in_time:
        reply = get(breaker, path)
        assert (reply.status, reply.values('X-Smuggled'), reply.complete) == (500, [], True), path
    assert breaker.output().count('Traceback (most recent call last)') == len(in_time)


@pytest.mark.parametrize(('path', 'word'), [
    ('/too-long-later', 'longer'), ('/too-short', 'shorter'), ('/swallow-the-length', 'shorter')])
def test_final_resets_the_connection_where_the_body_does_not_keep_its_length(breaker, path, word):
    reply = get(breaker, path)
    assert (reply.end, len(reply.body + reply.extra) <= 3) == (RST, True)
    assert f'ValueError: the body is {word} than its Content-Length' in breaker.output()


@pytest.mark.parametrize(('path', 'status', 'length'), [
    ('/no-content', 204, []), ('/reset-content', 205, []), ('/not-modified', 304, ['3'])])
def test_final_sends_no_body_where_the_status_has_none(breaker, path, status, length):
    reply = get(breaker, path)
    assert (reply.status, reply.body, reply.extra) == (status, b'', b'')
    assert reply.values('Content-Length') == length


def test_final_asks_for_no_more_of_a_body_that_it_does_not_send(breaker):
    reply = fetch(breaker, request('HEAD', '/without-end'))
    assert (reply.status, reply.end) == (200, FIN)


@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_final_answers_head_as_get_without_the_body(serve, method):
    reply = fetch(serve('part2-final', 'wsgiapp:app'), request(method, '/hello'))
    assert reply.status == 200
    assert reply.values('Content-Type') == ['text/plain']
    assert reply.body + reply.extra == (HELLO if method == 'GET' else b'')


def test_final_remembers_nothing_of_the_request_before(serve):
    server = serve('part2-final', 'wsgiapp:app')
    fetch(server, request('HEAD', '/hello'))
    with connect(server) as client:
        client.sendall(b'mick\r\n\r\n')
        assert read_reply(client, server).body == b'the request line is not METHOD TARGET VERSION\n'


@pytest.mark.parametrize(('argument', 'words'), [
    ([], ['Provide a WSGI application object as module:callable']),
    (['wsgiapp'], ['Provide a WSGI application object as module:callable']),
    (['wsgiapp:'], ['Provide a WSGI application object as module:callable']),
    (['..:app'], ['Provide a WSGI application object as module:callable']),
    (['nosuch:app'], ["No module named 'nosuch' in ", 'Those of this repository are in part2/apps']),
    (['nosuch.part:app'], ["No module named 'nosuch' in ", 'Those of this repository are in part2/apps']),
    (['imports_nosuch:app'], ["No module named 'nosuch'. ", f'{sys.executable} -m pip install nosuch']),
    (['wsgiapp:nosuch'], ['wsgiapp:nosuch is not a callable']),
    (['breaks_promises:PLAIN'], ['breaks_promises:PLAIN is not a callable']),
])
def test_it_says_in_one_line_what_is_wrong_with_the_application(argument, words):
    command = [sys.executable, 'part2/final/server.py', *argument]
    run = subprocess.run(command, cwd=ROOT, env={'PYTHONPATH': 'part2/apps:tests/apps'},
                         text=True, capture_output=True, timeout=20)
    assert run.returncode == 1
    assert run.stdout == ''
    assert run.stderr.count('\n') == 1
    for word in words:
        assert word in run.stderr
    assert 'pip install' not in run.stderr or 'imports_nosuch:app' in argument


def test_v1_0_without_an_argument_gives_the_message_of_the_article():
    run = subprocess.run([sys.executable, find_stage('part2-v1.0').server], cwd=ROOT,
                         text=True, capture_output=True, timeout=20)
    assert (run.returncode, run.stderr) == (1, 'Provide a WSGI application object as module:callable\n')


def test_every_stage_finds_the_application_in_the_same_way():
    texts = [(ROOT / find_stage(stage).server).read_text() for stage in STAGES]
    assert len({re.search(r'def load_application.*?\n\n\n', text, re.DOTALL)[0] for text in texts}) == 1


def test_the_command_of_the_article_typed_in_the_top_folder_is_told_where_the_applications_are():
    run = subprocess.run([sys.executable, 'part2/final/server.py', 'flaskapp:app'], cwd=ROOT, text=True,
                         env={}, capture_output=True, timeout=20)
    assert (run.returncode, run.stderr) == (1, (
        f"No module named 'flaskapp' in {ROOT}. Those of this repository are in part2/apps\n"))


def test_an_application_is_found_in_the_current_folder(tmp_path):
    (tmp_path / 'mine.py').write_text((ROOT / 'part2/apps/wsgiapp.py').read_text())
    server = ROOT / 'part2/v1.0/server.py'
    with ServerProcess(['sh', '-c', f'cd {tmp_path}; exec {sys.executable} {server} mine:app']) as server:
        assert get(server, '/').body == HELLO
