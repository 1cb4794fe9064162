"""The cure is what cures: without its line, the last stage of a part has the bug again."""
import re
import shutil
from functools import partial

import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.experiments import part3, part4, part4_stopping, part4_waiting
from laboratory.experiments.verdicts import measure
from laboratory.instruments.process import stage_server

CURES = {
    'the close in the parent': (
        r"        client_fd\.close\(\)  # the parent's copy\n", '', part3.end_of_reply,
        '33 bytes of reply, then nothing: no FIN'),
    'the handler': (
        r'    signal\.signal\(signal\.SIGCHLD, handle_exit\)\n', '', part3.one_child,
        'the child has answered and is a zombie'),
    'the loop of the handler': (
        r'(def handle_exit.*\n)    while True:', r'\1    for _ in range(1):', part3.children_at_once,
        '23 zombies after 24 children ended together'),
    'WNOHANG': (
        r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.waitpid(-1, 0)', part3.stopped_child,
        'the next client waits as long as a child is stopped'),
    'the retry of accept()': (
        r'        except InterruptedError:.*\n            continue\n', '        finally:\n            pass\n',
        part3.eintr, 'the first SIGCHLD ends the server'),
}


FOREVER = 'an application that does not return holds up its worker for ever'
CURES_OF_PART_4 = {  # in which file, what is replaced there, and what the experiment says then
    'the fork of another worker': (
        'server.py', r'workers\.pop\(pid, 0\)', 'workers.get(pid, 0)', part4.killed_workers,
        '2 workers were killed, and the next client is not answered'),
    'the thread that ends with the supervisor': (
        'server.py', r' +threading\.Thread\(.*\n', '', part4.killed_supervisor,
        'it was killed, and 2 workers still serve'),
    'the end of the pipe that a worker closes': (
        'server.py', r' +os\.close\(self\.supervisor_end\)\n', '', part4.killed_supervisor,
        'it was killed, and 2 workers still serve'),
    'the timer of the application': (
        'server.py', r'( +)signal\.setitimer\(signal\.ITIMER_REAL, APP_TIMEOUT\)  # SIGALRM.*\n', '',
        part4.stuck_application, FOREVER),
    'the deadline of a request': (
        'server.py', r'left = deadline - time\.monotonic\(\)', 'left = REQUEST_TIMEOUT', part4.drip,
        'the server waits for each byte that comes, without end'),
    'send() in a loop': (
        'server.py', r'( +)while data:.*\n.*\n',
        r'\1self.client_fd.settimeout(0.5)\n\1self.client_fd.sendall(data)\n',
        part4.slow_client, 'wrong: a slow reader'),
    'the loop of the parser': (
        'protocol.py', r'    while True:\n        yield \(yield', '    if True:\n        yield (yield',
        part4.keep_alive, 'the connection ends after the first reply'),
    'the loop of the connection': (
        'server.py', r'while self\.handle_one_request\(\):\n +pass', 'self.handle_one_request()',
        part4.keep_alive, 'the connection ends after the first reply'),
    'the bytes that are kept for the next request': (
        'server.py', r'(def read_request\(self\):\n)', r'\1        self.received.clear()\n', part4.keep_alive,
        'wrong: two requests in one send'),
    'a body that HEAD does not get': (
        'protocol.py', r"self\.method != 'HEAD' and ", '', part4.keep_alive, 'wrong: a HEAD'),
    'the last chunk': (
        'protocol.py', r" +if self\.chunked:\n +yield b'0.*\n", '', part4.keep_alive,
        'wrong: a response of unknown length'),
    'the check of two lengths': (
        'protocol.py', r"if 'content-length' in headers or version", 'if version', part4.smuggling,
        'wrong: a chunked body with a Content-Length'),
    'the check of HTTP/1.0': (
        'protocol.py', r" or version == 'HTTP/1\.0':(\n +raise RequestError\('400 Bad Request', 'Tr)", r':\1',
        part4.smuggling, 'wrong: chunks in HTTP/1.0'),
    'the end of a chunk': (
        'protocol.py', r" +if not chunk\.endswith\(b'\\r\\n'\):\n.*\n", '', part4.smuggling,
        'wrong: a chunk that is longer than its size'),
    'the end of the line of a chunk': (
        'protocol.py', r"(CHUNK_LINE = .*)\\r\\n'", r"\1\\r?\\n'", part4.smuggling,
        'wrong: a chunk size that ends with LF'),
}

CURES_OF_LOOPS = {  # the same for v2.2 and final
    'the pause of accept()': (
        'server.py', r'yield None, time.*ACCEPT_PAUSE', 'yield selectors.EVENT_READ, FOREVER',
        part4_waiting.no_descriptors, 'it tries to accept again and again'),
    'the socket that is asked before the clock counts': (
        'server.py', r'( +)(try:\n +return call\(argument\))', r'\1if is_late: raise TimeoutError\n\1\2',
        part4_waiting.late_clock, 'wrong: a client that has sent nothing'),
    'the connections that are finished': (
        'server.py', r'while self\.connections or not', 'while not', part4_stopping.stop_mid_reply,
        'wrong: a client '),
    'the connection that is forgotten': (
        'server.py', r'self\.server\.connections\.discard\(self\)', 'pass', part4_stopping.stop_mid_reply,
        'wrong: '),
    'the socket for the numbers of signals': (
        'server.py', r'set_wakeup_fd\(writing\.detach\(\)\)',
        'set_wakeup_fd(os.open(os.devnull, os.O_NONBLOCK))', part4_stopping.restart_backlog,
        'SIGHUP leaves its workers as they are'),
}


def verdict(tmp_path, stage, file, pattern, replacement, experiment):
    """What an experiment says of a stage in which something is replaced."""
    for name in find_stage(stage).files:
        shutil.copy(ROOT / find_stage(stage).folder / name, tmp_path)
    source, count = re.subn(pattern, replacement, (tmp_path / file).read_text())
    assert count == 1
    (tmp_path / file).write_text(source)
    return measure(experiment, partial(stage_server, Stage('mutant', str(tmp_path))))


@pytest.mark.parametrize('cure', CURES)
def test_without_its_cure_part_3_final_has_the_bug(cure, tmp_path):
    pattern, replacement, experiment, evidence = CURES[cure]
    found = verdict(tmp_path, 'part3-final', 'server.py', pattern, replacement, experiment)
    assert found[:2] == ('bug', evidence)


@pytest.mark.parametrize('cure', CURES_OF_PART_4)
def test_without_its_cure_part_4_v1_4_has_the_bug(cure, tmp_path):
    *change, evidence = CURES_OF_PART_4[cure]
    found = verdict(tmp_path, 'part4-v1.4', *change)
    assert found.outcome == 'bug'
    assert found.evidence.startswith(evidence)


@pytest.mark.parametrize('stage', ['part4-v2.2', 'part4-final'])
@pytest.mark.parametrize('cure', CURES_OF_LOOPS)
def test_without_its_cure_a_stage_with_a_loop_has_the_bug(cure, stage, tmp_path):
    *change, evidence = CURES_OF_LOOPS[cure]
    found = verdict(tmp_path, stage, *change)
    assert found.outcome == 'bug', found
    assert evidence in found.evidence


def test_a_server_that_forks_again_after_eintr_without_a_client_has_a_bug(tmp_path):
    found = verdict(tmp_path, 'part3-final', 'server.py', r'\bcontinue\b', 'pass', part3.eintr)
    assert found.outcome == 'bug'
    assert found.evidence.startswith('it forks without a client: ')
