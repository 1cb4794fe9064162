"""The questions and the hints of `make learn`."""
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from operator import attrgetter

import pytest

from common.stages import ROOT, all_stages, find_stage, stage_before
from laboratory.experiments import course, part3
from laboratory.experiments.lessons import (
    OTHER_HINTS,
    PREDICTIONS,
    THREE_HINTS,
    WHEN_IT_STOPS,
    filled,
    hints_for,
)
from laboratory.experiments.scenes import SCENES
from laboratory.experiments.tables import EXPERIMENTS
from laboratory.experiments.verdicts import Verdict
from laboratory.instruments.process import APPS, ServerProcess, free_port

LESSONS = [lesson for part in EXPERIMENTS for lesson in course.lessons(part)]
MOST = 330  # characters of a hint

# What gives a cure away: it is in the third hint, and not before.
GIVEAWAYS = {
    'silent_client': ['fork', '_exit'],
    'end_of_reply': ['client_fd', 'close()'],
    'descriptors': ['client_fd', 'close()', '_exit'],
    'one_child': ['SIGCHLD', 'signal.signal', 'wait()'],
    'eintr': ['InterruptedError', 'except', 'continue'],
    'children_at_once': ['WNOHANG', 'waitpid', 'loop'],
    'stopped_child': ['WNOHANG', 'waitpid'],
    'hello': ['get_environ', 'wsgi.input'],
    'environ': ['partition', 'unquote', 'HTTP_'],
    'whole_request': ['makefile', 'readline', 'Content-Length'],
    'whole_response': ['headers_sent', 'formatdate', 'finally', 'write('],
    'validator': ['finally', 'hasattr', 'result.close()'],
    'binary_body': ['latin-1', 'sendall', 'decode('],
    'outlives': ['try', 'BaseException', 'finally', 'settimeout', 'SO_LINGER'],
    'refuses': ['fullmatch', '[0-9]+', 'parse_request'],
    'promises': ['fullmatch', 'is_hop_by_hop', 'ValueError'],
    'few_processes': ['fork', 'accept()'],
    'killed_workers': ['wait()', 'fork'],
    'killed_supervisor': ['pipe', 'os.read', 'thread'],
    'stuck_application': ['setitimer', 'SIGALRM'],
    'drip': ['deadline', 'monotonic', 'settimeout', '408'],
    'slow_client': ['send()', 'settimeout'],
    'keep_alive': ['Content-Length', 'chunked', 'parse_requests'],
    'chunked_body': ['take_line', 'int(', 'content-length'],
    'smuggling': ['fullmatch', '[0-9A-Fa-f]', 'int('],
    'idle_clients': ['select', 'setblocking', 'generator', 'BlockingIOError'],
    'waiting_application': ['thread', 'queue', 'socketpair'],
    'non_reader': ['setblocking', 'EVENT_WRITE', 'BlockingIOError'],
    'late_clock': ['is_late', 'recv()', 'settimeout'],
    'no_descriptors': ['EMFILE', 'OSError', 'unregister'],
    'stop_mid_reply': ['set_wakeup_fd', 'socketpair', 'handler'],
    'restart_backlog': ['os.kill', 'fork', 'accept()'],
    'reload': ['os.kill', 'shutdown', 'Connection: close'],
    'flat': ['unregister', 'finally', 'tracemalloc'],
}


def test_every_lesson_has_a_question_in_the_same_order():
    assert list(PREDICTIONS) == [lesson.stage.name for lesson in LESSONS]
    assert all(question.endswith('?') for question in PREDICTIONS.values())


def test_a_lesson_and_the_scene_of_its_first_bug_ask_the_same():
    first = {lesson.experiments[0]: lesson.stage.name for lesson in LESSONS}
    scenes = [scene for scene in SCENES.values() if scene.experiment in first]
    assert scenes
    for scene in scenes:
        assert scene.question is PREDICTIONS[first[scene.experiment]]


def test_every_experiment_has_three_hints():
    names = [experiment.__name__ for part in EXPERIMENTS for experiment in EXPERIMENTS[part]]
    assert list(THREE_HINTS) == names
    assert all(isinstance(hints, tuple) and len(hints) == 3 for hints in THREE_HINTS.values())


ALL_HINTS = [*THREE_HINTS.values(), *OTHER_HINTS.values(), WHEN_IT_STOPS]


def test_the_hints_are_about_what_was_found():
    later = Verdict('bug', 'a later client waits while another one is silent')
    assert hints_for(part3.silent_client, later) is OTHER_HINTS['silent_client', 'a later client']
    second = Verdict('bug', 'a second client waits while another one is silent')
    assert hints_for(part3.silent_client, second) is THREE_HINTS['silent_client']
    assert hints_for(part3.silent_client, Verdict('ended', '')) is WHEN_IT_STOPS


def test_no_hint_is_empty_or_long_or_twice():
    hints = [hint for three in ALL_HINTS for hint in three]
    assert [hint for hint in hints if not hint.strip() or len(hint) > MOST] == []
    assert len(set(hints)) == len(hints)
    assert all(len(three) == 3 for three in ALL_HINTS)


@pytest.mark.parametrize('experiment', THREE_HINTS)
def test_only_the_third_hint_gives_the_cure_away(experiment):
    look, idea, place = [hint.lower() for hint in THREE_HINTS[experiment]]
    for word in GIVEAWAYS[experiment]:
        assert word.lower() not in look + idea
        assert word.lower() in place


TO_BE_WRITTEN = {'handle_exit', 'write'}


def functions(stage):
    """The names of the functions in the files of a stage."""
    texts = [(ROOT / stage.folder / name).read_text() for name in stage.files]
    return set(re.findall(r'def (\w+)', '\n'.join(texts)))


@pytest.mark.parametrize(('name', 'words'), [
    ('silent_client', ['WNOHANG', 'waitpid']), ('one_child', ['_exit']),
    ('stuck_application', ['timer', 'finally'])])
def test_of_the_other_hints_too_only_the_third_gives_the_cure_away(name, words):
    (look, idea, place), = [three for (experiment, _), three in OTHER_HINTS.items() if experiment == name]
    for word in words:
        assert word not in look + idea
        assert word in place


@pytest.mark.parametrize('experiment', THREE_HINTS)
def test_a_hint_names_only_functions_that_the_reader_has(experiment):
    part = next(part for part in EXPERIMENTS if experiment in map(attrgetter('__name__'), EXPERIMENTS[part]))
    have = functions(stage_before(course.lessons(part)[0].stage))  # others are the reader's own
    ours = set().union(*map(functions, all_stages()))
    named = set(re.findall(r'(\w+)\(', ' '.join(THREE_HINTS[experiment])))
    assert named & ours - have - TO_BE_WRITTEN == set()


def test_no_hint_leads_to_our_solution():
    for hint in [hint for three in ALL_HINTS for hint in three]:
        assert not re.search(r'make diff|part\d(?!/apps)|\bv\d\.\d|\bfinal\b', hint)


def commands(hint):
    return [line.strip() for line in hint.splitlines() if line.startswith('    ')]


def test_commands_are_only_in_the_first_hint():
    assert [name for name, (look, *_) in THREE_HINTS.items() if not commands(look)] == ['late_clock']
    assert not any(commands(hint) for three in THREE_HINTS.values() for hint in three[1:])


# the experiment, a stage that has the bug if there is one, and what is seen when the first hint is typed
TYPED = [
    ('silent_client', 'part3-v1.0', r'curl: \(28\)'),
    ('end_of_reply', 'part3-v1.1-fd-leak', r'ESTAB.*pid={pid},'),
    ('descriptors', 'part3-v1.1-fd-leak', 'CLOSE-WAIT'),
    ('one_child', 'part3-v1.1', r'\d+ +{pid} Z'),
    ('eintr', 'part3-v1.2', r'accept\(\)(?s:.*)InterruptedError'),
    ('children_at_once', 'part3-v1.2', r'(?m)^[1-9]\d*$'),
    ('stopped_child', 'part3-v1.2', r'curl: \(28\)'),
    ('hello', 'part2-v1.0', 'Hello world'),
    ('environ', 'part2-v1.0', r'"PATH_INFO": "/a%20b\?x=1"(?!.*USER_AGENT)'),
    ('whole_request', 'part2-v1.0', r'(?m)^1024$'),
    ('whole_response', 'part2-v1.1', 'Date: .* 2015 '),
    ('validator', 'part2-v1.1', 'GET /(?!(?s:.*)was called)'),
    ('binary_body', 'part2-v1.0', r'^ +0 +1 +2 (?s:.*) 254 255\n'),
    ('outlives', 'part2-v1.2', 'ValueError: not enough values'),
    ('refuses', 'part2-v1.3', '200 OK'),
    ('promises', 'part2-v1.4', r'(?m)^X-Smuggled: two'),
    ('few_processes', 'part4-v1.0', r'(?m)^21$'),
    ('killed_workers', 'part4-v1.1', r'curl: \(28\)'),
    ('killed_supervisor', 'part4-v1.1', 'Hello world'),
    ('stuck_application', 'part4-v1.2', r'curl: \(28\)(?s:.*)curl: \(28\)'),
    ('slow_client', 'part4-v1.3', r'(?m)^4194304$'),
    ('keep_alive', 'part4-v1.3', '< Connection: close'),
    ('chunked_body', 'part4-v1.3', 'HTTP/1.1 501 Not Implemented'),
    ('smuggling', 'part4-v1.4', 'HTTP/1.1 400 Bad Request'),
    ('idle_clients', 'part4-v1.4', r'curl: \(28\)'),
    ('waiting_application', 'part4-v2.0', r'(?<!curl: )curl: \(28\)'),
    ('non_reader', 'part4-v1.4', r'curl: \(28\)'),
    ('no_descriptors', 'part4-v2.0', r'\d+ 00:00:00'),
    ('stop_mid_reply', 'part4-v2.1', r'(?m)^(?!19660800)\d+$'),
    ('restart_backlog', 'part4-v2.1', r'curl: \(7\)'),
    ('reload', 'part4-v2.1', r'(?m)^ +\d+ 000$'),
    ('flat', 'part4-v2.0', r'(?m)^\d+\n\d+\n\d+\n\d+$'),
]


def started(hint, stage, folder, port):
    """The ServerProcess that the reader would start, whose files are in that folder."""
    (folder / 'my').mkdir()
    for name in stage.files:
        (folder / 'my' / name).write_text((ROOT / stage.folder / name).read_text())

    def start_line(app):
        path = f'PYTHONPATH={APPS} ' * bool(app)
        return f'{path}{sys.executable} {folder}/my/server.py {app or "".join(stage.arguments)}'
    line = next((line for line in commands(filled(hint, start_line)) if '/my/' in line), start_line(''))
    env = {'PORT': port, 'WORKERS': '2', 'PYTHONPATH': 'part2/apps'}
    return ServerProcess(['sh', '-c', line], env=env)


@pytest.mark.parametrize(('experiment', 'stage', 'shown'), TYPED)
def test_what_the_first_hint_says_is_seen_when_it_is_typed(experiment, stage, shown, tmp_path, request, tool):
    for name in ('curl', 'telnet', 'ss', 'ps', 'pgrep', 'prlimit'):
        tool(name)
    hint, port = THREE_HINTS[experiment][0], str(free_port())
    server = started(hint, find_stage(stage), tmp_path, port).__enter__()
    request.addfinalizer(server.stop)
    typed = '\n'.join(line for line in commands(hint) if '{server' not in line)
    typed = typed.replace('8888', port).replace(' my/', f' {tmp_path}/my/')
    shell = subprocess.Popen(['bash'], cwd=ROOT, text=True, start_new_session=True,
                             env={**os.environ, 'PORT': port},
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    shell.stdin.write(typed + '\n')
    shell.stdin.close()
    shell.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)  # clients that would stay longer
    server.let_rest()
    lines = shell.stdout.read() + server.output()
    shell.stdout.close()
    assert re.search(shown.replace('{pid}', str(server.pid)), lines), lines
