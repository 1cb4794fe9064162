"""The experiments of parts 3 and 4 on servers that are built otherwise than the stages."""
import re
import sys
from functools import partial

import pytest

from common.stages import ROOT
from laboratory.experiments import part3, part4_stopping
from laboratory.experiments.tables import EXPERIMENTS as ALL
from laboratory.experiments.verdicts import measure
from laboratory.instruments import kernel
from laboratory.instruments.own import own_server, try_out
from tests.test_cures import verdict as changed_verdict

SERVERS = ROOT / 'tests/servers'
EXPERIMENTS = {experiment.__name__: experiment
               for part in ('part3', 'part4') for experiment in ALL[part]}


def verdict(command, experiment):
    return measure(EXPERIMENTS[experiment], partial(own_server, command))


@pytest.mark.parametrize(('name', 'experiment', 'outcome'), [
    ('ports_of_its_own', 'silent_client', 'bug'),
    ('workers_that_wait', 'stopped_child', 'bug'),
    ('workers_with_zombies', 'one_child', 'bug'),
    ('worker_for_each', 'one_child', 'pass'),
    ('worker_for_each', 'stopped_child', 'not tested'),
    ('two_ports', 'silent_client', 'pass'),
    ('leaks_the_second', 'end_of_reply', 'bug'),
    ('leaks_the_second', 'descriptors', 'bug'),
    ('forks_late', 'children_at_once', 'bug'),
    ('forks_late', 'stopped_child', 'not tested'),
    ('forks_late_and_reaps', 'eintr', 'bug'),
    ('children_that_stay', 'one_child', 'bug'),
    ('children_that_stay', 'descriptors', 'pass'),
    ('children_that_stay', 'eintr', 'not tested'),
    ('reaps_each_second', 'one_child', 'pass'),
    ('forks_twice', 'children_at_once', 'pass'),
    ('helper', 'one_child', 'no child'),
    ('fills_a_pool', 'descriptors', 'pass'),
    ('ipv6', 'eintr', 'bug'),
    ('resets', 'end_of_reply', 'bug'),
    ('raises_in_handler', 'one_child', 'ended'),
    ('raises_in_handler', 'eintr', 'ended'),
    ('ends_at_the_third', 'descriptors', 'ended'),
    ('hangs_at_the_third', 'descriptors', 'no answer'),
])
def test_a_server_is_judged_by_what_it_does(name, experiment, outcome):
    found = verdict(f'cd tests/servers; {sys.executable} foreign.py {name}', experiment)
    assert found.outcome == outcome, found


@pytest.mark.parametrize(('name', 'experiment', 'outcome'), [
    ('part2_forks', 'few_processes', 'bug'),  # with a listen backlog of 5
    ('part2_forks', 'killed_workers', 'no worker'),
    ('part2_forks', 'idle_clients', 'bug'),
    ('part2_prefork', 'few_processes', 'pass'),
    ('part2_prefork', 'killed_workers', 'bug'),
    ('part2_prefork', 'killed_supervisor', 'bug'),
    ('part2_threads', 'stuck_application', 'bug'),
    ('part2_threads', 'idle_clients', 'pass'),
    ('part2_orphans', 'killed_workers', 'no worker'),  # whose parent ends once it has forked them
    ('part2_orphans', 'killed_supervisor', 'no worker'),
    ('part2_threads', 'waiting_application', 'pass'),
    ('part2_threads', 'non_reader', 'pass'),
    ('part2_prefork', 'waiting_application', 'bug'),
    ('part2_prefork', 'non_reader', 'bug'),
    ('part2_prefork', 'no_descriptors', 'not tested'),
    ('part2_prefork', 'stop_mid_reply', 'bug'),
    ('part2_graceful', 'stop_mid_reply', 'pass'),
    ('part2_graceful', 'restart_backlog', 'pass'),
    ('part2_graceful', 'reload', 'pass'),
    ('part2_reopens', 'restart_backlog', 'bug'),
    ('part2_reopens', 'reload', 'bug'),
    ('part2_threads', 'reload', 'no worker'),
    ('wsgiref', 'few_processes', 'pass'),
    ('wsgiref', 'drip', 'bug'),
    ('wsgiref', 'idle_clients', 'bug'),  # after 7 of them its backlog is full
    ('wsgiref_threads', 'keep_alive', 'bug'),
    ('wsgiref_threads', 'smuggling', 'pass'),
])
def test_a_wsgi_server_is_judged_by_what_it_does(name, experiment, outcome):
    patience = 1 if outcome == 'bug' else 5  # which only a bug makes an experiment wait for
    start = partial(own_server, f'{sys.executable} tests/corpus/wsgi_servers.py {name}', patience=patience)
    found = measure(EXPERIMENTS[experiment], start)
    assert found.outcome == outcome, found


@pytest.mark.parametrize(('name', 'experiment', 'outcome'), [
    ('Loop', 'waiting_application', 'bug'),
    ('Threads', 'waiting_application', 'bug'),  # whose replies nobody sends
    ('ThreadsThatWake', 'waiting_application', 'pass'),
    ('Loop', 'non_reader', 'pass'),
    ('Loop', 'late_clock', 'pass'),
    ('ClockFirst', 'late_clock', 'bug'),
    ('Loop', 'no_descriptors', 'bug'),
    ('Dying', 'no_descriptors', 'bug'),
    ('Resting', 'no_descriptors', 'pass'),
])
def test_an_event_loop_is_judged_by_what_it_does(name, experiment, outcome):
    start = partial(own_server, f'{sys.executable} tests/servers/event_loop.py {name}', patience=5)
    found = measure(EXPERIMENTS[experiment], start)
    assert found.outcome == outcome, found


@pytest.mark.parametrize(('function', 'leak', 'seen'), [
    ('run_application(self, request)', "vars(self).setdefault('leaked', []).append(bytes(60))",  # 101 bytes
     'more bytes of memory for each request'),
    ('handle_client(self)', 'os.dup(0)', 'more descriptors for 20 clients that have left'),
])
def test_a_leak_is_found(tmp_path, function, leak, seen):
    line = re.escape(f'    def {function}:\n')
    found = changed_verdict(tmp_path, 'part4-v1.4', 'server.py', f'({line})', rf'\1        {leak}\n',
                            part4_stopping.flat)
    assert found.outcome == 'bug', found
    assert seen in found.evidence


LISTENS = """
import os, signal, socket, struct, threading, time
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
    ('os.fork()', True),
    ('os.fork() and os.wait()', True),
    ('listen_socket.settimeout(60)', False),
    ('listen_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 60, 0))', False),
    ('signal.signal(signal.SIGALRM, lambda *_: None)', False),
    ('threading.Thread(target=time.sleep, args=[60]).start()', False),
    ('os.fork() or time.sleep(60)', False),
    ('os.fork() or ours.recv(1)', True),
    ('os.fork() or ours.sendall(bytes(10**8))', True),
    ('ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 60, 0)); '
     'os.fork() or ours.sendall(bytes(10**8))', False),
])
def test_a_server_waits_for_others_if_no_clock_calls_it_back(tmp_path, line, waits):
    (tmp_path / 'server.py').write_text(LISTENS.format(line))
    with own_server(f'{sys.executable} {tmp_path}/server.py') as server:
        assert server.waits_for_others() is waits


def test_a_server_that_never_rests_is_still_judged():
    assert verdict(f'{sys.executable} tests/servers/busy.py', 'end_of_reply').outcome == 'pass'


@pytest.mark.parametrize('option', ['-I', '-BuE'])
def test_a_python_that_ignores_variables_gets_the_old_accept_too(option):
    assert verdict(f'{sys.executable} {option} part3/v1.2/server.py', 'eintr').outcome == 'bug'


def test_without_the_old_accept_eintr_is_not_tested(tmp_path):
    script = tmp_path / 'server.py'
    script.write_text(f'#!{sys.executable} -I\n{(ROOT / "part3/v1.2/server.py").read_text()}')
    script.chmod(0o755)
    assert verdict(str(script), 'eintr').outcome == 'not tested'


def test_the_grader_waits_for_a_reply_that_pauses():
    start = partial(own_server, f'{sys.executable} tests/servers/foreign.py pauses')
    pace = try_out(start())
    assert measure(part3.end_of_reply, partial(start, pace=pace)).outcome == 'pass'
