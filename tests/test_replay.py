"""Replays: the model of a kernel, the steps of a run, and the pages that make replays writes."""
import json
import re
import subprocess
import sys
import time

import pytest

from common.stages import find_stage
from laboratory import replay
from laboratory.instruments import turns
from laboratory.instruments.kernel import LIMIT, eventually
from laboratory.instruments.model import File, Kernel
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.replay_page import index, page
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
    assert [step.keys for step in steps[-2:]] == [
        ['exit', 'zombie', 'sends SIGCHLD', 'stays pending'], ['exit', 'zombie', 'merged']]
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
        "Child 1 ends. It stays in the kernel's process table, as a zombie, until the server asks with "
        'wait() or waitpid() how it ended. The kernel sends SIGCHLD to the server.',
        'SIGCHLD comes to the server. It does not say which child has ended. The signal interrupts accept(), '
        'because the server has a handler for it.',
        'accept() ends with the error EINTR: a signal has interrupted it.',
        'The server comes to line 16.',
        'The server is back in accept(): Python has called it again after the signal (PEP 475).']


def test_a_client_that_hangs_is_told_who_holds_its_connection():
    assert said(FORK.format(20), '0 client 1 sends 3 b"abc"', '20 sendto(4, "x", 1, 0, NULL, 0) = 1',
                "0 client 1 receives 1 b'x'", '20 +++ exited with 0 +++', '0 all rest',
                '0 client 1 closes')[-2:] == [
        'Nothing moves any more. Client 1 hangs: it has all 1 bytes, but no FIN, because the server still '
        'has connection 1 open.',
        'Client 1 gives up and closes its end: FIN goes to the server, whose end is now in CLOSE_WAIT until '
        'the server closes it, too.']


def marks(*names):
    return [f'10 access("/{name}", F_OK) = -1 ENOENT' for name in names]


def test_a_handler_that_begins_before_its_last_call_is_over_is_told_so():
    begins = marks('handler/0/handle_exit', 'line/16')
    assert said(*begins, '10 wait4(-1, <unfinished ...>', '0 look 0', *begins,
                *marks('back/16', 'handled/0', 'back/37', 'handled/0'))[-5:] == [
        'handle_exit() begins: the server comes to line 16.',
        'No child has ended, so the server waits in wait(). It cannot accept clients meanwhile.',
        'handle_exit() begins once more, inside itself: its first call is not over. The server comes to '
        'line 16.',
        *2 * ['handle_exit() is over. The server goes back to what the signal has interrupted.']]


def test_an_error_is_told_once_and_the_line_that_catches_it():
    steps = steps_of('10 wait4(-1, 0x7f, WNOHANG, NULL) = -1 ECHILD (No child processes)',
                     *marks('raised/2/ChildProcessError', 'back/5', 'raised/5/ChildProcessError', 'line/6',
                            'raised/5/OSError', 'line/6'))
    source = 'def reap():\n    os.waitpid(-1, os.WNOHANG)\n\ntry:\n    reap()\nexcept ChildProcessError:\n'
    assert [step['says'] for step in data('', '', '', '', source, steps)['steps'][-5:]] == [
        'waitpid() fails with ECHILD: the server has no child any more.',
        'waitpid() on line 2 raises ChildProcessError.',
        'The server comes to line 6, which catches ChildProcessError.',
        'Line 5 raises OSError.', 'The server comes to line 6.']


def test_the_end_of_a_with_block_is_told_where_its_line_comes_a_second_time():
    source = 'while True:\n    with client:\n        serve()\n    close()\n'
    steps = steps_of(*marks('line/2', 'line/3', 'line/2', 'line/4', 'line/2'))
    assert [step['says'] for step in data('', '', '', '', source, steps)['steps'][-3:]] == [
        'The server comes back to line 2, where the with block ends.',
        'The server comes to line 4.', 'The server comes to line 2.']


def test_a_word_is_explained_where_it_comes_first():
    run = data('', '', '', '', '', steps_of('10 close(4) = 0', '0 client 1 connects from 6000'))
    means = [step['says'] for step in run['steps'] if 'FIN means' in step['says']]
    assert means == ['The server closes descriptor 4, and with it connection 1: the kernel sends FIN. '
                     'FIN means: I send nothing more.']


def test_a_line_to_which_a_process_comes_back_is_shown_when_it_does_something_there():
    steps = steps_of(*marks('line/30', 'line/7', 'back/30'), '0 client 1 sends 3 b"abc"', '10 close(4) = 0')
    assert [step.after['processes']['server']['line'] for step in steps[-3:]] == [7, 7, 30]


def test_a_new_thread_is_at_no_line_of_its_parent():
    steps = steps_of(*marks('line/30'), FORK.format(20).replace('SIGCHLD', 'CLONE_THREAD'))
    assert steps[-1].after['processes']['thread 1']['line'] is None


def test_the_end_of_a_run_tells_what_is_left():
    children = [line for pid in (20, 30) for line in (FORK.format(pid), f'{pid} close(4) = 0')]
    assert said(*children, '0 client 1 closes', '0 client 2 connects from 6000',
                '10 --- stopped by SIGSTOP ---', '20 +++ exited with 0 +++', '30 +++ exited with 0 +++',
                '10 --- SIGCONT {si_signo=SIGCONT, si_code=SI_USER, si_pid=1} ---', SIGCHLD.format(20),
                '10 wait4(-1, 0x7f, 0, NULL) = 20', '10 wait4(-1, <unfinished ...>', '0 look 0',
                '0 the end')[-1] == (
        'The run ends here. 2 children have ended, but SIGCHLD has come only once: the others were lost. '
        'Child 2 is still a zombie. It stays so until the server calls wait(), or ends. The server still has '
        'descriptor 4, so connection 1 stays in CLOSE_WAIT. The server waits in wait(); client 2 is still in '
        'the backlog.')


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


def test_the_folder_has_the_replays_that_are_named_and_a_list_of_them():
    names = [replay.name_of(*which) for which in replay.REPLAYS]
    assert sorted(path.stem for path in replay.FOLDER.iterdir()) == sorted([*names, 'index'])
    runs = [in_page((replay.FOLDER / f'{name}.html').read_text('utf-8')) for name in names]
    assert (replay.FOLDER / 'index.html').read_text('utf-8') == index(runs)


@pytest.mark.parametrize(('stage', 'scene'), replay.REPLAYS)
def test_a_replay_in_the_repository_is_what_a_run_gives(stage, scene, tool):
    tool('strace')
    fresh = replay.played(replay.of_stage(find_stage(stage), scene))
    text = (replay.FOLDER / f'{fresh["name"]}.html').read_text('utf-8')
    kept = in_page(text)
    assert page(kept) == text, 'run `make replays`'
    if kept['python'] != fresh['python']:
        pytest.skip(f'it was made with Python {kept["python"]}, whose lines differ')
    assert fresh == kept, 'run `make replays`'


def test_without_agreement_with_the_kernel_no_page_is_written(tool, monkeypatch):
    tool('strace')
    monkeypatch.setattr(Kernel, 'fork', lambda kernel, parent, pid, is_thread=False, fork=Kernel.fork:
                        fork(kernel, parent, pid, is_thread=True))  # as if a child had no copies
    with pytest.raises(SystemExit, match=(
            '^No page is written: the replay and the kernel disagree about connection 1. '
            r'This is a fault of ours, not of your server. \(server FIN_WAIT2, 0 unread, '
            r'in the kernel ESTABLISHED, 0 unread\)$')):
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
    at = said.index('SIGCHLD comes to the server. It does not say which child has ended. '
                    'Its handler runs next.')
    assert [step['line'] for step in run['steps'][at:at + 3]] == [8, 3, 3]
    assert run['steps'][at + 2]['call'] == 'wait() = 102'


def test_an_error_that_nothing_catches_is_told_to_end_the_server(tool):
    tool('strace')
    run = replay.played(replay.of_stage(find_stage('part3-v1.2'), 'eintr'))
    said = [step['says'] for step in run['steps']]
    at = said.index('accept() on line 36 raises InterruptedError.')
    assert said[at + 2] == 'Nothing catches InterruptedError: it ends the server.'
    assert 'InterruptedError ends the server' in [moment['says'] for moment in run['moments']]


@pytest.mark.parametrize('loop, end', [
    ('for number in range(300):\n    pass', 'The replay ends here, after 200 lines.'),
    ('sum(range(10**12))', 'The server has used more than 1 seconds of CPU and does not wait. '
                           'The replay ends here.')])
def test_a_replay_ends_with_the_reason_where_a_server_does_not_rest(tool, monkeypatch, tmp_path, loop, end):
    tool('strace')
    monkeypatch.setattr(turns, 'MOST_TURNS', 200), monkeypatch.setattr(turns, 'WORK', 1)
    (tmp_path / 'server.py').write_text(
        'import os, socket\n'
        'client, _ = socket.create_server(("127.0.0.1", int(os.environ["PORT"]))).accept()\n'
        f'{loop}\n')
    run = replay.played(replay.of_own(f'{PYTHON} {tmp_path}/server.py'))
    assert run['steps'][-1]['says'] == end
    assert not any(step['says'].startswith('Client 1 closes') for step in run['steps'])


def test_time_stands_still_while_a_line_waits_for_its_turn(tool, monkeypatch, tmp_path):
    tool('strace')
    give_turn = turns.StagedServer.give_turn
    monkeypatch.setattr(turns.StagedServer, 'give_turn',
                        lambda *args: (time.sleep(0.1), give_turn(*args)))  # as on a busy machine
    (tmp_path / 'server.py').write_text(
        'import os, socket, time\n'
        'server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))\n'
        'begin = time.monotonic()\n'
        + 'pass\n' * 9 +
        'print("late" if time.monotonic() - begin > 0.5 else "in time", flush=True)\n'
        'server.accept()\n')
    run = replay.played(replay.of_own(f'{PYTHON} {tmp_path}/server.py'))
    assert 'The server prints: in time' in [step['says'] for step in run['steps']]


def test_a_server_that_prints_without_end_has_a_small_page(tool, tmp_path):
    tool('strace')
    (tmp_path / 'server.py').write_text(
        'import os, socket\n'
        'client, _ = socket.create_server(("127.0.0.1", int(os.environ["PORT"]))).accept()\n'
        'for number in range(100): print("x" * 100_000, flush=True)\n'
        'client.close()\n')
    run = replay.played(replay.of_own(f'{PYTHON} {tmp_path}/server.py'))
    assert len(page(run)) - len(page({**run, 'steps': []})) < 100_000


def test_a_replay_that_is_killed_leaves_no_server_that_waits_for_its_turn(tmp_path):
    (tmp_path / 'marked.py').write_text('print()\n')
    program = ('import sitecustomize, runpy, sys; sitecustomize.PATIENCE = 0.1; '
               'runpy.run_path(sys.argv[1])')
    env = {'PYTHONPATH': str(replay.MARKED_LINES), 'REPLAY': f'{tmp_path}/marked.py'}
    done = subprocess.run([sys.executable, '-c', program, env['REPLAY']], env=env, timeout=LIMIT)
    assert done.returncode == 1


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


def test_of_a_long_file_the_lines_that_are_left_out_are_counted():
    source = data('', '', '', '', 'x' * 400 + '\n' + 'y\n' * 1200, [])['source']
    assert (len(source[0]), len(source), source[-1]) == (301, 1001, '… (201 more lines)')


AT_A_LINE = '10 access("/line/40", F_OK) = -1 ENOENT'


def test_fork_says_only_what_there_is_to_share():
    bare = Steps([AT_A_LINE, FORK.format(20)]).steps[-1]
    assert told(bare) == 'fork() makes child 1, a copy of the server.'
    assert said(FORK.format(20))[-1].endswith('0 in child 1. Both have descriptors 3 and 4.')


def test_a_wait_that_tells_of_a_stopped_child_leaves_it_in_the_table():
    steps = steps_of(FORK.format(20), FORK.format(30), '10 wait4(20, <unfinished ...>', '0 look 0',
                     '20 --- stopped by SIGSTOP ---', '10 <... wait4 resumed>[{WIFSTOPPED(s) && '
                     'WSTOPSIG(s) == SIGSTOP}], WSTOPPED, NULL) = 20', '30 +++ exited with 0 +++',
                     '10 wait4(20, 0x7f, WNOHANG, NULL) = 0')
    assert [told(step) for step in steps[-5:] if step.who == 'server'] == [
        'The server waits in wait() until child 1 ends. It does nothing else until then.',
        'The server learns that child 1 was stopped. It has not ended!',
        'waitpid() returns 0 at once (WNOHANG): there are children, but none has ended.']
    assert steps[-1].call == 'waitpid(102, WNOHANG) = 0'
    assert steps[-1].after['processes']['child 1']['state'] == 'stopped'


def test_an_end_that_sends_fin_and_rst_names_the_clients_of_each():
    accept = SERVES.splitlines()[-1].replace('5000', '6000').replace('= 4', '= 5')
    assert said('0 client 2 connects from 6000', accept, "0 client 2 sends 3 b'abc'",
                '10 +++ exited with 0 +++')[-1] == (
        'The server ends. The kernel closes what it had open, and FIN goes to client 1. '
        'The kernel closes what it had open, and RST goes to client 2, as bytes lie unread.')


def test_a_look_at_bytes_takes_none():
    steps = steps_of("0 client 1 sends 3 b'abc'", '10 recvfrom(4, "abc", 9, MSG_PEEK, NULL, NULL) = 3')
    assert 'leaves them there' in told(steps[-1])
    assert steps[-1].after['connections']['1']['to_server'] == 3


def test_an_accept_of_an_unknown_port_takes_no_other_connection():
    kernel = Kernel()
    kernel.connect(5000)
    assert kernel.accept(kernel.start(10), '4', 6000) is None


def test_only_numbers_of_processes_and_ports_are_replaced_in_what_is_printed():
    text = r'10 write(1, "HTTP/1.1 10 pid: 10, 10 from (\"127.0.0.1\", 5000)\n", 46) = 46'
    assert said(text)[-1] == 'The server prints: HTTP/1.1 10 pid: 101, 10 from ("127.0.0.1", 50001)'


def test_python_gets_no_credit_for_a_call_that_the_kernel_restarts():
    assert said('10 access("/line/40", F_OK) = -1 ENOENT', '10 accept4(3, <unfinished ...>', '0 look 0',
                '10 <... accept4 resumed>0x7f, [16], SOCK_CLOEXEC) = ? ERESTARTSYS (To be restarted)',
                SIGCHLD.format(20), '10 rt_sigreturn({mask=[]}) = 288',
                '10 access("/back/40", F_OK) = -1 ENOENT',
                '10 accept4(3, <unfinished ...>', '0 look 0')[-1] == (
        'The server waits in accept(): the backlog is empty.')


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Where replays are written; the runs are empty."""
    monkeypatch.setattr(replay, 'FOLDER', tmp_path / 'replays')
    monkeypatch.setattr(replay, 'MY', tmp_path / 'my')
    monkeypatch.setattr(replay, 'played', lambda play: data(play.name, '', '', '', '', []))
    monkeypatch.setattr(replay, 'REPLAYS', (('part1', ''),))
    return tmp_path


def test_make_replays_takes_away_a_page_that_is_named_no_more(folders):
    (folders / 'replays').mkdir()
    (folders / 'replays/part0.html').touch()
    replay.write_all()
    assert sorted(path.name for path in (folders / 'replays').iterdir()) == ['index.html', 'part1.html']


def test_a_single_replay_is_the_reader_s_own(folders, tool, monkeypatch):
    tool('strace')
    monkeypatch.setattr(sys, 'argv', ['replay', 'part1'])
    monkeypatch.setenv('SCENE', 'silent-client')
    replay.main()
    assert [path.relative_to(folders).as_posix() for path in folders.glob('*/*')] == [
        'my/part1-silent-client.html']


def test_a_browser_gets_nothing_of_the_terminal(monkeypatch, tmp_path):
    opener = tmp_path / 'xdg-open'
    opener.write_text(f'#!/bin/sh\necho {"$1"} $(readlink /proc/$$/fd/0 /proc/$$/fd/1) > {tmp_path}/new\n'
                      f'mv {tmp_path}/new {tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    monkeypatch.setenv('DISPLAY', ':0')
    replay.show(tmp_path / 'replay.html')
    assert eventually((tmp_path / 'opened').exists)
    assert (tmp_path / 'opened').read_text().split() == [f'{tmp_path}/replay.html', '/dev/null', '/dev/null']
