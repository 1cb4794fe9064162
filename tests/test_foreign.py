"""The experiments of parts 3 and 4 on servers that are built otherwise than the stages."""
import sys
from functools import partial

import pytest

from common.stages import ROOT
from laboratory.experiments import part3, part4
from laboratory.experiments.verdicts import measure
from laboratory.grade import own_server, try_out

SERVERS = ROOT / 'tests/servers'
EXPERIMENTS = {experiment.__name__: experiment for experiment in part3.EXPERIMENTS + part4.EXPERIMENTS}


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
    ('wsgiref', 'few_processes', 'pass'),
    ('wsgiref', 'drip', 'bug'),
    ('wsgiref', 'idle_clients', 'bug'),  # after 7 of them its backlog is full
    ('wsgiref_threads', 'keep_alive', 'bug'),
    ('wsgiref_threads', 'smuggling', 'pass'),
])
def test_a_wsgi_server_is_judged_by_what_it_does(name, experiment, outcome):
    start = partial(own_server, f'{sys.executable} tests/corpus/wsgi_servers.py {name}', patience=1)
    found = measure(EXPERIMENTS[experiment], start)
    assert found.outcome == outcome, found


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
    pace = try_out(start, None)
    assert pace > 0.2
    assert measure(part3.end_of_reply, partial(start, pace=pace)).outcome == 'pass'
