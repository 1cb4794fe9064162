"""The stages as texts: short, alone, and one lesson away from each other."""
import ast
import difflib
import re
import shutil
import subprocess
import sys

import pytest

from common.stages import ROOT, all_stages, find_stage, is_own, stage_before, stages_of, steps_of
from laboratory.instruments import kernel
from laboratory.instruments.client import REQUEST, connect, fetch
from laboratory.instruments.process import ServerProcess, stage_server
from tests.helpers import altered, press_ctrl_c, protocols
from tests.test_house import imports

OWN = [pytest.param(stage.name, marks=pytest.mark.skip(reason=f'{stage.folder} is a folder of your own'))
       for stage in all_stages() if is_own(stage.folder)]
STAGES = [stage.name for stage in all_stages() if not is_own(stage.folder)]
MOST_LINES = {'part1': 65, 'part2-v1.0': 120, 'part2': 370, 'part3': 65, 'part4': 610}
MOST_OF_PROTOCOL = 400
CLASSES = 'WSGIServer', 'Connection', 'Response'  # whose methods are looked at one by one
PREPARES = ['part4-v1.1-protocol']  # moves code into another file

# For each step how many lines of code it changes, and the functions that its lesson is about. Between the
# first and the last stage that have a property, a line that is lost would change a number here.
STEPS = dict(line.split(maxsplit=1) for line in """
part2-v1.1 52 handle_one_request read_request read_head parse_request read_body get_environ
part2-v1.2 57 __init__ handle_one_request start_response write response_head finish_response \
finish_connection
part2-v1.3 82 HangUp __init__ serve_forever handle_one_request answer_request read_request read_head \
read_body get_environ write finish_response send_error finish_connection echo main
part2-v1.4 91 RequestError answer_request read_head parse_request read_body check_host elements
part2-final 39 handle_one_request read_head start_response check_promises write finish_response
part3-v1.1-fd-leak 10 serve_forever
part3-v1.1 3 serve_forever
part3-v1.2 7 handle_exit serve_forever
part3-v1.3 5 serve_forever
part3-final 12 handle_exit
part3-threads 11 handle_request serve_forever
part4-v1.0 30 handle_exit serve_forever get_environ
part4-v1.1 32 handle_exit serve_forever serve_clients handle_one_request
part4-v1.2 51 serve_forever fork_worker end_with_supervisor serve_clients handle_one_request
part4-v1.3 33 fork_worker serve_clients handle_one_request read_request run_application send main
part4-v1.4 109 __init__ handle_client handle_one_request read_request send Request parse_requests take_body \
check_transfer_coding take_chunks start_response framed response_head finish_response
part4-v2.0 161 __init__ serve_clients run_loop find_ready start_task run_task leave_if_forked accept_clients \
handle_client break_off handle_one_request read_request run_application send when_ready finish_connection
part4-v2.1 175 fork_worker end_with_supervisor serve_clients watch_calls next_turn begin_call end_call \
run_loop run_task take_handed_over wake_up __init__ handle_client break_off handle_one_request failure \
run_application call_application write wait_for_client send
part4-v2.2 156 serve_forever next_signal forget_child watch_worker fork_workers fork_worker stop_worker \
end_with_supervisor serve_clients run_loop handle_sigterm stop_clients accept_clients Worker __init__ \
handle_client break_off read_request call_application when_ready report let_signals_act
part4-v2.3 55 __init__ serve_forever forget_child fork_workers staying reload replace_worker fork_worker \
serve_clients Worker main
part4-final 190 __init__ serve_clients next_turn run_loop find_ready start_task run_task stop_clients \
run_application call_application when_ready finish_connection Request take_request \
check_target take_fields parse_fields environ_key take_body content_length take_chunks \
get_environ base_environ framed response_head check_promises sendable_name
""".strip().splitlines())


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


def test_a_stage_is_short():
    most = {stage: MOST_LINES.get(stage, MOST_LINES[find_stage(stage).part]) for stage in STAGES}
    assert [stage for stage in STAGES if len(source(stage).splitlines()) > most[stage]] == []
    assert max(len(source(stage, 'protocol.py').splitlines()) for stage in STAGES) <= MOST_OF_PROTOCOL


@pytest.mark.parametrize('stage', [*STEPS, *OWN])
def test_a_step_is_its_lesson_and_nothing_else(stage):
    size, *functions = STEPS[stage].split()
    before = stage_before(find_stage(stage)).name
    names = [name for file in find_stage(stage).files
             for name in changed(source(before, file), source(stage, file))]
    assert set(names) - {'module'} <= set(functions)
    assert len(names) == int(size)


def test_every_stage_but_the_first_of_a_part_is_a_step():
    steps = [stage.name for stage in all_stages() if stage_before(stage)]
    assert [step for step in steps if step not in PREPARES] == list(STEPS)


def test_a_side_road_is_compared_with_a_step_and_is_none():
    threads = find_stage('part3-threads')
    assert stage_before(threads) == find_stage('part3-v1.0')
    assert threads in stages_of('part3') and threads not in steps_of('part3')


def test_the_protocol_stays_as_it_is_until_the_step_that_is_about_it():
    assert list(protocols()) == ['part4-v1.0', 'part4-v1.1-protocol', 'part4-v1.4', 'part4-final']


@pytest.mark.parametrize('stage', [name for name in STAGES if source(name, 'protocol.py')])
def test_the_protocol_knows_no_socket_no_process_and_no_time(stage):
    imported = {name.partition('.')[0] for name in imports(f'{find_stage(stage).folder}/protocol.py')}
    faster = {'functools', 'time'} if stage == 'part4-final' else set()  # a cache, and the time of Date
    assert imported == faster | {
        'email', 'io', 'ipaddress', 'math', 're', 'sys', 'typing', 'urllib', 'wsgiref'}


SHOWN = {  # of a request for /hello: what the client gets, and what is printed
    'part1': (b'Hello, World!\n', 'GET /hello HTTP/1.1\nHost: localhost\n'),
    'part2': (b'Hello world from a simple WSGI application!\n',
              '\n< GET /hello HTTP/1.1\n< Host: localhost\n< Connection: close\n'),
    'part4': (b'Hello world from a simple WSGI application!\n', ''),
}
SHOWN |= {'part3': SHOWN['part1'], 'part4-v1.0': SHOWN['part2']}


@pytest.mark.parametrize('stage', [*STAGES, *OWN])
def test_a_stage_that_is_copied_out_runs_and_prints_all_at_once_until_ctrl_c(stage, tmp_path):
    altered(stage, tmp_path)
    shutil.copy(ROOT / 'part2/apps/wsgiapp.py', tmp_path)
    command = [sys.executable, '-W', 'always', str(tmp_path / 'server.py'), *find_stage(stage).arguments]
    body, printed = SHOWN.get(stage) or SHOWN[find_stage(stage).part]
    with ServerProcess(command) as server:
        reply = fetch(server, REQUEST)
        assert reply.data.startswith(b'HTTP/1.1 200 OK\r\n') and reply.body == body
        with connect(server), connect(server):
            server.let_rest()  # a signal just before a system call does not interrupt it
            output = server.output().replace('\r\n', '\n')  # before the end, on which all would be flushed
            press_ctrl_c(server)
        assert output.startswith(f'Serving HTTP on port {server.port} ...\n{printed}')
        assert 'Warning' not in output
        if '<' in printed:  # as curl does
            assert '\n> HTTP/1.1 200 OK\n' in output and f'> {body.decode()}' in output
        assert not re.search('Traceback|KeyboardInterrupt', server.output())
        assert kernel.eventually(server.is_gone)


def test_a_folder_of_the_readers_own_beside_the_stages_breaks_no_test(tmp_path):
    for path in [*ROOT.glob('[a-z]*'), *ROOT.glob('*.md')]:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    shutil.copytree(ROOT / 'part3/v1.0', tmp_path / 'part3/mine')
    command = [sys.executable, '-m', 'pytest', '-o', 'addopts=', '-rs', '-q',
               '-k', 'test_house or test_stages and (step or mine)']
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert 'part3/mine is a folder of your own' in run.stdout
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize('app', ['wsgiapp', 'flaskapp', 'pyramidapp', 'djangoapp'])
def test_an_application_is_one_short_file(app):
    assert len((ROOT / f'part2/apps/{app}.py').read_text().splitlines()) <= 15


def test_the_accept_of_python_2_returns_what_that_of_python_3_does():
    with stage_server(find_stage('part2-v1.1'), 'wsgi_probes:app', pep475='off') as server:
        assert b'"REMOTE_ADDR": "127.0.0.1"' in fetch(server, REQUEST).data
