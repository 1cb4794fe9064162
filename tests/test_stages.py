"""The stages as texts: short, alone, and one lesson away from each other."""
import ast
import difflib
import shutil
import sys

import pytest

from common.stages import ROOT, all_stages, find_stage, stage_before, stages_of
from laboratory.instruments.client import exchange
from laboratory.instruments.process import ServerProcess, stage_server
from tests.test_house import imports

STAGES = [stage.name for stage in all_stages()]
MOST_LINES = {'part2-v1.0': 120, 'part2-v1.1': 165, 'part2-v1.2': 205, 'part2-v1.3': 255, 'part2-v1.4': 300,
              'part2-final': 335, 'part4-v1.0': 355, 'part4-v1.1-protocol': 170, 'part4-v1.1': 160,
              'part4-v1.2': 195, 'part4-v1.3': 220, 'part4-v1.4': 230, 'part4-v2.0': 280,
              'part4-v2.1': 380, 'part4-v2.2': 495, 'part4-v2.3': 580,
              'part4-final': 600}  # 65 of the others
MOST_OF_PROTOCOL = {'part4-v1.4': 340, 'part4-final': 415}  # from that stage on, and 275 before
CLASSES = 'WSGIServer', 'Connection', 'Response'  # whose methods are looked at one by one
PREPARES = ['part4-v1.1-protocol']  # moves code into another file

# For each step the functions that its lesson is about, and its budget of changed lines of code.
STEPS = {
    'part2-v1.1': ({'handle_one_request', 'read_request', 'read_head', 'parse_request', 'read_body',
                    'get_environ'}, 55),
    'part2-v1.2': ({'__init__', 'handle_one_request', 'start_response', 'write', 'response_head',
                    'finish_response', 'finish_connection'}, 60),
    'part2-v1.3': ({'HangUp', '__init__', 'serve_forever', 'handle_one_request', 'answer_request',
                    'read_request', 'read_head', 'read_body', 'write', 'finish_response', 'send_error',
                    'finish_connection', 'echo', 'main'}, 78),
    'part2-v1.4': ({'RequestError', 'answer_request', 'read_head', 'parse_request', 'read_body'}, 72),
    'part2-final': ({'handle_one_request', 'start_response', 'check_promises', 'write',
                     'finish_response'}, 35),
    'part3-v1.1-fd-leak': ({'serve_forever'}, 15),
    'part3-v1.1': ({'serve_forever'}, 15),
    'part3-v1.2': ({'handle_exit', 'serve_forever'}, 15),
    'part3-v1.3': ({'serve_forever'}, 15),
    'part3-final': ({'handle_exit'}, 15),
    'part4-v1.0': ({'handle_exit', 'request_queue_size', 'serve_forever', 'get_environ'}, 30),
    'part4-v1.1': ({'handle_exit', 'serve_forever', 'serve_clients'}, 32),
    'part4-v1.2': ({'serve_forever', 'fork_worker', 'end_with_supervisor', 'handle_one_request',
                    'serve_clients'}, 50),
    'part4-v1.3': ({'fork_worker', 'serve_clients', 'read_request', 'run_application', 'send'}, 42),
    'part4-v1.4': ({'__init__', 'handle_client', 'handle_one_request', 'read_request', 'Request',
                    'parse_requests', 'take_body', 'check_transfer_coding', 'take_chunks', 'start_response',
                    'framed', 'response_head', 'finish_response', 'send'}, 98),
    'part4-v2.0': ({'__init__', 'serve_clients', 'run_task', 'accept_clients', 'handle_client',
                    'handle_one_request', 'read_request', 'run_application', 'send', 'when_ready',
                    'finish_connection'}, 150),
    'part4-v2.1': ({'__init__', 'fork_worker', 'serve_clients', 'run_task', 'run_woken_tasks', 'wake_up',
                    'watch_applications', 'start_thread', 'run_applications', 'handle_client',
                    'handle_one_request', 'run_application', 'call_application', 'hand_over',
                    'leave_if_forked'}, 120),
    'part4-v2.2': ({'__init__', 'serve_forever', 'next_signals', 'fork_workers', 'reap_workers',
                    'fork_worker', 'serve_clients', 'stop_at_sigterm', 'accept_clients', 'handle_client',
                    'read_request', 'call_application', 'when_ready', 'signal_socket', 'hold_signals',
                    'release_signals', 'default_signals',
                    'check_application', 'main'}, 160),
    'part4-v2.3': ({'__init__', 'serve_clients', 'start_thread', 'follow_and_lead', 'become_leader',
                    'leave_loop', 'begin_call', 'end_call', 'run_loop', 'find_ready', 'run_task',
                    'run_woken_tasks', 'take_wake_ups', 'wake_up', 'run_applications', 'stop_at_sigterm',
                    'handle_one_request', 'run_application', 'call_application', 'hand_over', 'write',
                    'send_some', 'wait_for_client'}, 250),
    'part4-final': ({'__init__', 'serve_clients', 'find_ready', 'start_task', 'run_task',
                     'accept_clients', 'handle_client', 'handle_one_request', 'read_request',
                     'call_application', 'when_ready', 'finish_connection', 'Request', 'take_request',
                     'take_head', 'lines_of', 'check_target', 'parse_fields', 'take_fields', 'field_name',
                     'environ_key', 'take_body', 'content_length', 'take_chunks', 'take_trailers',
                     'base_environ', 'get_environ', 'response_head', 'http_date', 'check_promises',
                     'sendable_name'}, 220),
}


def source(stage_name, file='server.py'):
    path = ROOT / find_stage(stage_name).folder / file
    return path.read_text() if path.exists() else ''


def owners(text):
    """For each line of code its function (or class, or module-level statement); None for others."""
    tree = ast.parse(text)
    owner = {}
    for node in tree.body:
        for part in (node.body if getattr(node, 'name', '') in CLASSES else [node]):
            for number in range(part.lineno, part.end_lineno + 1):
                owner[number] = getattr(part, 'name', 'module')
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    docstrings = [node.body[0] for node in documented if ast.get_docstring(node)]
    not_code = {number for node in docstrings for number in range(node.lineno, node.end_lineno + 1)}
    return [None if number in not_code or not line.strip() or line.strip().startswith('#')
            else owner.get(number, 'module') for number, line in enumerate(text.splitlines(), 1)]


def changed(before, after):
    """The owners of the lines of code that one text has and the other has not."""
    old, new = owners(before), owners(after)
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    names = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != 'equal':
            names += old[i1:i2] + new[j1:j2]
    return [name for name in names if name]


@pytest.mark.parametrize('stage', STAGES)
def test_a_stage_is_short(stage):
    assert len(source(stage).splitlines()) <= MOST_LINES.get(stage, 65)


@pytest.mark.parametrize('stage', STEPS)
def test_a_step_is_its_lesson_and_nothing_else(stage):
    functions, budget = STEPS[stage]
    before = stage_before(find_stage(stage)).name
    names = [name for file in find_stage(stage).files
             for name in changed(source(before, file), source(stage, file))]
    assert set(names) - {'module'} <= functions
    assert len(names) <= budget


def test_every_stage_but_the_first_of_a_part_is_a_step():
    steps = [stage.name for stage in all_stages() if stage_before(stage)]
    assert [step for step in steps if step not in PREPARES] == list(STEPS)


def test_the_protocol_stays_as_it_is_until_the_step_that_is_about_it():
    texts = {stage.name: source(stage.name, 'protocol.py') for stage in stages_of('part4')}
    for same in ('v1.1-protocol', 'v1.1', 'v1.2', 'v1.3'), ('v1.4', 'v2.0', 'v2.1', 'v2.2', 'v2.3'):
        assert len({texts[f'part4-{version}'] for version in same}) == 1
    assert texts['part4-v1.0'] == ''
    most = 275
    for name, text in texts.items():
        most = MOST_OF_PROTOCOL.get(name, most)
        assert len(text.splitlines()) <= most


@pytest.mark.parametrize('stage', [stage.name for stage in stages_of('part4') if len(stage.files) > 1])
def test_the_protocol_knows_no_socket_no_process_and_no_time(stage):
    imported = {name.partition('.')[0] for name in imports(f'{find_stage(stage).folder}/protocol.py')}
    faster = {'functools', 'time'} if stage == 'part4-final' else set()  # a cache, and the time of Date
    assert imported == {'email', 'io', 'math', 're', 'sys', 'typing', 'urllib', 'wsgiref'} | faster


@pytest.mark.parametrize('stage', STAGES)
def test_a_stage_that_is_copied_out_runs_without_a_warning(stage, tmp_path):
    for name in find_stage(stage).files:
        shutil.copy(ROOT / find_stage(stage).folder / name, tmp_path)
    shutil.copy(ROOT / 'part2/apps/wsgiapp.py', tmp_path)
    command = [sys.executable, '-W', 'error', str(tmp_path / 'server.py'), *find_stage(stage).arguments]
    with ServerProcess(command) as server:
        assert exchange(server).data.startswith(b'HTTP/1.1 200 OK\r\n')
        assert server.output().splitlines()[0] == f'Serving HTTP on port {server.port} ...'
        assert 'Warning' not in server.output()


@pytest.mark.parametrize('app', ['wsgiapp', 'flaskapp', 'pyramidapp', 'djangoapp'])
def test_an_application_is_one_short_file(app):
    assert len((ROOT / f'part2/apps/{app}.py').read_text().splitlines()) <= 15


def test_the_accept_of_python_2_returns_what_that_of_python_3_does():
    with stage_server(find_stage('part2-v1.1'), 'wsgi_probes:app', pep475='off') as server:
        assert b'"REMOTE_ADDR": "127.0.0.1"' in exchange(server).data
