"""The stages as texts: short, alone, and one lesson away from each other."""
import ast
import difflib
import shutil
import sys

import pytest

from common.stages import ROOT, all_stages, find_stage, stage_before
from laboratory.instruments.client import exchange
from laboratory.instruments.process import ServerProcess, stage_server

STAGES = [stage.name for stage in all_stages()]
MOST_LINES = {'part2-v1.0': 120, 'part2-v1.1': 165, 'part2-v1.2': 205, 'part2-v1.3': 255, 'part2-v1.4': 300,
              'part2-final': 335}  # 65 of the others

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
}


def source(stage_name):
    return (ROOT / find_stage(stage_name).server).read_text()


def owners(text):
    """For each line of code its function (or class, or module-level statement); None for others."""
    tree = ast.parse(text)
    owner = {}
    for node in tree.body:
        for part in (node.body if getattr(node, 'name', '') == 'WSGIServer' else [node]):
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
    names = changed(source(stage_before(find_stage(stage)).name), source(stage))
    assert set(names) - {'module'} <= functions
    assert len(names) <= budget


def test_every_stage_but_the_first_of_a_part_is_a_step():
    assert [stage.name for stage in all_stages() if stage_before(stage)] == list(STEPS)


@pytest.mark.parametrize('stage', STAGES)
def test_a_stage_that_is_copied_out_runs_without_a_warning(stage, tmp_path):
    shutil.copy(ROOT / find_stage(stage).server, tmp_path)
    shutil.copy(ROOT / 'part2/apps/wsgiapp.py', tmp_path)
    app = ['wsgiapp:app'] if stage.startswith('part2') else []
    command = [sys.executable, '-W', 'error', str(tmp_path / 'server.py'), *app]
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
