"""Part 2, and each protocol of part 4: what a WSGI server does, in detail."""
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from functools import partial

import pytest

from common.stages import ROOT, find_stage, steps_of
from laboratory.bugs import BUGS
from laboratory.bugs.fatal_failure import RESETS
from laboratory.bugs.partial_response import RESPONSE_RULES
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, connect, fetch, get, read_reply, readable, request, reset_after
from laboratory.instruments.experiment import measure
from laboratory.instruments.process import ServerProcess, server_path, stage_server
from laboratory.instruments.wsgi import CHUNKED, LENGTH
from tests.apps.misbehaves import BROKEN
from tests.helpers import GET, ends, names, protocols, sending, wait_for_output

STAGES, PROTOCOLS = names('part2'), list(protocols())
READING, SENDING, LASTING, REFUSING = (ends(STAGES[number:]) for number in (1, 2, 3, 4))
HELLO = b'Hello world from a simple WSGI application!\n'
TLS = bytes.fromhex('16030100c4010000c00303') + bytes(range(185))  # 10 is also supported_groups, RFC 8446


def test_only_v1_0_leaves_the_query_in_the_path(shared):
    statuses = {stage: get(shared(stage, 'flaskapp:app'), '/hello?x=1').status for stage in STAGES[:2]}
    assert statuses == {'part2-v1.0': 404, 'part2-v1.1': 200}


def test_v1_0_sends_an_old_date_and_dies_at_an_empty_connection(serve):
    server = serve('part2-v1.0', 'wsgiapp:app')
    assert get(server, '/').values('Date') == ['Tue, 31 Mar 2015 12:54:48 GMT']
    connect(server).close()
    wait_for_output(server, 'IndexError')
    assert server.popen.wait(kernel.LIMIT) == 1


@pytest.mark.parametrize('stage', [*READING, *PROTOCOLS])
def test_a_request_is_read_byte_by_byte_and_its_body_after_100_continue(shared, stage):
    server = shared(stage, 'wsgi_probes:app')
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request('POST', '/body', body=b'bit by bit'):
            client.sendall(bytes([byte]))
        assert read_reply(client, server).body == b'bit by bit'
    with sending(server, request('POST', '/body', LENGTH + '5', 'Expect: 100-continue')) as client:
        assert client.recv(1024) == b'HTTP/1.1 100 Continue\r\n\r\n'
        client.sendall(b'later')
        assert read_reply(client, server).body == b'later'


def test_v1_1_breaks_each_rule_that_v1_2_keeps_but_one():
    result = measure(BUGS['partial_response'], partial(stage_server, find_stage('part2-v1.1')))
    broken = [detail.partition(': ')[0] for detail in (result.detail, *result.others)]
    assert broken == [rule for rule in RESPONSE_RULES if rule != 'a header that is not ASCII']


@pytest.mark.parametrize('stage', REFUSING)
def test_what_does_not_begin_like_a_request_is_refused_at_once(shared, stage):
    """The client does not end its half, and says no more."""
    def status(data):
        with sending(server, data) as client:
            return read_reply(client, server).status

    server = shared(stage, 'wsgiapp:app')
    assert [status(data) for data in (b'garbage\r\n', TLS, b'GET / HTTP/1.1 \n')] == [400] * 3


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_leaves_in_the_middle_of_its_request_gets_no_answer(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    for data in b'', b'GET / HT', b'GET / HTTP/1.1\r\nHost: x\r\n', request('POST', '/', LENGTH + '9') + b'x':
        with sending(server, data) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_reply(client, server)[:2] == (b'', FIN), data
    assert 'Traceback' not in server.output()


def test_v1_3_hands_no_bytes_of_a_chunked_body_to_its_application(shared):
    chunked = request('POST', '/body', CHUNKED) + b'5\r\nhello\r\n0\r\n\r\n'
    reply = fetch(shared('part2-v1.3', 'wsgi_probes:app'), chunked)
    assert (reply.status, reply.body) == (200, b'')


@pytest.mark.parametrize('stage', LASTING)
def test_an_application_that_fails_gets_a_500_and_a_traceback_or_a_reset(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    paths = ['/raise-before', '/exit', '/cancelled', '/refused', '/no-start', '/start-twice']
    assert {path: get(server, path).status for path in paths} == dict.fromkeys(paths, 500)
    assert server.output().count('Traceback (most recent call last)') == len(paths)
    reply = get(server, '/raise-after')
    assert (reply.end, reply.complete) == ('RST', False)
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', REFUSING)
def test_a_client_that_resets_is_dropped_without_a_word(serve, stage):
    server = serve(stage, 'wsgi_probes:app')
    for hang_up in map(reset_after, RESETS.values()):
        hang_up(server)
        assert get(server, '/').status == 200
    assert 'Traceback' not in server.output()


@pytest.mark.parametrize('stage', SENDING)
def test_from_v1_2_on_every_reply_is_what_a_strict_client_expects(shared, stage):
    server = shared(stage, 'wsgi_probes:app')
    for path in '/', '/write', '/large', '/binary', '/own-headers', '/closable':
        reply = get(server, path)
        assert (reply.status, reply.complete, reply.extra, reply.problem) == (200, True, b'', ''), path
        assert (reply.end, reply.values('Connection')) == (FIN, ['close']), path


@pytest.mark.parametrize('stage', SENDING)
def test_a_client_that_sends_more_than_its_body_gets_the_whole_response(shared, stage):
    """Its small buffer keeps the end of the response in the server's, which a reset would empty."""
    server = shared(stage, 'wsgi_probes:app')
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(('127.0.0.1', server.port))
        client.sendall(request('POST', '/body', body=b'x' * 200_000) + b'more' * 10_000)
        reply = read_reply(client, server)
        assert (len(reply.body), reply.end) == (200_000, FIN)


@pytest.mark.parametrize('stage', REFUSING)
def test_a_request_to_a_proxy_is_taken_apart(shared, stage):
    def parts(target):
        environ = json.loads(get(shared(stage, 'wsgi_probes:app'), target).body)
        return environ['HTTP_HOST'], environ['PATH_INFO'], environ['QUERY_STRING']

    assert parts('http://other:80/hello?x=1') == ('other:80', '/hello', 'x=1')
    assert parts('HTTP://other:80') == ('other:80', '/', '')
    assert parts('http://other:80?x=1') == ('other:80', '/', 'x=1')


@pytest.mark.parametrize('stage', READING)
def test_an_underscore_is_not_mistaken_for_a_hyphen(shared, stage):
    assert b'HTTP_X_PROBE' not in get(shared(stage, 'wsgi_probes:app'), '/', 'X_Probe: one').body


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_is_silent_or_never_reads_is_dropped(with_times, stage):
    server = with_times(stage, {'TIMEOUT': 0.1})
    kernel.suspend([server.pid])  # so that all that is sent is there when it accepts them
    deaf, hidden = (sending(server, request('GET', path)) for path in ('/megabytes', '/swallow-errors'))
    with connect(server) as silent, deaf, hidden:
        kernel.resume([server.pid])
        assert get(server, '/').status == 200
        assert silent.recv(1) == b''
        assert 'Traceback' not in server.output()
        for client in deaf, hidden:
            reply = read_reply(client, server)
            assert (reply.end, reply.complete) == ('RST', False)  # an application cannot hide it


@pytest.mark.parametrize('stage', LASTING)
def test_a_client_that_reads_slowly_gets_all_of_it(with_times, stage):
    """It takes longer than TIMEOUT for the whole, and never that long for a piece."""
    server = with_times(stage, {'TIMEOUT': 1})
    with connect(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.sendall(request('GET', '/megabytes'))
        begin, taken = time.monotonic(), 0
        while time.monotonic() - begin < 2.5:
            taken += len(slow.recv(500_000))
            time.sleep(0.1)
        assert taken + len(read_reply(slow, server).data) > 20_000_000


@pytest.mark.parametrize('stage', SENDING)
def test_a_client_that_keeps_its_end_open_does_not_block_the_next_one(with_times, stage):
    server = with_times(stage, {'LINGER': 0.1, **({'TIMEOUT': 1000} if stage in LASTING else {})})
    with connect(server) as first, connect(server) as second:
        for client in first, second:
            client.sendall(GET)
            assert client.recv(1024).startswith(b'HTTP/1.1 200 OK')


@pytest.mark.parametrize('stage', REFUSING)
def test_a_client_that_sends_on_after_its_error_is_dropped(with_times, stage):
    server = with_times(stage, {'LINGER': 0.1})
    with sending(server, b'mick\r\n\r\n') as client:
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                client.sendall(b'x' * 65536)
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
@pytest.mark.parametrize('output', ['> /dev/full 2>&1', '>&- 2>&-', '| true'])
def test_a_server_that_cannot_print_still_answers(stage, output):
    command = shlex.join([sys.executable, find_stage(stage).server, 'misbehaves:app'])
    path = f'{ROOT}/tests/apps:{server_path("on")}'
    with ServerProcess(['sh', '-c', f'{command} {output}'], env={'PYTHONPATH': path}) as server:
        assert [get(server, path).status for path in ('/complain', '/text', '/')] == [200, 500, 200]


@pytest.mark.parametrize('stage', LASTING)
def test_what_an_application_forks_is_no_server(serve, stage):
    server = serve(stage, 'misbehaves:app')
    with sending(server, request('GET', '/fork-and-return')) as client:
        assert readable(client, kernel.LIMIT)
        assert kernel.eventually(lambda: not kernel.children(server.pid))
    assert get(server, '/').status == 200


@pytest.mark.parametrize('stage', LASTING)
def test_an_application_that_closes_badly_loses_nothing(serve, stage):
    server = serve(stage, 'misbehaves:app')
    for path in '/fail-to-close', '/fail-to-close-a-stream':
        before = server.written()
        reply = get(server, path)
        assert (len(reply.body), reply.end) == (10_000_000, FIN)
        assert 'KeyError' in server.output(since=before)
    assert get(server, '/close-the-output').status == 200
    assert get(server, '/text').status == 500


@pytest.mark.parametrize('stage', ends(STAGES))
def test_control_characters_of_a_client_do_not_reach_the_terminal(serve, stage):
    server = serve(stage, 'wsgiapp:app')
    get(server, '/', 'X-Probe: \x1b[2J\x07\xe9')
    wait_for_output(server, 'X-Probe: \\x1b[2J\\x07\\xe9')
    assert '\x1b' not in server.output()


def test_final_answers_500_to_a_promise_that_is_broken_before_anything_is_sent(serve):
    server = serve('part2-final', 'misbehaves:app')
    replies = [get(server, path) for path in BROKEN]
    assert [(reply.status, reply.complete) for reply in replies] == [(500, True)] * len(BROKEN)
    assert server.output().count('Traceback (most recent call last)') == len(BROKEN)


def test_final_sends_headers_as_they_were_when_they_were_given(shared):
    reply = get(shared('part2-final', 'misbehaves:app'), '/change-the-headers')
    assert (reply.values('X-Break'), reply.values('X-Smuggled')) == (['one'], [])


@pytest.mark.parametrize(('app', 'path', 'body', 'end', 'word'), [
    ('wsgi_probes:app', '/too-much', b'ele', FIN, 'longer'),
    ('wsgi_probes:app', '/too-little', b'ele', 'RST', 'shorter'),
    ('misbehaves:app', '/too-long', b'ele', FIN, 'longer'),
    ('misbehaves:app', '/swallow-the-length', b'amo', FIN, '')])
def test_final_sends_as_much_as_was_announced_or_resets_the_connection(serve, app, path, body, end, word):
    server = serve('part2-final', app)
    reply = get(server, path)
    assert (reply.status, reply.body + reply.extra, reply.end) == (200, body, end)
    assert re.findall('ValueError: the body is (.*) than', server.output()) == ([word] if word else [])


@pytest.mark.parametrize('stage', ['part2-final', *PROTOCOLS])
def test_no_body_is_sent_or_asked_for_where_there_is_none(shared, stage):
    server = shared(stage, 'misbehaves:app')
    replies = [get(server, path) for path in ('/no-content', '/reset-content', '/not-modified')]
    assert [(reply.status, reply.body, reply.extra) for reply in replies] == [
        (204, b'', b''), (205, b'', b''), (304, b'', b'')]
    assert [reply.values(LENGTH[:-2]) for reply in replies] in ([[], [], ['3']], [[], ['0'], ['3']])
    for _ in range(2):
        reply = fetch(server, request('HEAD', '/crumbs-without-end'))
        assert (reply.status, reply.extra, reply.end) == (200, b'', FIN)


def test_final_answers_head_as_get_without_the_body_and_remembers_nothing_of_it(shared):
    server = shared('part2-final', 'wsgiapp:app')
    for method, body in ('GET', HELLO), ('HEAD', b''):
        reply = fetch(server, request(method, '/hello'))
        assert (reply.status, reply.values('Content-Type')) == (200, ['text/plain'])
        assert reply.body + reply.extra == body
    assert fetch(server, b'mick\r\n\r\n').body == b'the request line is not METHOD TARGET VERSION\n'


USAGE = 'Provide a WSGI application object as module:callable\n'
NOT_FOUND = f"No module named 'nosuch' in {ROOT}. Those of this repository are in part2/apps\n"


@pytest.mark.parametrize(('stage', 'arguments', 'message'), [
    ('v1.0', [], USAGE), ('final', [], USAGE), ('final', ['wsgiapp'], USAGE), ('final', ['wsgiapp:'], USAGE),
    ('final', ['..:app'], USAGE), ('final', ['nosuch:app'], NOT_FOUND),
    ('final', ['nosuch.part:app'], NOT_FOUND),
    ('final', ['imports_nosuch:app'],
     "No module named 'nosuch'. Install it in a virtual environment such as .venv, and use its Python\n"),
    ('final', ['wsgiapp:nosuch'], 'wsgiapp:nosuch is not a callable\n'),
    ('final', ['misbehaves:PLAIN'], 'misbehaves:PLAIN is not a callable\n'),
])
def test_it_says_in_one_line_what_is_wrong_with_the_application(stage, arguments, message):
    run = subprocess.run([sys.executable, f'part2/{stage}/server.py', *arguments], cwd=ROOT, text=True,
                         env={'PYTHONPATH': 'part2/apps:tests/apps'}, capture_output=True, timeout=20)
    assert (run.returncode, run.stdout, run.stderr) == (1, '', message)


def test_every_stage_finds_the_application_in_the_same_way():
    texts = [(ROOT / stage.server).read_text() for stage in steps_of('part2') + steps_of('part4')]
    assert len({re.search(r'def load_application.*?\n\n\n', text, re.DOTALL)[0] for text in texts}) == 1


def test_an_application_is_found_in_the_current_folder(tmp_path):
    (tmp_path / 'mine.py').write_text((ROOT / 'part2/apps/wsgiapp.py').read_text())
    command = shlex.join([sys.executable, str(ROOT / 'part2/v1.0/server.py'), 'mine:app'])
    with ServerProcess(['sh', '-c', f'cd {shlex.quote(str(tmp_path))}; exec {command}']) as server:
        assert get(server, '/').body == HELLO


def test_the_last_stage_is_one_server_though_its_application_forks(serve):
    server = serve('part2-final', 'misbehaves:app')
    assert get(server, '/fork').status == 200
    assert kernel.eventually(lambda: len(server.processes()) == 1, server.patience)
