"""Claims of the articles about Python and the kernel, and the ledger that lists all of them."""
import ast
import os
import re
import socket
import subprocess
import sys

import pytest

from common.experiments import connect
from common.stages import ROOT

CLAIM = re.compile(r'^\| (.+) \| (reproduced|changed|slip)(?:: .+)? \| `(test_\w+)` \|$', re.MULTILINE)


def test_a_socket_takes_bytes_and_no_text():
    with socket.socket() as sock, pytest.raises(TypeError, match='a bytes-like object is required'):
        sock.sendall('HTTP/1.1 200 OK')


def test_os_write_takes_bytes_and_no_text():
    with pytest.raises(TypeError, match='a bytes-like object is required'):
        os.write(1, 'hello\n')


def test_the_first_socket_of_a_process_has_descriptor_3():
    code = '''
import socket, sys
print(*(file.fileno() for file in (sys.stdin, sys.stdout, sys.stderr, socket.socket())))
'''
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == '0 1 2 3\n'


def test_the_kernel_gives_a_client_an_ephemeral_port_when_it_connects(serve):
    server = serve('part1')
    with connect(server.port) as client:
        host, port = client.getsockname()
        assert host == '127.0.0.1'
        assert port not in (0, server.port)


def test_a_forked_child_has_the_descriptors_of_its_parent():
    """PEP 446 closes them on exec, not on fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b'from the child')
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 1024) == b'from the child'
    os.close(reading)
    os.close(writing)


def test_waitpid_with_wnohang_returns_0_or_raises_echild():
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        os.read(hold, 1)
        os._exit(0)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(release)
    os.close(hold)
    assert os.waitpid(pid, 0) == (pid, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_print_in_a_signal_handler_can_meet_a_print():
    """The signal comes here while the first print is in the kernel's write, which takes no luck."""
    code = '''
import io, os, signal, sys
class Interrupted(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        signal.raise_signal(signal.SIGCHLD)
        return len(data)
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Interrupted()))
signal.signal(signal.SIGCHLD, lambda signum, frame: print('reaped', flush=True))
print('a request', flush=True)
'''
    run = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert 'RuntimeError: reentrant call inside' in run.stderr


def test_a_signal_that_is_pending_is_not_counted():
    code = '''
import os, signal
signal.signal(signal.SIGCHLD, lambda signum, frame: print('one signal'))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
for _ in range(24):
    os.kill(os.getpid(), signal.SIGCHLD)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
'''
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == 'one signal\n'


def test_django_has_no_patterns():
    with pytest.raises(ImportError):
        from django.conf.urls import patterns  # noqa: F401


def test_the_ledger_names_a_test_for_every_claim():
    ledger = (ROOT / 'ARTICLES.md').read_text()
    claims = CLAIM.findall(ledger)
    tests = {
        node.name for path in ROOT.glob('tests/test_*.py')
        for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert len(claims) == len(re.findall(r'^\| (?!claim|---)', ledger, re.MULTILINE))
    assert [test for _, _, test in claims if test not in tests] == []
