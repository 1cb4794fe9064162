"""The loop in which the reader writes the server: make learn."""
import io
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
from types import SimpleNamespace

import pexpect
import psutil
import pytest
from rich.console import Console
from rich.text import Text

from common.stages import ROOT, find_stage, stage_before, stages_of
from laboratory.experiments import course
from laboratory.experiments.lessons import PREDICTIONS, THREE_HINTS, WHEN_IT_STOPS, filled
from laboratory.experiments.tables import EXPERIMENTS, due, questions
from laboratory.experiments.verdicts import Verdict
from laboratory.instruments import kernel, process, saves
from laboratory.instruments.process import free_port
from laboratory.instruments.terminal import Keys
from laboratory.learn import BUILT, NO_FILE, OWN_PORT, THE_END, Learner, Screen, first, first_after, main

LESSONS = [lesson for part in EXPERIMENTS for lesson in course.lessons(part)]
PART3 = course.lessons('part3')
FAILS = {  # what the stage before a lesson fails first, and what comes of it
    'part3-v1.1-fd-leak': ('silent_client', 'a second client waits while another one is silent.'),
    'part3-v1.1': ('end_of_reply', '33 bytes of reply, then nothing: no FIN.'),
    'part3-v1.2': ('one_child', 'the child has answered and is a zombie.'),
    'part3-v1.3': ('eintr', 'the first SIGCHLD ends the server.'),
    'part3-final': ('children_at_once', '23 zombies after 24 children ended together.'),
    'part2-v1.1': ('environ', "PATH_INFO is '/caf%C3%A9%20x?a=1&b=%20' instead of '/cafÃ© x';"),
    'part2-v1.2': ('whole_response', 'a piece of the body is not sent until '),
    'part2-v1.3': ('outlives', 'the server ends.'),
    'part2-v1.4': ('refuses', '200 instead of 400 (RFC 9112, section 3.2);'),
    'part2-final': ('promises', "b'\\nX-Smuggled' is sent "),
    'part4-v1.1': ('few_processes', '100 more processes for 100 silent clients.'),
    'part4-v1.2': ('killed_workers', '2 workers were killed, and the next client is not answered.'),
    'part4-v1.3': ('stuck_application', 'an application that does not return holds up its worker '),
    'part4-v1.4': ('keep_alive', 'the connection ends after the first reply.'),
    'part4-v2.0': ('idle_clients', '8 of 8 other clients get no answer while 150 clients are idle.'),
    'part4-v2.1': ('waiting_application', ' get no answer while an application waits in each worker.'),
    'part4-v2.2': ('stop_mid_reply', 'a client that reads its reply gets '),
}
EXPERIMENT = {experiment.__name__: experiment for part in EXPERIMENTS for experiment in questions(part)}
SHOWN = {  # the telling line of a table, or of what was sent and received
    'part3-v1.1-fd-leak': '<-- in the backlog, not accepted',
    'part3-v1.1': '<-- not closed on this side',
    'part3-v1.2': '<-- ended, not waited for',
    'part3-v1.3': '<-- EINTR',
    'part3-final': '<-- 23 children, 23 of them zombies',
    'part2-v1.1': 'environ:\n\n> GET /caf%C3%A9%20x?a=1&b=%20 HTTP/1.1\n',
    'part2-v1.2': 'Streaming:\n\n> GET /wait HTTP/1.1\n',
    'part2-v1.3': 'An empty connection:\n\n> (nothing)\n< (closed without an answer)\n',
    'part2-v1.4': 'No Host:\n\n> GET / HTTP/1.1\n> \n< HTTP/1.1 200 OK\n',
    'part2-final': '\n< X-Smuggled: two\n',
}


@pytest.fixture
def house(tmp_path):
    """A copy of what the command needs, so that each test has a folder my/ of its own."""
    for folder in 'common', 'part1', 'laboratory', 'part2', 'part3', 'part4', 'tests/servers':
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path / 'tests/bin').mkdir()
    (tmp_path / 'tests/bin/less').write_text('#!/bin/sh\ncat\n')  # which waits for nobody
    (tmp_path / 'tests/bin/less').chmod(0o755)
    return tmp_path


def environment(house, **env):
    return {**os.environ, 'TERM': 'xterm', 'NO_COLOR': '1', 'TMPDIR': str(house), 'COLUMNS': '120',
            'PATH': f'{house}/tests/bin:{os.environ["PATH"]}', **env}


def learn(house, **env):
    """One pass in a pipe; return the exit status, output and errors."""
    ran = subprocess.run([sys.executable, '-m', 'laboratory.learn'], cwd=house, env=environment(house, **env),
                         text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert '\x1b' not in ran.stdout
    assert left(house) == []
    return ran.returncode, ran.stdout, ran.stderr


def left(house):
    """The processes that run with that folder for their temporary files, and what is in it."""
    running = [process for process in psutil.process_iter()
               if kernel.seen(process.environ, {}).get('TMPDIR') == str(house) and kernel.alive(process.pid)]
    known = {'common', 'part1', 'laboratory', 'part2', 'part3', 'part4', 'tests', 'my'}
    return [*running, *(path for path in house.iterdir() if path.name not in known)]


def test_every_experiment_is_in_a_lesson_or_belongs_to_all():
    for part in EXPERIMENTS:
        *_, last = course.lessons(part)
        assert sorted(map(str, [*last.experiments, *last.earlier])) == sorted(map(str, questions(part)))
    assert [lesson.stage.name for lesson in LESSONS] == list(FAILS)


@pytest.mark.parametrize('lesson', LESSONS, ids=lambda lesson: lesson.stage.name)
def test_a_lesson_is_about_what_its_stage_is_the_first_to_pass(lesson):
    before, after = due(stage_before(lesson.stage)), due(lesson.stage)
    bad = [experiment for experiment in lesson.experiments if before[experiment.__name__] == 'bug']
    assert bad[0] is EXPERIMENT[FAILS[lesson.stage.name][0]]
    assert {after[experiment.__name__] for experiment in lesson.experiments} == {'pass'}
    assert 'bug' not in {after[experiment.__name__] for experiment in lesson.earlier}


def test_to_have_no_worker_is_bad_but_to_have_no_child_is_not():
    assert course.Finding(None, Verdict('no worker', ''), []).is_bad
    assert not course.Finding(None, Verdict('no child', ''), []).is_bad


@pytest.mark.parametrize('lesson', LESSONS, ids=lambda lesson: lesson.stage.name)
def test_the_stage_before_a_lesson_fails_at_its_first_question(lesson, house):
    before = stage_before(lesson.stage)
    status, output, _ = learn(house, FROM=before.name, PATIENCE='1')
    experiment, came = FAILS[lesson.stage.name]
    assert f', from {before.name} to {lesson.stage.name}\n\nbug  {EXPERIMENT[experiment].__doc__}\n' in output
    assert re.search('What happened: .*' + re.escape(came.strip()), ' '.join(output.split()))
    assert SHOWN.get(lesson.stage.name, '') in output
    assert output.count('bug  ') == 1
    assert status == 1


@pytest.mark.parametrize('stage', [stage for part in EXPERIMENTS for stage in stages_of(part)],
                         ids=lambda stage: stage.name)
def test_the_page_of_a_stage_ends_with_the_lesson_that_follows(stage):
    text = (ROOT / stage.folder / 'README.md').read_text()
    line = f'\n\nWrite the next stage yourself: `make learn FROM={stage.name}`.\n'
    assert text.endswith(line) is (first_after(stage) is not None)


@pytest.mark.long
def test_the_last_stage_of_part_2_passes_all_lessons(house):
    shutil.copytree(house / 'part2/final', house / 'my/part2')
    status, output, _ = learn(house, PART='2')
    assert output.endswith(f'\nYour server passes all lessons of part 2.\n{THE_END["part2"]}\n')
    assert status == 0


def test_a_file_that_is_there_is_used_as_it_is(house):
    (house / 'my').mkdir()
    mine = house / 'my/server.py'
    mine.write_text((ROOT / 'part3/v1.1/server.py').read_text())
    status, output, _ = learn(house, FROM='part3-v1.0')
    assert output.startswith('my/server.py is there already, and is used as it is. ')
    assert 'bug  reaps a child that has ended' in output
    assert mine.read_text() == (ROOT / 'part3/v1.1/server.py').read_text()
    assert status == 1


def test_part_4_begins_with_both_files_of_its_stage(house):
    _, output, _ = learn(house, PART='4')
    assert output.startswith('my/part4/server.py and my/part4/protocol.py: copied from part4/v1.1-protocol.')
    for name in 'server.py', 'protocol.py':
        assert (house / 'my/part4' / name).read_text() == (ROOT / 'part4/v1.1-protocol' / name).read_text()


@pytest.mark.parametrize(('env', 'told'), [
    ({'PART': '1'}, 'PART=1 is not valid: use 3, 2 or 4'),
    ({'FROM': 'part3-v9'}, 'part3-v9 is not a stage. The stages: part1'),
    ({'FROM': 'part1'}, 'FROM=part1: there are no lessons for it, only for parts 2, 3 and 4'),
    ({'FROM': 'part3-final'}, 'FROM=part3-final: no lesson comes after that stage'),
    ({'FROM': 'part4-v2.2'}, 'FROM=part4-v2.2: no lesson comes after that stage'),
    ({'FROM': 'part3-v1.0', 'PART': '4'}, 'PART=4 FROM=part3-v1.0: that stage belongs to part 3'),
    ({'PATIENCE': 'long'}, 'PATIENCE=long is not valid: use a number of seconds'),
])
def test_a_bad_variable_is_reported_in_one_line_before_a_file_is_made(env, told, monkeypatch):
    monkeypatch.setattr('laboratory.learn.copied', lambda *_: pytest.fail('a file is made'))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f'^{told}.*$'):
        main()


def test_a_folder_that_cannot_be_made_is_reported_in_one_line(house):
    (house / 'my').write_text('')
    status, output, errors = learn(house)
    assert errors == f'cannot write into {house}/my: File exists\n'
    assert (output, status) == ('', 1)


@pytest.mark.parametrize(('server', 'told'), [
    ('never_answers.py', 'it did not answer a request within 5 seconds. It printed nothing.'),
    ('ends_at_once.py', "AttributeError: 'socket' object has no attribute 'receive'"),
    ('floods.py', 'it did not listen on a port, but ended, after printing 10 MB: more is not '),
    ('floods_later.py', 'it ended when its first client came, after printing 10 MB: more is not '),
    ('forks_without_end.py', 'it started more than 200 processes. It printed nothing.'),
    ('forks_at_first.py', 'it started more than 200 processes. It printed nothing.'),
    ('nosuch.py', 'it did not listen on a port, but ended, with exit status 2'),
])
def test_a_server_that_cannot_be_tested_is_reported_calmly(server, told, house):
    status, output, _ = learn(house, SERVER=f'{sys.executable} tests/servers/{server}')
    assert 'Your server could not be tested: it ' in output
    assert told in output
    assert output.count('\n') < 32
    assert status == 2


def test_a_server_with_a_port_of_its_own_is_tested_one_question_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'OTHER', 0.1)
    source = (ROOT / 'part3/v1.1/server.py').read_text()
    (tmp_path / 'server.py').write_text(re.sub('PORT = .*', f'PORT = {free_port()}', source))
    learner = Learner(PART3, f'{sys.executable} {tmp_path}/server.py', '', number=1, patience=1)
    learner.test()
    assert not learner.untested
    assert learner.bad.experiment.__name__ == 'one_child'
    assert learner.view().renderables[-1].plain == f'\n{OWN_PORT}'


def test_a_command_that_compiles_is_tested_one_question_at_a_time(terminal, house, tool):
    tool('cc')
    shutil.copytree(ROOT / 'tests/servers', house / 'my')
    reader = terminal(SERVER='cc -o my/server my/fork_in_c.c && exec my/server')
    see(reader, 'Your prediction')
    reader.sendline('')
    see(reader, BUILT)
    see(reader, 'q quit')


def test_a_server_in_another_language_is_tested(house, tool):
    status, output, _ = learn(house, SERVER=f'{tool("node")} tests/servers/event_loop.js')
    assert 'Your server passes all lessons of part 3.' in output
    assert status == 0
    assert not (house / 'my').exists()


@pytest.mark.parametrize(('source', 'told'), [
    (b'import os\nos.fork(\n', "my/server.py, line 2:\n    os.fork(\n'(' was never closed\n"),
    (b'x = "\xff"\n', "codec can't decode byte 0xff"),
    (b'x = "\0"\n', 'source code string cannot contain null bytes'),
    (b'x = ' + b'-' * 100_000 + b'1\n', 'my/server.py: too deep for Python'),
])
def test_a_file_that_python_cannot_read_gets_a_line_and_no_verdict(source, told, house):
    (house / 'my').mkdir()
    (house / 'my/server.py').write_bytes(source)
    status, output, errors = learn(house)
    assert told in output
    assert 'What happened' not in output
    assert (status, errors) == (2, '')


@pytest.fixture
def terminal(house):
    """terminal() starts the command on a terminal; it is ended with the test, and leaves nothing."""
    started = []

    def start(command='exec "$0" -m laboratory.learn', **env):
        started.append(pexpect.spawn('sh', ['-c', command, sys.executable], cwd=house, dimensions=(24, 80),
                                     env=environment(house, COLUMNS='80', **env), encoding='utf-8',
                                     codec_errors='replace', timeout=60))
        return started[-1]
    yield start
    for command in started:
        command.close()
    assert kernel.eventually(lambda: left(house) == [])


def see(reader, words):
    """Wait until these words are on the terminal, whatever their style, and wherever a line ends."""
    reader.expect(r'(?:\x1b\[\d*m|\s)+'.join(map(re.escape, words.split())))


def see_hint(reader, number, words):
    see(reader, f'Hint {number} of 3: {filled(words, lambda app: "python3 my/server.py")}')


def save(house, stage):
    """Save a stage as the reader's server, as editors do: a new file takes the place of the old one."""
    (house / 'my/new').write_text((ROOT / find_stage(stage).server).read_text())
    (house / 'my/new').rename(house / 'my/server.py')


@pytest.mark.long
def test_a_reader_goes_through_part_3(terminal, house):
    reader = terminal()
    for number, lesson in enumerate(PART3):
        experiment, came = FAILS[lesson.stage.name]
        see(reader, f'For new words, see {stage_before(lesson.stage).folder}/README.md.')
        see(reader, PREDICTIONS[lesson.stage.name])
        see(reader, 'Your prediction (Enter skips): ')
        reader.sendline('I do not know' if number == 0 else '')
        see(reader, f'Lesson {number + 1} of 5, from {stage_before(lesson.stage).name} to')
        see(reader, f'bug  {EXPERIMENT[experiment].__doc__}')
        see(reader, f'What happened: {came}')
        if number == 0:
            see(reader, 'You predicted: I do not know')
        see(reader, 'q quit')
        for hint, words in enumerate(THREE_HINTS[experiment], 1):
            reader.send('h')
            see_hint(reader, hint, words)
        reader.send('h')
        see(reader, 'There are no more hints.')
        save(house, lesson.stage.name)
        see(reader, f'pass  {lesson.experiments[0].__doc__}')
        if number < 4:
            see(reader, 'This lesson passes' + ', and so do the earlier ones' * (number > 0) + '.')
            see(reader, 'q quit')
            reader.send('d')
            see(reader, f'Yours, compared with {stage_before(lesson.stage).name}:')
            see(reader, f'Ours: make diff-{lesson.stage.name}')
            see(reader, 'q quit')
            reader.send('n')
    see(reader, 'Your server passes all lessons of part 3.')
    see(reader, 'make learn PART=2')
    reader.send('q')
    reader.expect(pexpect.EOF)
    assert reader.wait() == 0


def test_the_scene_and_the_trace_show_the_readers_own_server(terminal, house, tool):
    tool('strace')
    reader = terminal(FROM='part3-v1.1', GUESS='no')
    see(reader, 'q quit')
    reader.send('s')
    see(reader, 'Your server')
    see(reader, 'the child has answered and is a zombie')
    see(reader, 'q quit')
    reader.send('t')
    see(reader, 'fork → child')
    see(reader, 'q quit')
    reader.send('\r')
    see(reader, 'What happened: the child has answered and is a zombie.')
    see(reader, 'q quit')
    reader.send('q')
    reader.expect(pexpect.EOF)


def test_the_trace_shows_the_situation_of_the_lesson(terminal, tool):
    tool('strace')
    reader = terminal(FROM='part3-v1.0', GUESS='no')
    see(reader, 'q quit')
    reader.send('t')
    see(reader, 'a client, descriptor 4')
    see(reader, 'q quit')
    assert 'bytes of request' not in reader.before


def test_long_diffs_are_shown_page_by_page(terminal, house, tool):
    tool('less')
    reader = terminal(FROM='part3-v1.1', GUESS='no', PATH=os.environ['PATH'])
    see(reader, 'q quit')
    save(house, 'part3-v1.2')
    see(reader, 'q quit')
    reader.send('d')
    see(reader, 'Yours, compared with part3-v1.1:')
    see(reader, 'space next page b page before q back')
    reader.send(' ')
    see(reader, 'Ours: make diff-part3-v1.2')
    reader.send('q')
    see(reader, 'This lesson passes')
    see(reader, 'q quit')
    reader.send('q')
    reader.expect(pexpect.EOF)


def test_a_trace_stays_when_the_window_gets_larger(monkeypatch):
    pressed, left = iter(['', '\n']), []
    learner = SimpleNamespace(files=SimpleNamespace(were_saved=lambda: False))
    screen = Screen(learner, SimpleNamespace(pressed=lambda seconds: next(pressed), was_suspended=False))
    screen.is_away = True  # and its size is None: not that of the console

    def show():
        left.extend(pressed)
        screen.ended = True
    monkeypatch.setattr(screen, 'commands', dict)
    monkeypatch.setattr(screen, 'show', show)
    screen.loop()
    assert left == []  # Enter came first


@pytest.mark.parametrize(('typed', 'key'), [
    (b'\x1bOQ', ''),
    (b'\x1b[D', ''), (b'\x1b[1;5D', ''), (b'\x1b[15~', ''), (b'\x1b[[D', ''), (b'\x1b', ''), (b'quest', ''),
    (b'h', 'h'), (b'hh', 'h'), (b'\x1b[Ah', 'h'), (b'\n', '\n'), (b'', 'q')])
def test_an_arrow_a_function_key_or_a_pasted_word_is_no_letter(typed, key, monkeypatch):
    keys = Keys()
    keys.before = True
    monkeypatch.setattr(select, 'select', lambda *args: ([0], [], []))
    monkeypatch.setattr(os, 'read', lambda *args: typed)
    assert keys.pressed(0) == key


def stop_and_go_on(reader):
    """Stop the command, and let it go on, as Ctrl-Z and fg do; the shell changes the terminal meanwhile."""
    reader.kill(signal.SIGSTOP)
    assert kernel.eventually(lambda: kernel.status(reader.pid) == 'stopped')
    attributes = termios.tcgetattr(reader.child_fd)
    attributes[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(reader.child_fd, termios.TCSANOW, attributes)
    reader.kill(signal.SIGCONT)


def test_the_keys_work_again_after_ctrl_z_and_fg(terminal):
    reader = terminal(FROM='part3-v1.0', GUESS='no')
    see(reader, 'q quit')
    stop_and_go_on(reader)
    see(reader, 'q quit')
    assert not termios.tcgetattr(reader.child_fd)[3] & (termios.ICANON | termios.ECHO)
    reader.send('q')
    reader.expect(pexpect.EOF)


def test_a_test_during_which_the_command_was_stopped_is_made_again(monkeypatch):
    keys, tests = SimpleNamespace(was_suspended=False, pressed=lambda seconds: ''), []

    def test():
        keys.was_suspended = not tests
        tests.append('made')
    monkeypatch.setattr(Screen, 'show', lambda screen: None)
    Screen(SimpleNamespace(is_placed=True, findings=[], untested=[], test=test), keys).test()
    assert tests == ['made', 'made']


@pytest.mark.parametrize(('columns', 'line'), [
    (80, '12:00:00   r run again   h hint   s scene   t trace   q quit'),
    (60, 'r run again   h hint   s scene   t trace   q quit'), (40, 'r   h   s   t   q')])
def test_the_keys_are_named_in_one_line(columns, line, monkeypatch):
    learner = Learner(PART3, 'nosuch', '', number=0, patience=1)
    learner.findings = [course.Finding(PART3[0].experiments[0], Verdict('bug', 'bad'), [])]
    narrow = Console(width=columns, file=io.StringIO())
    monkeypatch.setattr('laboratory.learn.console', narrow)
    screen = Screen(learner, SimpleNamespace())
    screen.tested = '12:00:00'
    screen.show_keys()
    assert narrow.file.getvalue() == line


def test_a_bug_without_a_scene_is_shown_by_two_commands(terminal):
    reader = terminal(FROM='part2-v1.2', GUESS='no')
    see(reader, 'bug serves the next client, whatever fails')
    see(reader, 'quit')
    reader.send('s')
    see(reader, 'See it in two other terminals:')
    see(reader, 'Start: PORT=8888 PATH=$PWD/.venv/bin:$PATH')
    see(reader, 'Type:')


@pytest.mark.parametrize(('evidence', 'moments'), [
    ('; '.join(['y' * 150] * 9), []),
    ('y' * 90, [('a moment', '')] * 2 + [('and what was shown then', Text('\n'.join(['1 2 3'] * 6)))]),
])
def test_a_failure_fits_on_one_screen(evidence, moments, monkeypatch):
    learner = Learner(PART3, 'nothing', '', number=1, patience=1)
    learner.hints, learner.hinted, learner.prediction = 3, THREE_HINTS['end_of_reply'], 'x' * 50
    verdict = Verdict('bug', evidence, ['z' * 150] * 9 + ['ValueError: no'])
    learner.findings = [course.Finding(PART3[1].experiments[0], verdict, moments)]
    monkeypatch.setattr('laboratory.learn.console', Console(width=80, height=24, force_terminal=True))
    lines = Console(width=80).render_lines(learner.view(), pad=False)
    assert len(lines) < 24
    assert ''.join(segment.text for segment in lines[0]).startswith('Lesson 2 of 5')


@pytest.mark.parametrize(('rows', 'shown'), [(24, [3]), (60, [1, 2, 3])])
def test_all_hints_stay_that_have_room(rows, shown, monkeypatch):
    learner = Learner(PART3, 'nothing', '', number=2, patience=1)
    learner.hints, learner.hinted = 3, THREE_HINTS['one_child']
    moments = [('a moment', Text('\n'.join(['1 2 3'] * 6)))]
    learner.findings = [course.Finding(PART3[2].experiments[0], Verdict('bug', 'a zombie', []), moments)]
    monkeypatch.setattr('laboratory.learn.console', Console(width=80, height=rows, force_terminal=True))
    lines = Console(width=80, height=rows).render_lines(learner.view(), pad=False)
    text = '\n'.join(''.join(segment.text for segment in line) for line in lines)
    assert [int(number) for number in re.findall(r'Hint (\d) of 3: ', text)] == shown


def test_an_error_that_no_experiment_is_about_is_told_too(house):
    (house / 'my').mkdir()
    source = (ROOT / 'part3/final/server.py').read_text()
    (house / 'my/server.py').write_text(source.replace('os._exit(0)', 'raise OSError("no")'))
    status, output, _ = learn(house)
    assert 'Your server printed an error all the same: OSError: no\n' in output
    assert 'Your server passes all lessons of part 3.' in output
    assert status == 0


@pytest.mark.parametrize(('evidence', 'said'), [
    ('33 bytes; then FIN', '33 bytes; then FIN'),
    ('wrong: one: x', 'one: x'),
    ('wrong: one: x; two: y; three: z', 'one: x; and 2 more'),
])
def test_of_a_list_of_complaints_the_first_one_is_said(evidence, said):
    assert first(evidence) == said


def test_what_an_earlier_lesson_asked_is_asked_again(terminal, house):
    reader = terminal(FROM='part3-v1.1', GUESS='no')
    see(reader, 'bug  reaps a child')
    see(reader, 'q quit')
    source = (ROOT / 'part3/v1.2/server.py').read_text()
    (house / 'my/server.py').write_text(re.sub(" +client_fd.close.*# the parent's copy\n", '', source))
    see(reader, 'This lesson passes, but your server now fails an earlier one.')
    see(reader, 'bug  ends its reply: the client sees FIN')


def test_the_hints_begin_again_when_something_else_is_wrong(terminal, house):
    reader = terminal(FROM='part3-v1.2', GUESS='no')
    see(reader, 'the first SIGCHLD ends the server')
    see(reader, 'q quit')
    for number in 1, 2, 3:
        reader.send('h')
        see_hint(reader, number, THREE_HINTS['eintr'][number - 1])
    source = (ROOT / 'part3/v1.3/server.py').read_text()
    (house / 'my/server.py').write_text(source.replace('            continue\n', '            1 / 0\n'))
    see(reader, 'the server has ended, with exit status 1')
    see(reader, 'q quit')
    reader.send('h')
    see_hint(reader, 1, WHEN_IT_STOPS[0])


def test_a_syntax_error_is_a_line_number_until_it_is_mended(terminal, house):
    reader = terminal(FROM='part3-v1.1', GUESS='no')
    see(reader, 'q quit')
    (house / 'my/server.py').write_text('while True\n')
    see(reader, 'my/server.py, line 1:')
    see(reader, "expected ':'")
    (house / 'my/server.py').unlink()
    see(reader, 'my/server.py is not there.')
    save(house, 'part3-v1.2')
    see(reader, 'This lesson passes')


def test_a_server_that_cannot_be_tested_at_first_finds_its_lesson_later(terminal, house):
    (house / 'my').mkdir()
    (house / 'my/server.py').write_text('while True\n')
    reader = terminal()
    see(reader, 'my/server.py, line 1:')
    save(house, 'part3-v1.2')
    see(reader, PREDICTIONS['part3-v1.3'])
    reader.sendline('')
    see(reader, 'Lesson 4 of 5')


def test_what_failed_last_time_is_asked_first(terminal, house):
    reader = terminal(FROM='part3-v1.3', GUESS='no')
    see(reader, 'bug reaps all children')
    source = (ROOT / 'part3/final/server.py').read_text()
    (house / 'my/server.py').write_text(source.replace('os.waitpid(-1, os.WNOHANG)', 'os.waitpid(-1, 0)'))
    see(reader, 'pass reaps all children that end at the same time')  # is mended
    see(reader, 'bug keeps serving while a child is stopped')
    (house / 'my/server.py').write_text('while True\n')
    see(reader, 'my/server.py, line 1:')
    save(house, 'part3-v1.3')  # has both bugs
    see(reader, 'bug keeps serving while a child is stopped')


KEYS = b'rhdnstRHDN \r\n\t\x04\x7f\x1b[A\xc3\xa9\x00\xff0'


@pytest.mark.long
def test_keys_at_random_break_nothing(terminal, house):
    reader = terminal(command='"$0" -m laboratory.learn; echo "exit status $?"; stty -a')
    keys = random.Random(11)
    see(reader, 'Your prediction')
    for stage in 'part3-v1.1-fd-leak', 'part3-v1.1', 'part3-v1.2':
        os.write(reader.child_fd, bytes(keys.choices(KEYS, k=40)))
        save(house, stage)
        os.write(reader.child_fd, bytes(keys.choices(KEYS, k=40)))
    reader.send('\r')
    reader.expect('Lesson . of 5')
    (house / 'my/server.py').write_text('while True\n')
    reader.send('\r')
    see(reader, "expected ':'")
    see(reader, 'q quit')
    reader.send('q')
    see(reader, 'exit status 0')
    settings = reader.read()
    assert re.search(r'(?<!-)icanon\b', settings)
    assert re.search(r'(?<!-)echo\b', settings)
    assert 'Traceback' not in settings


@pytest.mark.parametrize('moment', [
    'Your prediction', 'What happened', 'does it serve?', 'Your server', 'fork'])
def test_a_terminal_that_is_closed_leaves_nothing(moment, terminal, house, tool):
    env = {} if moment == 'Your prediction' else {'GUESS': 'no'}
    reader = terminal('exec "$0" -m laboratory.learn 2>tests/errors', FROM='part3-v1.1', **env)
    if moment in ('Your server', 'fork'):
        tool('strace')
        see(reader, 'q quit')
        reader.send('s' if moment == 'Your server' else 't')
    see(reader, moment)
    reader.ptyproc.fileobj.close()
    reader.wait()
    assert kernel.eventually(lambda: left(house) == [])
    assert (house / 'tests/errors').read_text() == ''


def test_a_command_that_names_no_file_is_tested_again_at_a_key(terminal):
    reader = terminal(SERVER='cd part3/v1.0 && exec python3 server.py', GUESS='no')
    see(reader, NO_FILE)
    see(reader, 'q quit')
    reader.send('r')
    see(reader, 'does it serve?')
    see(reader, 'What happened')


def test_ctrl_c_ends_it_during_a_test(terminal, house):
    reader = terminal(GUESS='no')
    see(reader, 'does it serve?')
    reader.sendintr()
    reader.expect(pexpect.EOF)
    assert reader.wait() == 130
    assert 'Traceback' not in reader.before


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saves, 'EVERY', 0)
    (tmp_path / 'my').mkdir()
    (tmp_path / 'my/server.py').write_text('one')
    files = saves.Files('python3 my/server.py', 'my')
    files.note()
    return SimpleNamespace(files=files, folder=tmp_path / 'my')


def test_a_save_counts_when_two_looks_show_the_same(files):
    assert [files.files.were_saved() for _ in range(3)] == [False] * 3
    (files.folder / 'server.py').write_text('half')
    assert files.files.were_saved() is False
    (files.folder / 'server.py').write_text('the whole')
    assert files.files.were_saved() is False
    assert files.files.were_saved() is True
    files.files.note()
    assert files.files.were_saved() is False


def test_a_file_beside_the_server_counts_and_what_an_editor_leaves_does_not(files):
    for name in '.server.py.swp', 'server.py~', '__pycache__/server.pyc', 'part4/server.py':
        (files.folder / name).parent.mkdir(exist_ok=True)
        (files.folder / name).write_text('')
    assert [files.files.were_saved() for _ in range(3)] == [False] * 3
    (files.folder / 'protocol.py').write_text('')
    assert [files.files.were_saved() for _ in range(2)] == [False, True]


@pytest.mark.parametrize('command', ['python3 my/server.py', 'python3 my/server.py >>my/log 2>&1'])
def test_what_a_server_writes_beside_it_is_no_save(command, files):
    watched = saves.Files(command, 'my')
    watched.note()
    for name in 'server.log', 'log':
        (files.folder / name).write_text('a client has come')
    assert [watched.were_saved() for _ in range(3)] == [False] * 3


def test_a_file_that_the_server_does_not_import_may_be_no_python(files):
    (files.folder / 'server.py').write_text('import protocol')
    for name in 'webserver3a.py', 'protocol.py':
        (files.folder / name).write_text('print "Hello"')
    assert files.files.problem().startswith('my/protocol.py, line 1:')
    (files.folder / 'protocol.py').write_text('')
    assert files.files.problem() == ''


def test_a_server_that_is_written_later_counts(files):
    (files.folder / 'server.py').unlink()
    later = saves.Files('python3 my/server.py', 'my')
    later.note()
    (files.folder / 'server.py').write_text('now')
    assert [later.were_saved() for _ in range(2)] == [False, True]


def test_what_the_command_builds_is_no_save(files):
    built = files.folder / 'server'
    watched = saves.Files(f'cc -o {built} my/server.c && exec my/server my/server.py', 'my')
    watched.note()
    before = watched.built()
    built.write_bytes(b'\x7fELF\0')
    assert [watched.were_saved() for _ in range(3)] == [False] * 3
    assert watched.built() != before


def test_a_file_that_vanishes_for_a_moment_does_not_count(files):
    (files.folder / 'server.py').rename(files.folder / '.old')
    assert files.files.were_saved() is False
    (files.folder / '.old').rename(files.folder / 'server.py')
    assert [files.files.were_saved() for _ in range(3)] == [False] * 3
