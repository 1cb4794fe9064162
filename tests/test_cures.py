"""The cure is what cures: without its line a stage has the bug again, and so it has with half of it."""
import re
from dataclasses import replace
from functools import partial

import pytest

from laboratory.bugs import BUGS
from laboratory.bugs.lost_request import finishes
from laboratory.instruments.experiment import BUG, ENDED, NO_HANDLER, NOT_TESTED, PASS, measure
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import stage_server
from laboratory.instruments.workers import workers_of
from tests.helpers import altered

TIME_LIMIT = """
        client_fd.settimeout({})
        try:
            handle_request(client_fd)
        except TimeoutError:
            pass
"""
MUTANTS = {  # stage: what is missing or wrong in it: what is replaced, by what; bug, and its case that shows
    'part2-v1.3': {
        'the end of a request that nobody sends': (
            r'        raise HangUp\n\n    def parse_request',
            '        __import__("time").sleep(60)\n\n    def parse_request',
            'fatal_failure', 'an empty connection'),
        'the finally around close()': (
            r'finally:\n(            if hasattr)', r'except ():\n            pass\n        else:\n\1',
            'fatal_failure', r'close\(\) of an app that raises halfway'),
        'a close() after a client has gone': (
            r"if hasattr\(result, 'close'\)", r'\g<0> and not isinstance(sys.exc_info()[1], HangUp)',
            'fatal_failure', r'close\(\) when a client has gone'),
    },
    'part2-v1.4': {
        'an error in the first request, before anything is known of it': (
            r'self\.send_error\(\*error\.args\)', 'self.send_error(*error.args, self.request_method)',
            'malformed_request', 'a request line of one word'),
        'an error that cannot be sent': (
            r'self\.send_error\(\*error\.args\)', r'self.client_fd.sendall(b"HTTP/1.1 400 -\\r\\n\\r\\n")',
            'fatal_failure', 'a client that has gone before an error reply'),
    },
    'part2-final': {
        'the two headers that have no HTTP_ in front': (
            r"(?<=env\[)key if key in .* else ", '', 'environ', 'variable'),
        'an environ of its own for each request': (
            r'env = \{', "env = vars(self).setdefault('env', {}); env |= {", 'environ', 'environ'),
        'latin-1 in a path': (
            r"(unquote_to_bytes.*)'latin-1'", r'\1', 'environ', 'environ'),
        'latin-1 in a head that is sent': (
            r"(join\(\[\*lines.*)'latin-1'", r'\1', 'partial_response', 'a header that is not ASCII'),
        'the rest of a body': (
            r'stream\.read\(int', 'stream.read1(int', 'partial_request', 'partial'),
    },
    'part3-v1.0': {
        'a time limit instead of a process': (
            r'        handle_request\(client_fd\)\n', TIME_LIMIT.format(0.3), 'silent_client', 'cut_off'),
        'a longer time limit': (
            r'        handle_request\(client_fd\)\n', TIME_LIMIT.format(1), 'silent_client', 'cut_off'),
    },
    'part3-v1.1': {
        'an end that comes with the reply': (
            r'( +)os\._exit\(0\)', r'\1__import__("time").sleep(2.5)\n\g<0>', 'zombie', 'zombie'),
    },
    'part3-v1.2': {
        'the whole server anew after EINTR': (
            r'    try:\n        serve_forever\(\)\n', """
    try:
        while True:
            try:
                serve_forever()
            except InterruptedError:
                pass
""", 'eintr', 'new_socket'),
    },
    'part3-final': {
        'the close in the parent': (
            r"        client_fd\.close\(\)  # the parent's copy\n", '', 'no_fin', 'no_end'),
        'the handler': (
            r'    signal\.signal\(signal\.SIGCHLD, handle_exit\)\n', '', 'zombie', 'zombie'),
        'the loop of the handler': (
            r'(def handle_exit.*\n)    while True:', r'\1    for _ in range(1):', 'lost_signal', 'lost'),
        'WNOHANG': (
            r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.waitpid(-1, 0)', 'stopped_child', 'waits'),
        'the retry of accept()': (
            r'        except InterruptedError:.*\n            continue\n',
            '        finally:\n            pass\n', 'eintr', 'ends'),
        'an end of each client while a child is left': (
            r'        pid = os.fork\(\)\n', """
        if __import__('psutil').Process().children():
            client_fd.close()
            continue
        pid = os.fork()
""", 'stopped_child', 'held_up'),
        'the request': (r'request = client_fd.recv\(1024\)', "request = b''", 'silent_client', 'unasked'),
        'a handler that waits for all children': (
            r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.wait()', 'silent_client', 'later_client'),
        'one more accept() after EINTR': (
            '            continue', '            client_fd, client_addr = listen_socket.accept()',
            'eintr', 'one_by_one'),
        'an end of the loop at EINTR': ('            continue', '            break', 'eintr', 'ends'),
        'a fork after EINTR without a client': (
            r'\bcontinue\b', '__import__("time").sleep(0.02)', 'eintr', 'forks_again'),
    },
    'part4-v1.4': {
        'the fork of another worker': (
            r'workers\.pop\(pid\)', 'workers[pid]', 'dead_worker', 'none_replaced'),
        'the wait for any worker': (
            r'os\.wait\(\)', 'os.waitpid(min(workers), 0)', 'dead_worker', 'some_replaced'),
        'the number of workers': (
            r'( +)workers\[self\.fork_worker\(\)\] = time\.monotonic\(\)\n', r'\g<0>\g<0>',
            'dead_worker', 'too_many'),
        'the thread that ends with the supervisor': (
            r' +threading\.Thread\(.*\n', '', 'orphaned_workers', 'orphans'),
        'the end of the pipe that a worker closes': (
            r' +os\.close\(self\.supervisor_end\)\n', '', 'orphaned_workers', 'orphans'),
        'the timer of the application': (
            r'( +)signal\.setitimer\(signal\.ITIMER_REAL, APP_TIMEOUT\)  # SIGALRM.*\n', '',
            'stuck_worker', 'stuck'),
        'the timer while the application goes on': (
            r'            if app_is_timed:\n', '            if False:\n', 'stuck_worker', 'halfway'),
        'the end of the timer with the application': (
            r'(  finally:\n            )signal\.setitimer\(signal\.ITIMER_REAL, 0\)', r'\1pass',
            'stuck_worker', 'idle_worker'),
        'the end of the timer while a client is slow': (
            r'app_is_timed, _ = signal.*', 'app_is_timed = False', 'stuck_worker', 'slow_reader'),
        'the limit for a client that stops halfway': (
            r'self\.client_fd\.settimeout\(max\(left, 0\.001\)\)', 'self.client_fd.settimeout(None)',
            'slowloris', 'halfway'),
        'the deadline of a request': (
            r'left = deadline - time\.monotonic\(\)', 'left = REQUEST_TIMEOUT', 'slowloris', 'each_byte'),
        'the deadline of a body': (
            r'( +)self\.received \+= data\n',
            r'\1deadline += REQUEST_TIMEOUT * self.received.startswith(b"x")\n\g<0>', 'slowloris', 'body'),
        'the limit for each piece': (
            r'( +)while data:.*\n.*\n', r'\1self.client_fd.sendall(data)\n', 'slow_client', 'slow_reader'),
        'the loop of the connection': (
            r'while self\.handle_one_request\(\):\n +pass', 'self.handle_one_request()',
            'one_request', 'closes'),
        'the bytes that are kept for the next request': (
            r'(def read_request\(self\):\n)', r'\1        self.received.clear()\n',
            'one_request', 'two requests in one send'),
        'a few bytes for each request': (  # 101 of them
            r'    def run_application\(self, request\):\n',
            r'\g<0>        vars(self).setdefault("leaked", []).append(bytes(60))\n', 'leaks', 'memory'),
        'a body for each request': (
            r'    def run_application\(self, request\):\n',
            r'\g<0>        vars(self).setdefault("leaked", []).append(request.body)\n', 'leaks', 'bodies'),
        'a descriptor for each client': (
            r'    def handle_client\(self\):\n', r'\g<0>        os.dup(0)\n', 'leaks', 'descriptors'),
    },
    'part4-final': {
        'the end that a client asks for': (
            r"return 'close' not in options and .*", 'return True',
            'one_request', 'a client that asks to close'),
        'the end of a connection of HTTP/1.0': (
            r"self\.version != 'HTTP/1\.0' or 'keep", "True or 'keep", 'one_request', 'a client of HTTP/1.0'),
        'the trailers': (
            r' +while \(line := .*\n(.*\n){3}', '', 'one_request', 'a trailer'),
        'the loop of the parser': (
            r'    while True:\n        yield \(yield', '    if True:\n        yield (yield',
            'one_request', 'closes'),
        'a body that HEAD does not get': (r"self\.method != 'HEAD' and ", '', 'one_request', 'a HEAD'),
        'the last chunk': (
            r" +if self\.chunked:\n +yield b'0.*\n", '', 'one_request', 'a response of unknown length'),
        'the check of two lengths': (
            r"if 'content-length' in headers or version", 'if version',
            'smuggling', 'a chunked body with a Content-Length'),
        'the check of HTTP/1.0': (
            r" or version == 'HTTP/1\.0':(\n +raise RequestError\('400 Bad Request', 'Tr)", r':\1',
            'smuggling', 'chunks in HTTP/1.0'),
        'the end of a chunk': (
            r" +if not chunk\.endswith\(b'\\r\\n'\):\n.*\n", '',
            'smuggling', 'a chunk that is longer than its size'),
        'the end of the line of a chunk': (
            r"(CHUNK_LINE = .*)\\r\\n'", r"\1\\r?\\n'", 'smuggling', 'a chunk size that ends with LF'),
        'the pause of accept()': (
            r'yield None, time.*ACCEPT_PAUSE', 'yield selectors.EVENT_READ, FOREVER',
            'no_descriptors', 'never_rests'),
        'the socket that is asked before the clock counts': (
            r'( +)(try:\n +return call\(argument\))', r'\1if is_late: raise TimeoutError\n\1\2',
            'late_clock', 'a client that has sent nothing'),
        'the connections that are finished': (
            r'while self\.connections or', 'while', 'lost_reply', 'cut_off|called'),
        'the connection that is forgotten': (
            r'self\.server\.connections\.discard\(self\)', 'pass', 'lost_reply', 'never_ends'),
        'the end of a connection that its client has left': (
            r'        except HangUp:\n(            self\.break_off)',
            r'        except HangUp:\n            os.dup(self.client_fd.fileno())\n\1', 'leaks', 'hang_ups'),
        'the look at the call': (
            r'time\.sleep\(TAKE_OVER\)\n +self\.next_turn\(call\)', 'pass',
            'waiting_application', 'others_wait'),
        'the byte with which a thread hands over': (
            r'(self\.handed_over\.append\(\(sock, task\)\)\n) +self\.wake_up\(\)\n', r'\1',
            'waiting_application', 'others_wait|no_reply'),  # by chance: some other byte may come
    },
}
BY_NAME = {name: (stage, *row) for stage, rows in MUTANTS.items() for name, row in rows.items()}


def result_of(folder, stage, pattern, replacement, bug):
    """The Result of an experiment on a stage in which something is replaced."""
    mutant = altered(stage, folder, (pattern, replacement))

    def start(app, pep475, env):
        # on a busy machine, the usual STOP_TIMEOUT can end a server while an experiment still looks
        return stage_server(mutant, app, pep475, {'PORT': str(free_port()), 'STOP_TIMEOUT': '60', **env})
    return measure(BUGS[bug], start)


@pytest.mark.long
@pytest.mark.parametrize('name', BY_NAME)
def test_without_its_cure_a_stage_has_the_bug(name, tmp_path):
    *change, case = BY_NAME[name]
    found = result_of(tmp_path, *change)
    assert found.outcome == BUG and re.fullmatch(case, found.case), found


SLOW_HANDLER = r'def handle_exit.*\n', r'\g<0>    __import__("time").sleep({})\n'
REAPS_ONE_BY_ONE = """
    def reap():
        while True:
            time.sleep(0.2)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
    import threading, time
    threading.Thread(target=reap, daemon=True).start()
"""
ENDS_BY_ITSELF = """            self.handle_one_request()
            self.count = getattr(self, 'count', 0) + 1
            self.count < 3 or nosuch
"""
NO_FLASK = """
def main():
    if 'flask' in sys.argv[1]:
        raise ModuleNotFoundError("No module named 'flask'")
"""
OTHERWISE = {  # what is replaced, and what comes out
    'a child that ends its connection late': (
        'part3-final', r'(            )client_fd\.close\(\)\n', r'\1__import__("time").sleep(1)\n\g<0>',
        'no_fin', PASS),
    'a slow handler while a child is stopped': (
        'part3-final', SLOW_HANDLER[0], SLOW_HANDLER[1].format(1), 'stopped_child', PASS),
    'a slow handler while a client is silent': (
        'part3-final', SLOW_HANDLER[0], SLOW_HANDLER[1].format(0.3), 'silent_client', PASS),
    'a slow handler while clients come and go': (
        'part3-final', SLOW_HANDLER[0], SLOW_HANDLER[1].format(0.3), 'fd_leak', PASS),
    'a thread that reaps one child after the other': (
        'part3-final', r'    signal\.signal\(.*\n', REAPS_ONE_BY_ONE, 'lost_signal', PASS),
    'a handler that is gone after the first signal': (
        'part3-final', SLOW_HANDLER[0], r'\g<0>    signal.signal(signum, signal.SIG_DFL)\n',
        'eintr', NO_HANDLER),
    'an end after the third request, whatever that is': (
        'part2-v1.4', r'            self\.handle_one_request\(\)\n', ENDS_BY_ITSELF, 'fatal_failure', ENDED),
    'a framework that is not there and one that fails': (
        'part2-v1.2', r'\ndef main\(\):\n',
        f"{NO_FLASK}    if 'pyramid' in sys.argv[1]:\n        sys.argv[1] = 'wsgi_probes:app'\n",
        'frameworks', BUG),
}


@pytest.mark.parametrize('name', OTHERWISE)
def test_what_is_no_bug_is_not_taken_for_one(name, tmp_path):
    *change, outcome = OTHERWISE[name]
    found = result_of(tmp_path, *change)
    assert found.outcome == outcome, found
    assert outcome != ENDED or found.printed[-1] == "NameError: name 'nosuch' is not defined"


def test_a_reload_that_breaks_off_an_application_that_works_is_noticed(tmp_path):
    stage = altered('part4-final', tmp_path, ('while self.connections or', 'while'))
    with stage_server(stage, 'wsgi_probes:app') as server:
        _, workers = workers_of(server)
        assert not finishes(server, workers)


@pytest.mark.parametrize('name', ["'flask'", 'flask'])  # as Python 3 and 2 have it
def test_a_framework_that_is_not_there_is_not_tested(name, tmp_path):
    stage = altered('part2-v1.2', tmp_path, (r'\ndef main\(\):\n', NO_FLASK.replace("'flask'\"", f'{name}"')))
    found = measure(replace(BUGS['frameworks'], apps=['flaskapp:app']), partial(stage_server, stage))
    assert (found.outcome, found.detail) == (NOT_TESTED, 'the Python of this server has no flask')
