"""make bench: what it reads, counts and writes. How fast a server is, no test says."""
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import import_module

import pexpect
import pytest

from common import environment
from common.stages import ROOT, stages_of
from laboratory import bench
from laboratory.instruments import cpu, kernel, load, servers
from laboratory.instruments.client import FIN, OPEN, connect, fetch, read_next, request
from laboratory.instruments.load import Figures, Load, LoadFailed, keeps_connections, read_ab, read_wrk
from laboratory.instruments.pages import filled
from laboratory.instruments.process import ServerProcess
from tests.helpers import end_of, left, wait_for_output

# of what the tools have printed for part 4 v1.4, and for a server that resets a third of its connections
# and answers another third with 500
WRK = """\
    Latency   227.28us  288.86us   7.77ms   99.01%
     90%  302.00us
     99%  510.00us
  9640 requests in 1.10s, 1.78MB read
Requests/sec:   8768.16
"""
WRK_ERRORS = """\
    Latency     6.05ms    5.74ms  46.68ms   89.97%
     90%   11.79ms
     99%    1.30s
  1923 requests in 1.00s, 110.80KB read
  Socket errors: connect 0, read 961, write 0, timeout 2
  Non-2xx or 3xx responses: 961
Requests/sec:   1917.66
"""
AB = """\
98,6.611
99,7.829
100,10.157
Complete requests:      4442
Failed requests:        0
Requests per second:    4441.75 [#/sec] (mean)
  99%      8
"""
AB_ERRORS = """\
99,23.411
Complete requests:      3074
Failed requests:        2050
   (Connect: 0, Receive: 1025, Length: 0, Exceptions: 1025)
Non-2xx responses:      1025
Requests per second:    3073.76 [#/sec] (mean)
"""


@pytest.fixture
def linux(tool):
    """linux('wrk') skips the test on other systems, and where that command is missing."""
    def need(*names):
        if not kernel.LINUX:
            pytest.skip('make bench runs on Linux alone')
        for name in names:
            tool(name)
    return need


def test_wrk_tells_of_clients_that_are_never_answered():
    """It counts no error for them: two workers keep two connections, and the others wait in the backlog."""
    assert read_wrk(WRK) == Load(9640, 8768.16, 0.51, read_wrk(WRK).remark)
    assert 'less than half of the 16 clients' in read_wrk(WRK).remark


@pytest.mark.parametrize(('value', 'milliseconds'), [
    ('12.30us', 0.0123), ('12.30ms', 12.3), ('12.30s', 12300), ('12.30m', 738000)])
def test_wrk_s_units_of_time_are_known(value, milliseconds):
    assert read_wrk(WRK.replace('510.00us', value)).p99 == pytest.approx(milliseconds)


def test_what_fails_is_counted():
    assert read_wrk(WRK_ERRORS) == Load(1923, 1917.66, 1300, '1924 requests failed')
    assert read_ab(AB) == Load(4442, 4441.75, 7.829)
    assert read_ab(AB_ERRORS) == Load(3074, 3073.76, 23.411, '2050 requests failed')


@pytest.mark.parametrize(('read', 'printed', 'told'), [
    (read_wrk, WRK.replace('9640 requests', '0 requests'), 'answers no request'),
    (read_wrk, 'unable to connect to 127.0.0.1:9402 Connection refused\n', 'Connection refused'),
    (read_ab, AB_ERRORS.replace('3074', '2050'), 'answers no request'),
    (read_ab, 'apr_pollset_poll: The timeout specified has expired (70007)\n', 'does not end its replies'),
    (read_ab, '', 'nothing was printed'),
])
def test_a_server_without_answers_has_no_figures(read, printed, told):
    with pytest.raises(LoadFailed, match=told):
        read(printed)


USES_CPU = """
import os, socket, time
def work():
    while time.process_time() < 0.2:
        pass
    os._exit(0)
waited_for, zombie = os.fork() or work(), os.fork() or work()
os.waitpid(waited_for, 0)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
listener = socket.create_server(('127.0.0.1', 0))
print('ready', flush=True)
listener.accept()
"""


def test_the_cpu_time_of_children_that_have_ended_is_counted_waited_for_or_not(linux):
    linux()
    with ServerProcess([sys.executable, '-c', USES_CPU]) as server:
        wait_for_output(server, 'ready')
        assert cpu.cpu_time(server.family()) >= 0.4


SHARES_MEMORY = """
import os, socket
pages, size = bytearray(b'x') * 50_000_000, 50_000_000
listener = socket.create_server(('127.0.0.1', 0))
for _ in range(3):
    if os.fork() == 0:
        break
listener.accept()
"""


def test_memory_that_processes_share_is_counted_once(linux):
    linux()
    with ServerProcess([sys.executable, '-c', SHARES_MEMORY]) as server:
        server.let_rest()
        assert len(server.processes()) == 4
        assert 50e6 < kernel.memory(server.processes()) < 150e6


def test_a_process_that_has_ended_has_used_nothing(linux):
    linux()
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    assert (cpu.cpu_time([ended.pid]), kernel.memory([ended.pid])) == (0, 0)


@pytest.mark.parametrize(('stage', 'app', 'keeps'), [
    ('part3-final', None, False), ('part4-v1.3', 'wsgiapp:app', False), ('part4-v1.4', 'wsgiapp:app', True)])
def test_a_server_that_keeps_connections_is_known(serve, stage, app, keeps):
    assert keeps_connections(serve(stage, app)) == keeps


def test_the_headers_of_a_browser_fit_into_the_one_recv_of_part_3():
    headers = [f'{name}: {value}' for name, value in load.BROWSER.items()]
    assert len(request('GET', '/hello', *headers)) < 1024


@pytest.fixture
def in_c(linux):
    """The server in C, running."""
    linux('cc')
    with servers.limit() as (server,), server.start(2) as process:
        yield process


def test_the_server_in_c_answers_on_a_connection_until_it_is_told_to_close(in_c):
    last = request('GET', '/')
    first = last.replace(b'close', b'keep-alive')
    with connect(in_c) as client:
        client.sendall(first + first[:20])
        reply = read_next(client, in_c)
        assert (reply.status, reply.body, reply.end) == (200, b'Hello, World!\n', OPEN)
        client.sendall(first[20:] + last)
        reply = read_next(client, in_c)
        assert reply.values('Connection') == []
        assert read_next(client, in_c, before=reply.extra).values('Connection') == ['close']
    assert fetch(in_c, last).end == FIN
    assert fetch(in_c, b'GET / HTTP/1.0\r\n\r\n').end == FIN
    assert fetch(in_c, b'x' * 8191).status == 0


def test_without_a_compiler_the_server_in_c_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with servers.limit() as found:
        assert found == []
    assert capsys.readouterr().err == ('C epoll is left out, since cc cannot compile it here: '
                                       'apt install gcc libc6-dev\n')


def test_what_cannot_be_installed_is_left_out_with_one_line(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(environment, 'python', lambda *words: asked.append(words))
    monkeypatch.setattr(servers, 'VENV', tmp_path)
    (tmp_path / 'bin').mkdir()
    for program in 'gunicorn', 'waitress-serve', 'cheroot', 'uwsgi':
        (tmp_path / 'bin' / program).touch()
    assert [server.name for server in servers.foreign()] == [
        'gunicorn sync', 'gunicorn gthread', 'waitress', 'cheroot', 'uwsgi']
    assert capsys.readouterr().err == ('granian: left out, since pip could not install it here; '
                                       f'rm -r {tmp_path.name} lets it try again\n')
    (name, requirements, needs, extras), = asked
    assert (name, requirements) == (tmp_path.name, 'tests/corpus/requirements.txt')
    assert [line.partition('==')[0] for line in needs] == ['gunicorn']
    assert [line.partition('==')[0] for line in extras] == ['waitress', 'cheroot', 'granian', 'uwsgi']


def test_without_what_the_others_are_compared_to_there_are_no_figures():
    with pytest.raises(SystemExit, match='^gunicorn sync cannot be measured: it did not listen on a port'):
        bench.rounds([servers.Server(servers.BASE, ['false'])], 2, 1, 1)


def figures_of(rate, remark=''):
    """The same Figures for each kind of load."""
    return dict.fromkeys(bench.KINDS, Figures(rate, p99=12.34, cpu=56.7, memory=89e6, remark=remark))


FOUND = {'part4-v1.4': figures_of(30, 'lets some wait'), 'gunicorn sync': figures_of(20), 'waitress': {},
         'C epoll': {kind: figures for kind, figures in figures_of(400, 'lets some wait').items()
                     if kind[1] != load.SLOW}}


def test_the_tables_compare_the_servers_with_gunicorn():
    text = bench.page(FOUND, {'waitress': 'did not listen'}, 'Measured on a machine.')
    assert text.count("connections: 1.00 is 20 requests/s, 20 with a browser's headers, 20 with slow "
                      'calls (gunicorn sync)') == 2
    for row in ('| part4-v1.4 ¹ | 1.50 | 57 | 12 | 1.50 | 57 | 12 | 1.50 | 89 |', '| gunicorn sync | 1.00 |',
                '| waitress ² | - | - | - | - | - | - | - | - |',
                '| C epoll ¹ | 20 | 57 | 12 | 20 | 57 | 12 | - | 89 |'):
        assert text.count(row) == 2
    assert text.endswith('\n\n1. lets some wait\n2. did not listen\n\nMeasured on a machine.\n')


def test_the_tables_fit_on_a_terminal(capsys):
    bench.show({**FOUND, 'part4-v1.1-protocol': figures_of(30, 'lets some wait')},
               {'waitress': 'did not listen'}, 'Measured on a machine.')
    shown = capsys.readouterr().out
    assert re.search(r'^part4-v1\.4 ¹ +1\.50 +57 +12 +1\.50 +57 +12 +1\.50 +89$', shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


def test_the_chart_has_a_bar_for_each_server_and_a_gap_in_one_that_is_too_long():
    picture = ElementTree.fromstring(bench.picture(FOUND))
    tags = [element.tag.partition('}')[2] for element in picture]
    assert tags.count('rect') == 2 * (1 + 1 + 2)
    texts = [element.text for element in picture]
    assert all(texts.count(name) == 1 for name in FOUND if FOUND[name])
    assert (texts.count('1.50'), texts.count('20')) == (2, 2)
    width = float(picture.get('width'))
    assert all(float(bar.get('x')) + float(bar.get('width')) < width for bar in picture if 'rect' in bar.tag)


def test_the_medians_are_those_of_the_rounds():
    assert bench.medians([figures_of(1), figures_of(9, 'odd'), figures_of(3)]) == figures_of(3, 'odd')
    assert bench.medians([]) == {}


def test_every_stage_is_measured_or_it_is_said_why_not():
    names = [server.name for server in servers.stages()]
    assert names == [stage.name for stage in [*stages_of('part3'), *stages_of('part4')]]
    assert set(servers.UNMEASURED) <= set(names)


def test_the_servers_that_run_an_application_of_ours_are_measured_with_slow_calls():
    assert {server.name for server in servers.stages() if server.runs_app} == {
        stage.name for stage in stages_of('part4')}


def test_every_50th_call_is_slow(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'part2/apps')
    application, slept = import_module('laboratory.instruments.apps.sometimes_slow'), []
    monkeypatch.setattr(application.time, 'sleep', slept.append)
    for path in ['/slow'] * 100 + ['/hello'] * 100:
        assert application.app({'PATH_INFO': path}, lambda *_: None)
    assert slept == [0.02, 0.02]


def test_the_page_has_a_place_for_the_tables():
    assert 'fresh' in filled(bench.PAGE.read_text(), 'bench', 'fresh\n')
    assert f'(../pictures/{bench.PICTURE.name})' in bench.PAGE.read_text()
    assert bench.PICTURE.exists()


# the command, with no servers from elsewhere: they would take their time, and need not be installed
COMMAND = ['-c', 'from laboratory import bench; from laboratory.instruments import servers; '
                 'servers.foreign, servers.BASE = list, "part4-v1.4"; bench.run(bench.main)']


@pytest.mark.parametrize(('variable', 'value', 'told'), [
    ('WORKERS', '0', 'WORKERS=0 is not valid: use a whole number from 1 to 999'),
    ('WRITE', 'yes', 'WRITE=yes is not valid: use 0 or 1'),
    ('ONLY', 'part9', 'ONLY=part9: no server has such a name; there are part3-v1.0, '),
    ('SERVER', 'echo mick; exit 3', 'your server cannot be measured: it did not listen on a port, but '
                                    'ended, with exit status 3: mick'),
    ('PATH', '', 'make bench puts load on the servers with wrk and ab: apt install wrk apache2-utils'),
])
def test_what_is_wrong_is_told_in_one_line(variable, value, told, linux, monkeypatch):
    linux('wrk', 'ab', 'cc')
    monkeypatch.setattr(servers, 'foreign', list)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert str(ended.value).startswith(told)
    assert '\n' not in str(ended.value)


def test_other_systems_are_told_that_it_needs_linux(monkeypatch):
    monkeypatch.setattr(kernel, 'LINUX', False)
    with pytest.raises(SystemExit, match='runs on Linux alone'):
        load.need_tools()


@pytest.mark.long
def test_a_run_ends_with_the_tables_and_leaves_nothing_behind(linux, tmp_path):
    linux('wrk', 'ab')
    ran = subprocess.run([sys.executable, *COMMAND], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                         env={**os.environ, 'QUICK': '1', 'ONLY': 'part4-v1.4', 'TMPDIR': str(tmp_path)},
                         text=True, timeout=60)
    assert ran.returncode == 0, ran
    assert len(re.findall(r'^part4-v1\.4 .*\d$', ran.stdout, re.MULTILINE)) == 2
    assert left(tmp_path) == []


def test_a_signal_ends_the_servers_and_the_tools(linux, tmp_path):
    linux('wrk', 'ab')
    env = {**os.environ, 'TMPDIR': str(tmp_path), 'ONLY': 'part3-final', 'TERM': 'xterm'}
    command = pexpect.spawn(sys.executable, COMMAND, cwd=ROOT, env=env, timeout=kernel.LIMIT)
    try:
        assert kernel.eventually(lambda: [child for child in kernel.children(command.pid)
                                          if 'ab' in kernel.command(child)])
        command.kill(signal.SIGTERM)
        assert end_of(command) == 128 + signal.SIGTERM
        assert left(tmp_path) == []
    finally:
        if command.isalive():
            command.kill(signal.SIGTERM)
