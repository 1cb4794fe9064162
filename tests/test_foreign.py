"""The experiments on servers that are built otherwise than the stages, or wrong otherwise."""
import os
import re
import shlex
import socket
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from common.stages import ROOT
from laboratory.bugs import BUGS, restless
from laboratory.bugs.broken_reply import wrong
from laboratory.instruments import cpu, kernel
from laboratory.instruments.client import FIN, Reading
from laboratory.instruments.curl import Read
from laboratory.instruments.experiment import BUG, Result, measure
from laboratory.instruments.own import Tried, own_server, try_out
from laboratory.instruments.process import PATIENCE
from laboratory.instruments.telling import to_see
from tests.helpers import PYTHON

FOREIGN, LOOPS, WSGI = 'servers/foreign.py', 'servers/event_loop.py', 'corpus/wsgi_servers.py'
SILENT = 'servers/never_answers.py'


def judged(command, bug, pace=0.0):
    """What an experiment says of a server: the outcome, or the case of its bug."""
    result = measure(BUGS[bug], partial(own_server, command, pace=pace, patience=PATIENCE))
    return result.case if result.outcome == BUG else result.outcome


@pytest.mark.parametrize(('file', 'name', 'bug', 'due'), [
    (FOREIGN, 'ports_of_its_own', 'silent_client', 'waits|later_client|pool'),  # by chance
    (FOREIGN, 'workers_that_wait', 'stopped_child', 'waits'),
    (FOREIGN, 'workers_with_zombies', 'zombie', 'zombie'),
    (FOREIGN, 'worker_for_each', 'zombie', 'pass'),
    (FOREIGN, 'worker_for_each', 'stopped_child', 'not tested'),
    (FOREIGN, 'two_ports', 'silent_client', 'pass'),
    (FOREIGN, 'two_threads', 'silent_client', 'pool'),
    (FOREIGN, 'three_workers', 'silent_client', 'pool'),
    (FOREIGN, 'answers_unasked', 'silent_client', 'unasked'),
    (FOREIGN, 'short_limit', 'silent_client', 'cut_off'),
    (FOREIGN, 'long_limit', 'silent_client', 'pass'),
    (FOREIGN, 'collects', 'silent_client', 'pass'),
    (FOREIGN, 'takes_pieces_for_requests', 'silent_client', 'in_pieces'),
    (FOREIGN, 'waits_in_its_loop', 'silent_client', 'halfway'),
    (FOREIGN, 'never_stops_at_0', 'silent_client', 'later_client'),
    (FOREIGN, 'hangs_at_client_42', 'silent_client', 'no answer'),
    (FOREIGN, 'keeps_connections', 'silent_client', 'pass'),
    (FOREIGN, 'keeps_connections', 'broken_reply', 'pass'),
    (FOREIGN, 'keeps_and_forgets', 'broken_reply', 'unanswered'),
    (FOREIGN, 'leaks_the_second', 'no_fin', 'no_end'),
    (FOREIGN, 'leaks_the_second', 'fd_leak', 'socket'),
    (FOREIGN, 'sleeps_for_a_while', 'no_fin', 'pass'),
    (FOREIGN, 'sleeps_for_a_while', 'zombie', 'zombie'),
    (FOREIGN, 'sleeps_for_long', 'no_fin', 'sleeps'),
    (FOREIGN, 'sleeps_for_long', 'zombie', 'not tested'),
    (FOREIGN, 'sleeps_and_leaks', 'no_fin', 'no_end'),
    (FOREIGN, 'never_closes', 'no_fin', 'kept'),
    (FOREIGN, 'shuts_down', 'fd_leak', 'shut'),
    (FOREIGN, 'logger', 'zombie', 'no child'),
    (FOREIGN, 'spare_worker', 'shared_crash', 'no child'),
    (FOREIGN, 'spare_worker', 'stopped_child', 'no child'),
    (FOREIGN, 'answers_at_once', 'stopped_child', 'not tested'),
    (FOREIGN, 'is_started_again', 'eintr', 'ends'),
    (FOREIGN, 'misspells_eintr', 'eintr', 'ended'),
    (FOREIGN, 'forks_late', 'lost_signal', 'none_reaped'),
    (FOREIGN, 'forks_late', 'stopped_child', 'not tested'),
    (FOREIGN, 'forks_late_and_reaps', 'eintr', 'ends'),
    (FOREIGN, 'children_that_stay', 'zombie', 'never_ends'),
    (FOREIGN, 'children_that_stay', 'fd_leak', 'pass'),
    (FOREIGN, 'children_that_stay', 'eintr', 'not tested'),
    (FOREIGN, 'reaps_each_second', 'zombie', 'pass'),
    (FOREIGN, 'forks_twice', 'zombie', 'pass'),
    (FOREIGN, 'helper', 'zombie', 'no child'),
    (FOREIGN, 'fills_a_pool', 'fd_leak', 'pass'),
    (FOREIGN, 'ipv6', 'eintr', 'ends'),
    (FOREIGN, 'resets', 'no_fin', 'reset'),
    (FOREIGN, 'raises_in_handler', 'eintr', 'ended'),
    (FOREIGN, 'two_pieces', 'leaving_client', 'ends'),
    (FOREIGN, 'sigpipe', 'leaving_client', 'ends'),
    (FOREIGN, 'sigpipe_in_children', 'leaving_client', 'pass'),
    (FOREIGN, 'workers_that_end', 'leaving_client', 'processes'),
    (FOREIGN, 'worker_for_each', 'leaving_client', 'pass'),
    (FOREIGN, 'threads_that_end', 'leaving_client', 'hangs'),
    (FOREIGN, 'spins_when_one_has_left', 'leaving_client', 'hangs'),
    (FOREIGN, 'keeps_the_wordless', 'leaving_client', 'descriptors'),
    (FOREIGN, 'keeps_the_wordless', 'restless', 'reads'),
    (FOREIGN, 'leaks_the_second', 'leaving_client', 'pass'),  # and others keep as many
    (FOREIGN, 'fills_a_pool', 'leaving_client', 'pass'),
    (FOREIGN, 'resets', 'leaving_client', 'pass'),
    (FOREIGN, 'hangs_at_the_third', 'leaving_client', 'no answer'),
    (FOREIGN, 'never_stops_at_0', 'restless', 'handler'),
    (FOREIGN, 'never_rests', 'restless', 'accepts'),
    (FOREIGN, 'threads_that_stay', 'restless', 'threads'),
    (FOREIGN, 'reaps_each_second', 'restless', 'pass'),
    (FOREIGN, 'fills_a_pool', 'restless', 'pass'),
    (FOREIGN, 'children_that_listen', 'held_port', 'child'),
    (FOREIGN, 'logger_that_listens', 'held_port', 'process'),
    (FOREIGN, 'workers_with_zombies', 'held_port', 'not tested'),  # its workers serve on
    (FOREIGN, 'threads', 'held_port', 'pass'),
    (FOREIGN, 'ends_at_the_third', 'fd_leak', 'ended'),
    (FOREIGN, 'hangs_at_the_third', 'fd_leak', 'no answer'),
    (FOREIGN, 'never_rests', 'no_fin', 'pass'),
    (FOREIGN, 'threads', 'shared_crash', 'all_end'),
    (FOREIGN, 'fills_a_pool', 'shared_crash', 'no child'),
    (FOREIGN, 'forks_late', 'shared_crash', 'not tested'),
    (SILENT, '', 'many_processes', 'no answer'),  # though it needs no process for each client
    (SILENT, '', 'idle_clients', 'no answer'),  # though others are not answered
    (SILENT, '', 'non_reader', 'no answer'),
    *[(WSGI, 'part2_forks', bug, 'pass') for bug in (  # those that end clients, applications or connections
        'partial_request', 'partial_response', 'fatal_failure', 'malformed_request', 'broken_promise')],
    (WSGI, 'part2_forks', 'many_processes', 'process_each'),  # with a listen backlog of 5
    (WSGI, 'part2_forks', 'dead_worker', 'no worker'),
    (WSGI, 'part2_forks', 'idle_clients', 'process_each'),
    (WSGI, 'part2_prefork', 'waiting_application', 'others_wait'),
    (WSGI, 'part2_prefork', 'no_descriptors', 'not tested'),
    (WSGI, 'part2_prefork', 'lost_reply', 'never_ends'),
    (WSGI, 'part2_orphans', 'dead_worker', 'no worker'),  # whose parent ends once it has forked them
    (WSGI, 'part2_graceful', 'lost_reply', 'pass'),
    (WSGI, 'part2_graceful', 'lost_restart', 'pass'),
    (WSGI, 'part2_graceful', 'lost_request', 'pass'),
    (WSGI, 'part2_reopens', 'lost_restart', 'lost'),
    (WSGI, 'part2_reopens', 'lost_request', 'lost|unfinished'),  # by chance
    (WSGI, 'part2_threads', 'stuck_worker', 'stuck'),
    (WSGI, 'part2_threads', 'idle_clients', 'pass'),
    (WSGI, 'part2_threads', 'waiting_application', 'pass'),
    (WSGI, 'part2_threads', 'non_reader', 'pass'),
    (WSGI, 'part2_one_timer', 'stuck_worker', 'reset'),
    (WSGI, 'part2_grace', 'lost_reply', 'pass'),
    (WSGI, 'part2_grace', 'lost_request', 'pass'),
    (WSGI, 'part2_many', 'leaks', 'pass'),
    (WSGI, 'wsgiref_forks', 'many_processes', 'process_each'),
    (WSGI, 'wsgiref_forks', 'idle_clients', 'process_each'),
    (WSGI, 'wsgiref', 'many_processes', 'no worker'),
    (WSGI, 'wsgiref', 'environ', 'pass'),
    (WSGI, 'wsgiref', 'leaks', 'pass'),
    (WSGI, 'part2_prefork', 'orphaned_workers', 'orphans'),
    (WSGI, 'part2_orphans', 'many_processes', 'pass'),
    (WSGI, 'wsgiref', 'slowloris', 'each_byte'),
    (WSGI, 'wsgiref', 'idle_clients', 'others_wait'),  # after 7 of them its backlog is full
    (WSGI, 'wsgiref_threads', 'one_request', 'closes'),
    (WSGI, 'wsgiref_threads', 'smuggling', 'pass'),
    (LOOPS, 'Loop', 'waiting_application', 'others_wait'),
    (LOOPS, 'Threads', 'waiting_application', 'no_reply'),
    (LOOPS, 'ThreadsThatWake', 'waiting_application', 'pass'),
    (LOOPS, 'Loop', 'non_reader', 'pass'),
    (LOOPS, 'Dying', 'no_descriptors', 'ends'),
    (LOOPS, 'Resting', 'no_descriptors', 'pass'),
    (LOOPS, 'Retrying', 'no_descriptors', 'never_rests'),
])
def test_a_server_is_judged_by_what_it_does(file, name, bug, due):
    assert re.fullmatch(due, judged(f'{PYTHON} tests/{file} {name}', bug))


@pytest.mark.parametrize(('language', 'file', 'due'), [
    ('perl', 'indented.pl', 'indented'), ('node', 'wrong_length.js', 'too_short'), ('gcc', 'sizeof.c', 'nul'),
    ('node', 'event_loop.js', 'pass')])
def test_a_reply_is_judged_in_any_language(language, file, due, tool, tmp_path):
    command = f'{tool(language)} tests/servers/{file}'
    if language == 'gcc':
        subprocess.run([*shlex.split(command), '-o', tmp_path / 'server'], cwd=ROOT, check=True)
        command = shlex.quote(f'{tmp_path}/server')
    assert judged(command, 'broken_reply') == due


OK, PAGE = b'HTTP/1.1 200 OK\r\n', b'Hello, World!\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'


@pytest.mark.parametrize(('data', 'due'), [
    (OK + b'\r\n' + PAGE, 'pass'),
    (OK.replace(b'1.1', b'1.0') + b'\r\n' + PAGE, 'pass'),
    (b'HTTP/1.1 200\r\n\r\n' + PAGE, 'pass'),
    (b'http/1.1 200 OK\r\n\r\n' + PAGE, 'pass'),  # h11 refuses it
    (b'HTTP/1.1 200 OK\nServer: mine\n\n' + PAGE, 'pass'),
    (OK + b'Content-Type : text/plain\r\n\r\n' + PAGE, 'pass'),  # h11 refuses it
    (OK + b'Server: mine\r\n and yours\r\n\r\n' + PAGE, 'pass'),
    (OK + b'Content-Length: 14\r\n\r\n' + PAGE, 'pass'),
    (CHUNKED + b'e\r\n' + PAGE + b'\r\n0\r\n\r\n', 'pass'),
    (b' ' + OK + b'\r\n' + PAGE, 'indented'),
    (b'\n' + OK + b'\r\n' + PAGE, 'indented'),
    (b'HTTP/1.1 200 OK\n    Server: mine\n    \n    Hello, World!\n', 'indented'),
    (b'HTTP/1.1 200 OK\n    \n    Hello, World!\n', 'indented'),
    (PAGE, 'no_status_line'),
    (b'Status: 200 OK\r\n\r\n' + PAGE, 'no_status_line'),
    (b'HTTP/1.1 OK\r\n\r\n' + PAGE, 'status_line'),
    (b'HTTP/1.2 200 OK\r\n\r\n' + PAGE, 'status_line'),  # h11 takes it
    (OK + PAGE, 'no_blank_line'),
    (OK.replace(b'\r\n', br'\r\n') + br'\r\n' + PAGE, 'no_blank_line'),
    (OK + b'Content-Type text/plain\r\n\r\n' + PAGE, 'header_line'),
    (OK + b'\0\r\n' + PAGE, 'nul'),
    (OK + b'Content-Length: 20\r\n\r\n' + PAGE, 'too_long'),
    (OK + b'Content-Length: 13\r\n\r\n<p>Gr\xc3\xbc\xc3\x9fe</p>\n', 'too_short'),
    (OK + b'Content-Length: -1\r\n\r\n' + PAGE, 'wrong_length'),
    (OK + b'Content-Length: 14\r\nContent-Length: 5\r\n\r\n' + PAGE, 'wrong_length'),
    (CHUNKED + PAGE, 'chunked'),
    (CHUNKED + b'14\r\n' + PAGE + b'\r\n0\r\n\r\n', 'chunked'),
    (CHUNKED + b'e\r\n' + PAGE + b'\r\n', 'chunked'),
])
def test_a_reply_is_wrong_where_curl_does_not_print_its_page(data, due, tool):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        listener.settimeout(kernel.LIMIT)
        url = f'http://127.0.0.1:{listener.getsockname()[1]}/'
        command = [tool('curl'), '-s', '-m', '20', '--noproxy', '*', url]
        curl = subprocess.Popen(command, stdout=subprocess.PIPE)
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            client.sendall(data)
        got, _ = curl.communicate()
    assert ((curl.returncode, got) == (0, PAGE)) is (due == 'pass')
    reading = Reading()
    reading.take(data)
    reading.take(b'')
    assert (wrong(Read(reading.reply(FIN)), is_last=True) or ['pass'])[0] == due


LISTENS = """
import os, signal, socket, threading, time
listen_socket = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
theirs = socket.create_connection(listen_socket.getsockname())
ours, _ = listen_socket.accept()
{}
while True:
    listen_socket.accept()
"""


@pytest.mark.skipif(not kernel.LINUX, reason='looks at /proc')
@pytest.mark.parametrize(('line', 'waits'), [
    ('', True),
    ('os.fork() and os.wait()', True),
    ('listen_socket.settimeout(60)', False),
    ('signal.signal(signal.SIGALRM, lambda *_: None)', False),
    ('threading.Thread(target=time.sleep, args=[60]).start()', False),
    ('os.fork() or time.sleep(60)', False),
    ('os.fork() or ours.recv(1)', True),
    ('os.fork() or signal.pause()', True),
    ('os.fork() or os.read(os.pipe()[0], 1)', True),
    ('os.fork() or ours.sendall(bytes(10**8))', True),
])
def test_a_server_waits_for_others_if_no_clock_calls_it_back(tmp_path, line, waits):
    (tmp_path / 'server.py').write_text(LISTENS.format(line))
    with own_server(f'{PYTHON} {shlex.quote(str(tmp_path))}/server.py') as server:
        assert server.waits_for_others() is waits


def test_a_reader_types_a_client_that_leaves_as_those_did_that_have_ended_the_server():
    bug, command = BUGS['leaving_client'], f'{PYTHON} tests/servers/foreign.py sigpipe'
    result = measure(bug, partial(own_server, command))
    assert result.detail == 'SIGPIPE has ended the server; a client had just left without a word'
    assert 'SO_LINGER' not in to_see(bug, result, command, Tried(0.0, '8888', True))[1]
    assert 'SO_LINGER' in to_see(bug, Result(BUG), command, Tried(0.0, '8888', True))[1]


def test_a_thread_that_has_waited_longer_than_we_have_does_not_spin(monkeypatch):
    times = [{'/proc/7/task/7': used} for used in [(1.0, 0.0), (1.001, 60.0)] * 2]  # CPU, waits
    monkeypatch.setattr(cpu, 'run_times', lambda pids: times.pop(0))
    server = SimpleNamespace(processes=lambda: [7], wait_until=lambda *args, **most: None)
    assert restless.who_spins(server) is None


@pytest.mark.parametrize('option', ['-I', '-BuE'])
def test_a_python_that_ignores_variables_gets_the_old_accept_too(option):
    folder = shlex.quote(os.path.dirname(sys.executable))
    assert judged(f'PATH={folder}:$PATH; python3 {option} part3/v1.2/server.py', 'eintr') == 'ends'


def test_without_the_old_accept_eintr_is_not_tested(tmp_path):
    (tmp_path / 'start').write_text(f'exec {PYTHON} -I part3/v1.2/server.py\n')
    assert judged(f'sh {shlex.quote(str(tmp_path))}/start', 'eintr') == 'not tested'


def test_the_grader_waits_for_a_reply_that_pauses():
    command = f'{PYTHON} tests/servers/foreign.py pauses'
    assert judged(command, 'no_fin', try_out(own_server(command)).pace) == 'pass'
