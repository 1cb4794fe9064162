"""The cure is what cures: without its line, the last stage of a part has the bug again."""
import re
import shutil

import pytest

from common.stages import ROOT, Stage, find_stage
from laboratory.experiments import part3, part4, part4_stopping, part4_waiting
from laboratory.experiments.verdicts import measure
from laboratory.instruments.process import free_port, stage_server

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
        'the next client waits while a child is stopped'),
    'the retry of accept()': (
        r'        except InterruptedError:.*\n            continue\n', '        finally:\n            pass\n',
        part3.eintr, 'the first SIGCHLD ends the server'),
}


TIME_LIMIT = """
        client_fd.settimeout({})
        try:
            handle_request(client_fd)
        except TimeoutError:
            pass
"""
HALF_CURES = {  # the stage that is changed, what is replaced there, and what an experiment says of it
    'a time limit instead of a process': (
        'part3-v1.0', r'        handle_request\(client_fd\)\n', TIME_LIMIT.format(0.1),
        part3.silent_client, 'the silent client is cut off before it speaks'),
    'a longer time limit': (
        'part3-v1.0', r'        handle_request\(client_fd\)\n', TIME_LIMIT.format(1),
        part3.silent_client, 'the silent client is cut off before it speaks'),
    'an end of each client while a child is left': (
        'part3-final', r'        pid = os.fork\(\)\n', """
        if __import__('psutil').Process().children():
            client_fd.close()
            continue
        pid = os.fork()
""", part3.stopped_child, 'the next client waits while a child is stopped'),
    'a handler that waits for all children': (
        'part3-final', r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.wait()', part3.silent_client,
        'a later client waits while another one is silent'),
    'one more accept() after EINTR': (
        'part3-final', '            continue', '            client_fd, client_addr = listen_socket.accept()',
        part3.eintr, 'SIGCHLDs with no client between them end the server'),
    'an end of the loop at EINTR': (
        'part3-final', '            continue', '            break', part3.eintr,
        'the first SIGCHLD ends the server'),
    'the whole server anew after EINTR': (
        'part3-v1.2', r'    try:\n        serve_forever\(\)\n', """
    try:
        while True:
            try:
                serve_forever()
            except InterruptedError:
                pass
""", part3.eintr, part3.NEW_SOCKET),
}
FOREVER = 'an application that does not return holds up its worker for 5 seconds and more'
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
    'the timer while the application goes on': (
        'server.py', r'            if app_is_timed:\n', '            if False:\n', part4.stuck_application,
        'an application that stops in the middle of its reply stays for 5 seconds and more'),
    'the end of the timer with the application': (
        'server.py', r'(  finally:\n            )signal\.setitimer\(signal\.ITIMER_REAL, 0\)', r'\1pass',
        part4.stuck_application, 'an idle worker ends, although its application has returned'),
    'the end of the timer while a client is slow': (
        'server.py', r'app_is_timed, _ = signal.*', 'app_is_timed = False',
        part4.stuck_application, 'a client that takes its time to read is cut off'),
    'the wait for any worker': (
        'server.py', r'os\.wait\(\)', 'os.waitpid(min(workers), 0)', part4.killed_workers,
        'one more worker was killed, and no other one serves in its place'),
    'the limit for a client that stops halfway': (
        'server.py', r'self\.client_fd\.settimeout\(max\(left, 0\.001\)\)', 'self.client_fd.settimeout(None)',
        part4.drip, 'the server waits for 5 seconds and more for a client that stops halfway'),
    'the end that a client asks for': (
        'protocol.py', r"return 'close' not in options and .*", 'return True', part4.keep_alive,
        'wrong: a client that asks to close: the connection stays open'),
    'the end of a connection of HTTP/1.0': (
        'protocol.py', r" and \(self\.version != 'HTTP/1\.0' or 'keep-alive' in options\)", '',
        part4.keep_alive, 'wrong: a client of HTTP/1.0: the connection stays open'),
    'the trailers': (
        'protocol.py', r' +yield from take_fields\(buffer, MAX_HEAD\)  # trailers.*\n', '', part4.keep_alive,
        'wrong: a trailer: the next request gets 400'),
    'the deadline of a body': (
        'server.py', r'( +)self\.received \+= data\n',
        r'\1deadline += REQUEST_TIMEOUT * self.received.startswith(b"x")\n\g<0>', part4.drip,
        'the server waits for 5 seconds and more for each byte of a body'),
    'the number of workers': (
        'server.py', r'( +)workers\[self\.fork_worker\(\)\] = time\.monotonic\(\)\n', r'\g<0>\g<0>',
        part4.killed_workers, 'one more worker was killed, and 2 came in its place'),
    'the limit for each piece': (
        'server.py', r'( +)while data:.*\n.*\n', r'\1self.client_fd.sendall(data)\n',
        part4.slow_client, 'wrong: a slow reader'),
    'the deadline of a request': (
        'server.py', r'left = deadline - time\.monotonic\(\)', 'left = REQUEST_TIMEOUT', part4.drip,
        'the server waits for 5 seconds and more for each byte that comes'),
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
    'the end of a connection that its client has left': (
        'server.py', r'        except HangUp:\n(            if self\.unsent)',
        r'        except HangUp:\n            os.dup(self.client_fd.fileno())\n\1', part4_stopping.flat,
        'it keeps 20 more descriptors for 20 clients that hang up'),
    'the socket for the numbers of signals': (
        'server.py', r'set_wakeup_fd\(writing\.detach\(\)\)',
        'set_wakeup_fd(os.open(os.devnull, os.O_NONBLOCK))', part4_stopping.restart_backlog,
        'SIGHUP leaves its workers as they are'),
}


def verdict(tmp_path, stage, file, pattern, replacement, experiment, port='0'):
    """What an experiment says of a stage in which something is replaced."""
    mutant = changed(tmp_path, stage, file, pattern, replacement)

    def start(app, pep475, env):
        # on a busy machine, the usual STOP_TIMEOUT can end a server while an experiment still looks
        return stage_server(mutant, app, pep475, {'PORT': port, 'STOP_TIMEOUT': '60', **env})
    return measure(experiment, start)


def changed(tmp_path, stage, file, pattern, replacement):
    """A copy of a stage in which something is replaced."""
    for name in find_stage(stage).files:
        shutil.copy(ROOT / find_stage(stage).folder / name, tmp_path)
    source, count = re.subn(pattern, replacement, (tmp_path / file).read_text())
    assert count == 1
    (tmp_path / file).write_text(source)
    return Stage('mutant', str(tmp_path))


@pytest.mark.parametrize('cure', CURES)
def test_without_its_cure_part_3_final_has_the_bug(cure, tmp_path):
    pattern, replacement, experiment, evidence = CURES[cure]
    found = verdict(tmp_path, 'part3-final', 'server.py', pattern, replacement, experiment)
    assert found[:2] == ('bug', evidence)


@pytest.mark.parametrize('cure', HALF_CURES)
def test_half_a_cure_of_part_3_is_no_cure(cure, tmp_path):
    stage, *change, evidence = HALF_CURES[cure]
    found = verdict(tmp_path, stage, 'server.py', *change, port=str(free_port()))
    assert found[:2] == ('bug', evidence)


def test_a_child_that_ends_its_connection_late_is_no_leak(tmp_path):
    found = verdict(tmp_path, 'part3-final', 'server.py', r'(            )client_fd\.close\(\)\n',
                    r'\1__import__("time").sleep(1)\n\g<0>', part3.end_of_reply)
    assert found[:2] == ('pass', '33 bytes of reply, then FIN')


SLOW_HANDLER = r'def handle_exit.*\n', r'\g<0>    __import__("time").sleep({})\n'


@pytest.mark.parametrize(('pattern', 'replacement', 'experiment'), [
    (SLOW_HANDLER[0], SLOW_HANDLER[1].format(1), part3.stopped_child),
    (SLOW_HANDLER[0], SLOW_HANDLER[1].format(0.3), part3.silent_client),
    (SLOW_HANDLER[0], SLOW_HANDLER[1].format(0.3), part3.descriptors),
    (r'request = client_fd.recv\(1024\)', "request = b''", part3.silent_client),
], ids=['a stopped child', 'a silent client', 'clients that come and go', 'an answer without a request'])
def test_a_server_that_takes_its_time_or_needs_none_has_no_bug(pattern, replacement, experiment, tmp_path):
    found = verdict(tmp_path, 'part3-final', 'server.py', pattern, replacement, experiment)
    assert found.outcome == 'pass', found


def test_a_thread_that_reaps_one_child_after_the_other_leaves_none(tmp_path):
    found = verdict(tmp_path, 'part3-final', 'server.py', r'    signal\.signal\(.*\n', """
    def reap():
        while True:
            time.sleep(0.2)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
    import threading, time
    threading.Thread(target=reap, daemon=True).start()
""", part3.children_at_once)
    assert found[:2] == ('pass', '0 zombies after 24 children ended together')


def test_a_handler_that_is_gone_after_the_first_signal_is_told(tmp_path):
    found = verdict(tmp_path, 'part3-final', 'server.py', SLOW_HANDLER[0],
                    r'\g<0>    signal.signal(signum, signal.SIG_DFL)\n', part3.eintr)
    assert found[:2] == ('no handler', 'its handler is gone after the first SIGCHLD')


@pytest.mark.parametrize(('loop', 'is_answered'), [
    ('while self.connections or not', True), ('while not', False)])
def test_a_reload_that_breaks_off_an_application_that_works_is_noticed(loop, is_answered, tmp_path):
    stage = changed(tmp_path, 'part4-v2.2', 'server.py', 'while self.connections or not', loop)
    with stage_server(stage, 'wsgi_probes:app') as server:
        _, workers = part4.workers_of(server)
        assert part4_stopping.finishes(server, workers) is is_answered


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
    assert found.evidence.endswith('; clients so far: 1')
