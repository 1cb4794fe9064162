"""Claims of the articles about Python and the kernel, and the ledger that lists all of them."""
import ast
import os
import re
import socket
import subprocess
import sys
from functools import partial

import pytest

from common.stages import ROOT

CLAIM = re.compile(r'^\| (.+) \| (reproduced|changed|slip)(?:: .+)? \| `(test_\w+)` \|$', re.MULTILINE)


def run_python(code):
    """Run the code in a process of its own, where nobody else forks or signals; return its output."""
    return subprocess.run([sys.executable, '-c', code], text=True, timeout=20,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


@pytest.mark.parametrize('write', [socket.socket().sendall, partial(os.write, 1)])
def test_a_socket_and_os_write_take_bytes_but_not_text(write):
    with pytest.raises(TypeError, match='a bytes-like object is required'):
        write('hello\n')


def test_the_first_socket_of_a_process_has_descriptor_3():
    assert run_python('''
import socket, sys
print(*(file.fileno() for file in (sys.stdin, sys.stdout, sys.stderr, socket.socket())))
''') == '0 1 2 3\n'


def test_the_kernel_gives_a_client_an_ephemeral_port_when_it_connects(shared):
    server = shared('part1')
    with socket.socket() as client:
        assert client.getsockname() == ('0.0.0.0', 0)
        client.connect(('127.0.0.1', server.port))
        host, port = client.getsockname()
        assert host == '127.0.0.1'
        assert port not in (0, server.port)


def test_a_forked_child_has_the_descriptors_of_its_parent():
    """PEP 446 closes them on exec, not on fork."""
    assert run_python('''
import os
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, b'from the child')
    os._exit(0)
print(os.read(reading, 1024).decode())
''') == 'from the child\n'


def test_waitpid_with_wnohang_returns_0_or_raises_echild():
    assert run_python('''
import os
hold, release = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(release)
    os.read(hold, 1)
    os._exit(0)
print(os.waitpid(-1, os.WNOHANG))
os.close(release)
os.waitpid(pid, 0)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print('ECHILD')
''') == '(0, 0)\nECHILD\n'


def test_print_in_a_signal_handler_can_interrupt_another_print():
    """The signal comes here while the first print is in the kernel's write, which takes no luck."""
    assert 'RuntimeError: reentrant call inside' in run_python('''
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
''')


def test_a_signal_that_is_pending_is_not_counted():
    assert run_python('''
import os, signal
signal.signal(signal.SIGCHLD, lambda signum, frame: print('one signal'))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
for _ in range(24):
    os.kill(os.getpid(), signal.SIGCHLD)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
''') == 'one signal\n'


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
