"""Replays: the model of a kernel, the steps of a run, and the pages that make replays writes."""
import json
import re

import pytest

from common.stages import find_stage
from laboratory import replay
from laboratory.instruments.model import File, Kernel
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.replay_page import page
from laboratory.instruments.run_data import data
from laboratory.instruments.sentences import told
from laboratory.instruments.steps import Steps
from tests.helpers import PYTHON

SERVES = '''
10 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 3
10 bind(3, {sa_family=AF_INET, sin_port=htons(8888), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
10 listen(3, 5) = 0
10 rt_sigaction(SIGCHLD, {sa_handler=0x7f, sa_mask=[], sa_flags=SA_RESTORER}, {sa_handler=SIG_DFL}, 8) = 0
0 client 1 connects from 5000
10 accept4(3, {sa_family=AF_INET, sin_port=htons(5000), sin_addr="127.0.0.1"}, [16], SOCK_CLOEXEC) = 4
'''
FORK = '10 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = {}'
SIGCHLD = '10 --- SIGCHLD {{si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid={}, si_uid=0, si_status=0}} ---'


def serving(clients=1):
    """A Kernel in which a server has accepted so many clients, as descriptors 4, 5, ...; and the server."""
    kernel = Kernel()
    server = kernel.start(10)
    server.table['3'], kernel.limit = File('listening'), 5
    for number in range(clients):
        kernel.connect(5000 + number)
        kernel.accept(server, str(4 + number))
    return kernel, server


def states(kernel, number=1):
    return tuple(kernel.connections[number - 1].states.values())


def steps_of(*texts):
    return Steps('\n'.join([SERVES, *texts]).splitlines()).steps


def said(*texts):
    return [told(step) for step in steps_of(*texts)]


def test_a_duplicate_keeps_a_connection_open():
    kernel, server = serving()
    server.table['5'] = server.table['4']
    assert kernel.close(server, '4').sent == ''
    assert kernel.close(server, '5').sent == 'FIN'
    assert states(kernel) == ('FIN_WAIT2', 'CLOSE_WAIT')


def test_a_child_inherits_three_connections_and_its_end_closes_its_copies_alone():
    kernel, server = serving(3)
    child = kernel.fork(server, 20)
    assert [str(file) for file in child.table.values()] == [
        'listening', 'connection 1', 'connection 2', 'connection 3']
    for fd in '4', '5':
        assert kernel.close(server, fd).holders == ['child 1']
    assert [closed.sent for closed in kernel.exit(child)] == ['', 'FIN', 'FIN', '']
    assert (states(kernel, 1), states(kernel, 3)) == (('FIN_WAIT2', 'CLOSE_WAIT'), ('ESTABLISHED',) * 2)
    assert child.state == 'zombie'


def test_a_thread_shares_the_descriptors_of_its_process_and_its_end_closes_none():
    kernel, server = serving()
    thread = kernel.fork(server, 20, is_thread=True)
    assert kernel.exit(thread) == []
    assert kernel.close(thread, '4').sent == 'FIN'
    assert list(server.table) == ['3']


def test_close_with_unread_input_sends_rst():
    kernel, server = serving()
    kernel.connections[0].send('client', 59)
    kernel.connections[0].receive('server', 10)
    assert kernel.close(server, '4')[2:] == ([], 'RST', 49)
    assert states(kernel) == ('CLOSED', 'reset')


def test_half_of_a_connection_can_be_closed():
    kernel, server = serving()
    connection = kernel.connections[0]
    assert connection.finish('client')
    assert states(kernel) == ('CLOSE_WAIT', 'FIN_WAIT2')
    assert not connection.send('server', 33) and connection.unread['client'] == 33
    connection.receive('client', 33)
    assert kernel.close(server, '4').sent == 'FIN'
    assert states(kernel) == ('CLOSED', 'TIME_WAIT')


def test_bytes_for_an_end_that_is_closed_are_answered_with_rst():
    kernel, server = serving()
    kernel.close(server, '4')
    assert kernel.connections[0].send('client', 59)
    assert states(kernel) == ('CLOSED', 'reset')


def test_those_that_nobody_has_accepted_are_reset_when_the_listening_socket_closes():
    kernel, server = serving()
    kernel.connect(6000)
    child = kernel.fork(server, 20)
    assert kernel.close(server, '3').holders == ['child 1'] and len(kernel.backlog()) == 1
    kernel.exit(child)
    assert states(kernel, 2) == ('CLOSED', 'reset')


def test_a_second_sigchld_adds_nothing_to_one_that_is_pending():
    steps = steps_of(FORK.format(20), FORK.format(30), '10 --- stopped by SIGSTOP ---',
                     '20 +++ exited with 0 +++', '30 +++ exited with 0 +++')
    assert [step.keys for step in steps[-2:]] == [['exit', 'zombie'], ['exit', 'zombie', 'merged']]
    assert steps[-1].after['processes']['server']['pending'] == ['SIGCHLD']


def test_a_call_waits_if_all_rest_while_it_has_not_returned():
    steps = steps_of('10 recvfrom(4, <unfinished ...>', '0 look 0', '0 client 1 sends 3 b"abc"',
                     '10 <... recvfrom resumed>"abc", 1024, 0, NULL, NULL) = 3', '10 close(4) = 0')
    assert [(step.who, step.kind) for step in steps[-4:]] == [
        ('server', 'waits'), ('client 1', 'client'), ('server', 'returns'), ('server', 'call')]
    assert steps[-3].after['connections']['1']['to_server'] == 3


def test_a_signal_interrupts_a_call_that_python_makes_again():
    assert said(FORK.format(20), '10 access("/line/40", F_OK) = -1 ENOENT', '10 accept4(3, <unfinished ...>',
                '0 look 0', '20 +++ exited with 0 +++',
                '10 <... accept4 resumed>0x7f, [16], SOCK_CLOEXEC) = ? ERESTARTSYS (To be restarted)',
                SIGCHLD.format(20), '10 rt_sigreturn({mask=[]}) = -1 EINTR (Interrupted system call)',
                '10 access("/line/16", F_OK) = -1 ENOENT', '10 access("/back/40", F_OK) = -1 ENOENT',
                '10 accept4(3, <unfinished ...>', '0 look 0')[-5:] == [
        'Child 1 ends. It stays in the table as a zombie until the server asks with wait() how it ended.',
        'SIGCHLD tells the server that child 1 has ended. It interrupts accept(), for there is a handler.',
        'accept() ends with the error EINTR: nothing is wrong, a signal has come.',
        'The server comes to line 16.',
        'The server is back in accept(): Python has called it again after the signal (PEP 475).']


def test_a_client_that_hangs_is_told_who_holds_its_connection():
    assert said(FORK.format(20), '0 client 1 sends 3 b"abc"', '20 sendto(4, "x", 1, 0, NULL, 0) = 1',
                "0 client 1 receives 1 b'x'", '20 +++ exited with 0 +++', '0 all rest')[-1] == (
        'All rest, and client 1 hangs: it has all 1 bytes, but FIN has not come, as the server still has '
        'connection 1.')


def test_what_happens_many_times_is_folded_and_a_long_run_is_cut():
    nobody = '10 accept4(3, 0x7f, [16], SOCK_NONBLOCK) = -1 EAGAIN (Resource temporarily unavailable)'
    clients = [f'0 client {number} connects from {6000 + number}' for number in range(2, 302)]
    folded = data('', '', '', '', '', steps_of(*99 * [nobody]))['steps']
    assert [step['says'] for step in folded[-2:]] == [folded[-2]['says'], 'The same 97 more times.']
    lines = [f'10 access("/line/{number}", F_OK) = -1 ENOENT' for number in range(1, 301)]
    cut = data('', '', '', '', '', steps_of(*sum(map(list, zip(clients, lines, lines, strict=True)), [])))
    assert len(cut['steps']) == 601 and 'left out' in cut['steps'][-1]['says']


def in_page(text):
    """The data in a page."""
    return json.loads(re.search('id="run">(.*?)</script>', text, re.DOTALL)[1])


def test_what_was_sent_is_data_and_never_markup():
    sent = rb"0 client 1 sends 40 b'</script><b>\x1b[31m\xff'".decode()
    printed = r'10 write(1, "</script>\33[31m\377", 14) = 14'
    run = data('name', '', '', '', '</script>', steps_of(sent, printed))
    assert in_page(page(run)) == run
    assert run['steps'][-2]['set']['clients']['client 1']['sent'] == r'</script><b>\x1b[31m\xff… (40 bytes)'


@pytest.mark.parametrize('line', replay.REPLAYS)
def test_a_replay_in_the_repository_is_what_a_run_gives(line, tool):
    tool('strace')
    stage, _, scene = line.partition(' ')
    fresh = replay.played(replay.of_stage(find_stage(stage), scene))
    kept = in_page((replay.FOLDER / f'{fresh["name"]}.html').read_text('utf-8'))
    if kept['python'] != fresh['python']:
        pytest.skip(f'it was made with Python {kept["python"]}, whose lines differ')
    assert fresh == kept, 'run `make replays`'


def test_without_agreement_with_the_kernel_no_page_is_written(tool, monkeypatch):
    tool('strace')
    monkeypatch.setattr(Kernel, 'fork', lambda kernel, parent, pid, is_thread=False, fork=Kernel.fork:
                        fork(kernel, parent, pid, is_thread=True))  # as if a child had no copies
    with pytest.raises(SystemExit, match='^No page is written, as model and kernel disagree. .*$'):
        replay.played(replay.of_stage(find_stage('part3-v1.1')))


def test_a_handler_that_runs_between_two_lines_is_shown_with_its_own_lines(tool, tmp_path):
    tool('strace')
    (tmp_path / 'server.py').write_text(
        'import os, signal, socket\n'
        'signal.signal(signal.SIGCHLD, lambda *_:\n'
        '    os.wait())\n'
        'server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))\n'
        'server.accept()\n'
        'if os.fork() == 0:\n'
        '    os._exit(0)\n'
        'for number in range(300): pass\n'  # more lines than one process has at a stretch
        'server.accept()\n')
    run = replay.played(replay.of_own(f'{PYTHON} {tmp_path}/server.py'))
    said = [step['says'] for step in run['steps']]
    at = said.index('SIGCHLD tells the server that child 1 has ended. Its handler runs next.')
    assert [step['line'] for step in run['steps'][at:at + 3]] == [8, 3, 3]
    assert run['steps'][at + 2]['call'] == 'wait() = 102'


def test_a_server_that_forks_without_end_is_told_in_a_sentence(tool, monkeypatch, tmp_path):
    tool('strace')
    (tmp_path / 'server.py').write_text(
        'import os, socket\n'
        'socket.create_server(("127.0.0.1", int(os.environ["PORT"]))).accept()\n'
        'while True:\n    os.fork()\n')
    with pytest.raises(ServerFailed, match='started more than 40 processes'):
        replay.played(replay.of_own(f'{PYTHON} {tmp_path}/server.py'))


def test_a_server_in_another_language_has_a_replay_without_lines(tool):
    tool('strace'), tool('node')
    source = 'require("net").createServer(c => c.on("data", () => c.end("hi"))).listen(process.env.PORT)'
    run = replay.played(replay.of_own(f"node -e '{source}'"))
    said = [step['says'] for step in run['steps']]
    assert 'Client 1 gets FIN: the reply ends here.' in said
    assert not any('line' in step for step in run['steps'])
