"""The story that a trace tells, from what strace wrote of servers of several kinds."""
import re

import pytest

from laboratory.instruments.events import KINDS
from laboratory.instruments.timeline import Timeline

START = '''
10 bind(3, {sa_family=AF_INET, sin_port=htons(8888), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
10 listen(3, 5) = 0
'''
ACCEPTED = '''
10 accept4(3, {sa_family=AF_INET, sin_port=htons(5000), sin_addr="127.0.0.1"}, [16], SOCK_CLOEXEC) = 4
'''
REPLIED = '''
{0} recvfrom(4, "GET /hello HTTP/1.1\\r\\n\\r\\n", 1024, 0, NULL, NULL) = 23
{0} sendto(4, "HTTP/1.1 200 OK\\r\\n\\r\\n", 19, 0, NULL, 0) = 19
{0} close(4) = 0
'''
TOLD = [
    '{0}: recv → 23 bytes of request', '{0}: send → 19 bytes of reply', '{0}: close(4) the last copy: FIN']
FORK = 'clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f)'
THREAD = ('clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD, exit_signal=0} '
          '=> {parent_tid=[20]}, 88)')
NOBODY = '10 accept4(3, 0x7ffe, [16], SOCK_NONBLOCK) = -1 EAGAIN (Resource temporarily unavailable)'
INTERRUPTED = '''
10 accept4(3, 0x7ffe, [16], SOCK_CLOEXEC) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
10 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=20, si_uid=0, si_status=0} ---
'''


def told(*texts, **options):
    timeline = Timeline('\n'.join(texts).splitlines(), 8888, **options)
    return [f'{event.pid}: {event.words}' for event in timeline.events]


def by(pid):
    return REPLIED.format(pid), [line.format(pid) for line in TOLD]


def test_an_iterative_server():
    text, lines = by(10)
    assert told(START, ACCEPTED, text) == [
        '10: accept4 … waiting', '10: accept4 → a client, descriptor 4', *lines]


@pytest.mark.parametrize('call', [
    FORK, 'vfork()', 'fork()', 'clone3({flags=CLONE_CHILD_SETTID, exit_signal=SIGCHLD}, 88)'])
def test_a_child_that_runs_before_its_parent_goes_on_loses_nothing(call):
    text, lines = by(20)
    name = call.partition('(')[0]
    assert told(START, ACCEPTED, f'10 {call.removesuffix(")")} <unfinished ...>', '20 close(3) = 0',
                f'10 <... {name} resumed>) = 20', '10 close(4) = 0', text, '20 +++ exited with 0 +++') == [
        '10: accept4 … waiting', '10: accept4 → a client, descriptor 4', '10: fork → child 20',
        '20: close(3) the listening socket', "10: close(4) the parent's copy", *lines, '20: exit']


def test_a_thread_shares_the_descriptors_of_its_process():
    text, lines = by(20)
    assert told(START, ACCEPTED, f'10 {THREAD} = 20', text, '20 +++ exited with 0 +++')[2:] == [
        '10: clone → thread 20', *lines[:-1], '20: close(4): FIN']


def test_several_workers_wait_for_clients():
    text, lines = by(30)
    assert told(START, f'10 {FORK} = 20', f'10 {FORK} = 30', '20 accept4(3,  <unfinished ...>',
                ACCEPTED.replace('10 ', '30 '), text)[2:] == [
        '20: accept4 … waiting', '30: accept4 … waiting', '30: accept4 → a client, descriptor 4', *lines]


def test_workers_that_listen_each_for_itself_are_children_of_one_server():
    text, lines = by(30)
    second, third = START.replace('10 ', '20 '), (START + ACCEPTED).replace('10 ', '30 ')
    events = told(f'10 {FORK} = 20', f'10 {FORK} = 30', second, third, text)
    assert events[-3:] == lines
    assert '10: fork → child 30' in events


def test_an_event_loop_that_finds_nobody_has_not_waited_in_accept():
    text, lines = by(10)
    assert told(START, NOBODY, '10 epoll_wait(5, [{events=EPOLLIN}], 2, 100) = 1', ACCEPTED, NOBODY,
                '10 epoll_wait(5, [], 2, 100) = 0', text) == [
        '10: accept4 → nobody is waiting: EAGAIN', '10: epoll_wait → 1 ready',
        '10: accept4 → a client, descriptor 4', '10: accept4 → nobody is waiting: EAGAIN', *lines]


@pytest.mark.parametrize(('call', 'waits'), [
    ('recvfrom(4, ', 'recv'), ('sendto(4, "xxx"..., 65536, ', 'send'), ('wait4(-1, ', 'wait4'),
    ('epoll_wait(5, ', 'epoll_wait')])
def test_a_call_that_has_not_returned_at_the_end_waits(call, waits):
    assert told(START, ACCEPTED, f'10 {call} <unfinished ...>')[2:] == [f'10: {waits} … waiting']
    assert told(START, ACCEPTED, '10 recvfrom(9,  <unfinished ...>')[2:] == []


@pytest.mark.parametrize('call', ['ioctl(3, FIONBIO, [1])', 'fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK)'])
def test_an_accept_that_does_not_block_never_waits(call):
    assert told(START, f'10 {call} = 0', ACCEPTED) == ['10: accept4 → a client, descriptor 4']


def test_what_happens_many_times_in_a_row_is_one_line():
    rows = Timeline((START + 99 * f'{NOBODY}\n').splitlines(), 8888).screen().columns[0]._cells
    assert [str(cell) for cell in rows] == ['accept4 → nobody is waiting: EAGAIN (99 times)']


def test_a_shell_in_front_does_not_appear():
    text, lines = by(10)
    events = told('5 vfork() = 10', '5 wait4(-1,  <unfinished ...>', START, ACCEPTED, text,
                  '10 +++ exited with 0 +++', '5 <... wait4 resumed>0x7f, 0, NULL) = 10')
    assert events[2:] == [*lines, '10: exit']


def test_another_socket_that_listens_is_not_the_server():
    text, lines = by(10)
    other = START.replace('8888', '9999').replace('10 ', '20 ')
    assert told(f'10 {FORK} = 20', other, START, other, ACCEPTED, text)[-3:] == lines


@pytest.mark.parametrize(('returns', 'again'), [
    ('= -1 EINTR (Interrupted system call)',
     ['10: accept4 interrupted: EINTR', '10: accept4 again (the program retries)']),
    ('= 288', ['10: accept4 again (the kernel restarts it)']),
])
def test_who_calls_an_interrupted_accept_again(returns, again):
    events = told(START, INTERRUPTED, f'10 rt_sigreturn({{}}) {returns}', '10 accept4(3, <unfinished ...>')
    assert events == ['10: accept4 … waiting', '10: SIGCHLD: child 20 has exited', *again]


def test_an_accept_that_ends_the_program_is_not_called_again():
    events = told(START, INTERRUPTED, '10 rt_sigreturn({mask=[]}) = -1 EINTR (Interrupted system call)',
                  '10 +++ exited with 1 +++')
    assert events[-2:] == ['10: accept4 interrupted: EINTR', '10: exit']


def test_the_same_number_may_be_another_client():
    events = told(START, ACCEPTED, f'10 {FORK} = 20', '10 close(4) = 0', ACCEPTED, '20 close(4) = 0')
    assert events[-1] == '20: close(4) the last copy: FIN'


def test_a_process_that_is_killed_closes_what_it_held():
    assert told(START, ACCEPTED, f'10 {FORK} = 20', '10 close(4) = 0', '20 recvfrom(4,  <unfinished ...>',
                '20 +++ killed by SIGKILL +++')[-2:] == [
        '20: killed by SIGKILL', '20: … closes 4, the last copy: FIN']


def test_a_signal_can_be_waited_for():
    assert told(START, f'10 {FORK} = 20',
                '10 rt_sigtimedwait([TERM CHLD ALRM], {si_signo=SIGALRM, si_code=SI_KERNEL}, NULL, 8) = 14',
                '10 rt_sigtimedwait([TERM CHLD ALRM],  <unfinished ...>',
                '10 <... rt_sigtimedwait resumed>{si_signo=SIGCHLD, si_code=CLD_KILLED, si_pid=20, si_uid=0, '
                'si_status=SIGKILL, si_utime=0, si_stime=0}, NULL, 8) = 17 (SIGCHLD)') == [
        '10: fork → child 20', '20: killed by SIGKILL', '10: SIGCHLD: child 20 died of SIGKILL']


def test_shutdown_sends_fin_and_the_last_close_no_other():
    assert told(START, ACCEPTED, '10 shutdown(4, SHUT_WR) = 0', '10 close(4) = 0')[2:] == [
        '10: shutdown(4): FIN', '10: close(4) the last copy']


def test_a_duplicate_is_a_copy():
    events = told(START, ACCEPTED, '10 fcntl(4, F_DUPFD, 0) = 5', '10 close(4) = 0', '10 close(5) = 0')
    assert events[2:] == ["10: close(4) the parent's copy", '10: close(5) the last copy: FIN']


@pytest.mark.parametrize(('result', 'words'), [
    ('20', 'reaped 20'), ('0', 'no child has ended'), ('-1 ECHILD (No child processes)', 'there is no child'),
])
def test_what_wait_finds(result, words):
    events = told(START, ACCEPTED, f'10 wait4(-1, 0x7ffe, WNOHANG, NULL) = {result}')
    assert events[-1] == f'10: wait4 → {words}'


@pytest.mark.parametrize('text', ['', '10 accept4(3,', 'strace: attached', '10 +++ exited with 0 +++'])
def test_without_a_server_there_is_nothing_to_tell(text):
    assert told(text) == []


def test_a_client_that_is_passed_to_another_process_is_not_closed():
    rights = '{} {}(8, {{msg_control=[{{cmsg_type=SCM_RIGHTS, cmsg_data=[{}]}}], msg_flags=0}}, 0) = 1'
    text, lines = by(20)
    events = told(f'10 {FORK} = 20', '20 execve("/bin/worker", [], 0x7f) = 0', START, ACCEPTED,
                  rights.format(10, 'sendmsg', 4), '10 close(4) = 0', rights.format(20, 'recvmsg', 4), text)
    assert events[0] == '10: fork → child 20'
    assert events[3:] == ["10: close(4) the parent's copy", '20: recvmsg → a client, descriptor 4', *lines]


def test_what_happens_before_the_server_listens_is_not_shown():
    text, lines = by(10)
    assert told(f'10 {FORK} = 20', '20 +++ exited with 0 +++', '10 wait4(-1, 0x7f, 0, NULL) = 20',
                START, ACCEPTED, text)[2:] == lines


def test_the_diagram_asks_for_no_value_that_the_words_of_an_event_do_not_have():
    for words, line in KINDS.values():
        assert {*re.findall(r'{(\w+)}', line)} <= {'me', *re.findall(r'{(\w+)}', words)}, line
