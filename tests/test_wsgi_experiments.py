"""The experiments of part 2 as instruments: what they take, what they name, and what they leave behind."""
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.experiments import part2
from laboratory.experiments.apps import wsgi_probes
from laboratory.experiments.hints import HINTS, VARIANTS, hint
from laboratory.experiments.tables import expected
from laboratory.experiments.verdicts import BUG, ENDED, NOT_TESTED, PASS, measure
from laboratory.instruments import kernel
from laboratory.instruments.client import FIN, OPEN, RST, Reply, connect, fetch, request, reset
from laboratory.instruments.own import own_server, start_line
from laboratory.instruments.process import ServerProcess, free_port, stage_server

FRAMEWORKS = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'  # where python3 has them
CORPUS = f'{sys.executable} tests/corpus/wsgi_servers.py'


@contextmanager
def scripted(*steps):
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
        yield SimpleNamespace(port=listener.getsockname()[1], let_rest=lambda: time.sleep(0.1),
                              wait_until=lambda condition: kernel.eventually(condition, 1))
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
    with scripted(65536, 1, b'HTTP/1.1 400 Bad Request\r\n\r\n') as server:
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
    (part2.bad_request, [Reply(status=400)], [Reply(status=200), Reply(status=500), Reply(end=FIN)]),
    (part2.refused, [Reply(status=400), Reply(status=501), Reply(end=FIN), Reply(end=RST)],
     [Reply(status=200), Reply(end=OPEN)]),
    (part2.unchunked, [Reply(status=200, body=b'hello'), Reply(status=411)], [Reply(status=200)]),
    (part2.spaced, [Reply(status=200, body=b'one  two'), Reply(status=400)],
     [Reply(status=200, body=b'one\0two')]),
    (part2.overlooked, [Reply(status=200), Reply(status=400)], [Reply(status=200, body=b'x')]),
])
def test_every_answer_is_taken_that_the_rfcs_allow(due, taken, not_taken):
    assert all(map(due, taken))
    assert not any(map(due, not_taken))


@pytest.mark.parametrize('experiment', part2.EXPERIMENTS)
def test_part_2_final_made_to_fork_is_judged_as_final(experiment):
    verdict = measure(experiment, partial(own_server, f'{CORPUS} part2_forks'))
    assert verdict.outcome == expected('part2')['part2-final'][experiment.__name__], verdict.evidence


def test_every_wrong_answer_is_named_with_its_section():
    verdict = measure(part2.refuses, partial(stage_server, find_stage('part2-v1.3')))
    assert 'no Host: 200 instead of 400 (RFC 9112, section 3.2); two Hosts: 200' in verdict.evidence


def test_a_server_that_ends_is_asked_no_more():
    verdict = measure(part2.refuses, partial(stage_server, find_stage('part2-v1.2')))
    assert verdict.evidence == 'wrong: a request line of one word: the server ends'


def test_only_what_was_printed_at_the_first_wrong_answer_is_kept():
    ended = measure(part2.outlives, partial(stage_server, find_stage('part2-v1.2')))
    assert ended.printed[-1] == 'ValueError: not enough values to unpack (expected at least 1, got 0)'
    printed_later = measure(part2.whole_response, partial(stage_server, find_stage('part2-v1.1')))
    assert printed_later.evidence.startswith('wrong: streaming: ')
    assert 'Error' not in ''.join(printed_later.printed)


def changed(tmp_path, stage, before, after):
    """A way to start a stage in which something is replaced."""
    source = (ROOT / find_stage(stage).server).read_text()
    assert source.count(before) == 1
    (tmp_path / 'server.py').write_text(source.replace(before, after))
    return partial(stage_server, Stage('changed', str(tmp_path)))


def test_a_server_that_ends_only_if_its_first_request_is_a_bad_one_is_found(tmp_path):
    start = changed(tmp_path, 'part2-v1.4', '            self.send_error(*error.args)\n',
                    '            self.send_error(*error.args, self.request_method)\n')
    assert measure(part2.refuses, start).evidence == 'wrong: a request line of one word: the server ends'


def test_a_server_that_ends_when_it_cannot_send_an_error_is_found(tmp_path):
    start = changed(tmp_path, 'part2-v1.4', '            self.send_error(*error.args)\n',
                    '            self.client_fd.sendall(b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n")\n')
    verdict = measure(part2.outlives, start)
    assert verdict.evidence == 'wrong: a client that has gone before an error reply: the server ends'


def test_a_server_that_works_without_end_is_called_so(tmp_path):
    start = changed(tmp_path, 'part2-v1.3', '        raise HangUp\n\n    def parse_request',
                    '        while True:\n            pass\n\n    def parse_request')
    verdict = measure(part2.outlives, start)
    assert verdict.evidence == ('wrong: an empty connection: the next client is not served, '
                                'and the server is busy')


@pytest.mark.parametrize('experiment', [part2.whole_response, part2.outlives, part2.refuses, part2.promises])
def test_a_server_that_ends_by_itself_has_ended_and_has_no_bug(tmp_path, experiment):
    start = changed(tmp_path, 'part2-v1.4', '            self.handle_one_request()\n',
                    '            self.handle_one_request()\n'
                    '            self.count = getattr(self, "count", 0) + 1\n'
                    '            self.count < 3 or nosuch\n')
    verdict = measure(experiment, start)
    assert (verdict.outcome, verdict.printed[-1]) == (ENDED, "NameError: name 'nosuch' is not defined")


def test_a_framework_that_the_servers_python_lacks_is_not_tested(tmp_path):
    start = changed(tmp_path, 'part2-v1.2', '\ndef main():\n',
                    '\ndef main():\n    if "flask" in sys.argv[1]:\n'
                    '        raise ModuleNotFoundError("No module named \'flask\'")\n')
    verdict = measure(part2.hello, start)
    assert verdict[:2] == (NOT_TESTED, 'with flaskapp:app: the Python of this server has no flask')


def test_a_framework_that_fails_counts_more_than_one_that_is_not_there(tmp_path):
    start = changed(tmp_path, 'part2-v1.2', '\ndef main():\n',
                    '\ndef main():\n    if "flask" in sys.argv[1]:\n'
                    '        raise ModuleNotFoundError("No module named \'flask\'")\n'
                    '    if "pyramid" in sys.argv[1]:\n        sys.argv[1] = "wsgi_probes:app"\n')
    verdict = measure(part2.hello, start)
    assert verdict.outcome == BUG
    assert verdict.evidence.startswith('with pyramidapp:app: there is no hello in the answer: 200')


def test_an_experiment_leaves_no_folder_behind():
    folders = []

    @contextmanager
    def start(*args):
        with stage_server(find_stage('part2-v1.2'), *args) as server:
            folders.append(server.folder)
            yield server

    assert measure(part2.whole_response, start).outcome == PASS
    assert not any(folder.exists() for folder in folders)


def test_the_folder_goes_with_ctrl_c_too():
    with pytest.raises(KeyboardInterrupt), stage_server(find_stage('part2-v1.2'), 'wsgiapp:app') as server:
        raise KeyboardInterrupt
    assert not server.folder.exists()


def test_an_application_that_waits_goes_on_when_the_experiment_fails(serve):
    server = serve('part2-final', 'wsgi_probes:app')
    with connect(server) as client:
        with pytest.raises(ZeroDivisionError), part2.fifo(server):
            client.sendall(request('GET', '/wait'))
            server.let_rest()
            raise ZeroDivisionError
    assert part2.survives(server)


def test_importing_the_probes_changes_nothing_in_the_process():
    assert sys.unraisablehook is sys.__unraisablehook__ or 'wsgi_probes' not in repr(sys.unraisablehook)
    assert wsgi_probes.FOLDER is None


@pytest.mark.parametrize('is_there', [True, False])
def test_an_application_goes_on_if_the_experiment_has_just_let_go(is_there, tmp_path, monkeypatch):
    monkeypatch.setattr(wsgi_probes, 'FOLDER', str(tmp_path))
    monkeypatch.setattr(os.path, 'exists', lambda path: True)
    if is_there:
        os.mkfifo(tmp_path / 'fifo')  # without a writer: an ordinary open() would wait for one
    wsgi_probes.wait_for_the_experiment()


# stages that have the bug, what is replaced in them, and what is seen when the hint is typed
TYPED = {
    'hello': ('part2-v1.2', ("            'wsgi.url_scheme': 'http',\n", ''),
              "KeyError: 'wsgi.url_scheme'", 'Hello world from Flask!'),
    'environ': ('part2-v1.0', None, r'"PATH_INFO": "/caf%C3%A9\?a=1"', 'HTTP_X_PROBE'),
    'whole_request': ('part2-v1.0', None, r'(?m)^[0-9]+$', r'(?m)^4096$'),
    'whole_response': ('part2-v1.1', None, "before, after.*TypeError: 'NoneType' object is not callable",
                       r'close\(\) was called|written, returned'),
    'validator': ('part2-v1.1', None, 'HTTP/1.1 200 OK', r'close\(\) was called'),
    'binary_body': ('part2-v1.2', ('        echo(\'> \', data)\n        self.client_fd',
                                   '        data = data.decode("latin-1").encode()\n        self.client_fd'),
                    ' 194 128 194 129', ' 127 128'),
    'outlives': ('part2-v1.2', None, "KeyError: 'before the headers'", 'HTTP/1.1 200 OK'),
    'refuses': ('part2-v1.2', None, 'HTTP/1.1 200 OK', r'HTTP/1\.1 400'),
    'promises': ('part2-v1.2', None, r'\nX-Smuggled: two', r'HTTP/1\.1 500'),
}


@pytest.mark.parametrize('experiment', [experiment.__name__ for experiment in part2.EXPERIMENTS])
def test_a_hint_that_is_typed_shows_what_it_promises(tool, tmp_path, experiment):
    tool('curl')
    stage, change, shown, not_shown = TYPED[experiment]
    shutil.copy(ROOT / find_stage(stage).server, tmp_path / 'my_server.py')
    if change:
        changed(tmp_path, stage, *change)
        shutil.move(tmp_path / 'server.py', tmp_path / 'my_server.py')
    said = typed(HINTS[experiment], tmp_path)
    assert re.search(shown, said, re.DOTALL), said
    assert not re.search(not_shown, said), said


# what the evidence says first; the stage that has the bug; what is seen when the hint is typed
VARIANTS_TYPED = [
    ('outlives', 'an empty connection', 'part2-v1.2', 'ValueError: not enough values', '200 OK'),
    ('outlives', 'bytes that are not text', 'part2-v1.2', 'ValueError: not enough values', '200 OK'),
    ('outlives', 'a client that has gone before an error reply', 'part2-v1.2', 'not enough values', '200 OK'),
    ('outlives', 'a client that has gone before an error reply', 'part2-v1.3', '200 OK', 'Broken pipe'),
    ('outlives', 'a client that has gone before its reply', 'part2-v1.2', 'BrokenPipe|Reset', '200 OK'),
    ('outlives', 'an app that calls exit', 'part2-v1.2', 'must not end its server', '200 OK'),
    ('outlives', 'an app that raises halfway', 'part2-v1.2', 'exit status 0', 'exit status [1-9]'),
    ('refuses', 'no Host', 'part2-v1.2', 'HTTP/1.1 200 OK', ' 400 '),
    ('refuses', 'a NUL in a header', 'part2-v1.2', 'HTTP/1.1 200 OK', ' 400 '),
    ('refuses', 'a Content-Length in words', 'part2-v1.2', 'ValueError: invalid literal', 'HTTP/1.1'),
    ('refuses', 'a chunked body', 'part2-v1.2', 'Connection: close\r?\n\r?\n', 'hello'),
    ('promises', 'a status with an ESC', 'part2-v1.2', 'HTTP/1.1 200 O\x1bK', ' 500 '),
    ('promises', 'more than its Content-Length', 'part2-v1.2', 'eleven byte', ' 500 '),
    ('keep_alive', 'a GET', 'part2-v1.4', 'Connection: close', '(?s)200 OK.*200 OK'),
    ('promises', 'a body for HEAD', 'part2-v1.2', 'to be closed', ' 500 '),
]


@pytest.mark.parametrize(('experiment', 'name', 'stage', 'shown', 'not_shown'), VARIANTS_TYPED)
def test_the_hint_for_one_wrong_thing_shows_that(tool, tmp_path, experiment, name, stage, shown, not_shown):
    for name_of_tool in 'curl', 'ss', 'ps':
        tool(name_of_tool)
    shutil.copy(ROOT / find_stage(stage).server, tmp_path / 'my_server.py')
    said = typed(hint(experiment, f'wrong: {name}: ...; and more'), tmp_path)
    assert re.search(shown, said, re.DOTALL), said
    assert not re.search(not_shown, said), said


def test_there_is_a_hint_for_each_malformed_request_and_each_broken_promise():
    patterns = [pattern for _, pattern, _ in VARIANTS]
    for name, *_ in part2.MALFORMED + part2.WELL_FORMED + part2.PROMISES:
        assert f'^wrong: {re.escape(name)}: ' in patterns


def typed(shown, folder):
    """Start a server as a hint says, type its command; return what both print without the server's echo."""
    start = start_line(shown, f'python3 -u {folder}/my_server.py').replace('PORT=8888', f'PORT={free_port()}')
    with ServerProcess(['sh', '-c', start], env={'PATH': FRAMEWORKS}) as server:
        script = shown.command.replace('localhost', '127.0.0.1').replace('8888', str(server.port))
        env = {name: value for name, value in os.environ.items() if name != 'PROBES'}
        run = subprocess.run(['bash', '-c', script], env=env, text=True, errors='replace',
                             capture_output=True, timeout=30)
        server.let_rest()
        echoed = [line for line in server.output().splitlines() if line[:2] not in ('< ', '> ')]
        return run.stdout + run.stderr + '\n'.join(echoed)
