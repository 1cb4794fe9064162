"""The loop in which the reader writes the server: make learn."""
import os
import re
import select
import signal
import subprocess
import sys
import termios
from types import SimpleNamespace

import pexpect
import pytest

from common import stages
from common.stages import ROOT, find_stage
from laboratory import learn
from laboratory.bugs import BUGS, EXPECTED, asked, expected, known_stages, lessons
from laboratory.instruments import kernel, own, telling
from laboratory.instruments.experiment import BUG, ENDED, PASS, Result
from laboratory.instruments.loop import Interrupted, Loop
from laboratory.instruments.own import Tried
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.runs import at_once
from laboratory.instruments.saves import Files
from laboratory.instruments.terminal import Keys
from tests.helpers import PYTHON, end_of, left

PART3 = lessons('part3')
FIRST, SECOND = PART3[:2]
ZOMBIE, EINTR = BUGS['zombie'], BUGS['eintr']
YES_OR_NO = ('Is Are Was Were Do Does Did Has Have Had Can Could Will Would Shall Should May Might Must'
             .split())  # with which a question begins
AT_ZOMBIE = next(number for number, lesson in enumerate(PART3) if ZOMBIE in lesson.bugs)


@pytest.mark.parametrize('part', EXPECTED)
def test_every_bug_is_in_a_lesson_and_each_page_leads_to_the_next_lesson(part):
    for lesson in lessons(part):
        before, after = expected(lesson.before), expected(lesson.stage)
        assert BUG in {before[bug.name] for bug in lesson.bugs}
        assert {after[bug.name] for bug in lesson.bugs} == {PASS}
        assert BUG not in {after[bug.name] for bug in lesson.earlier}
    assert {*lesson.bugs, *lesson.earlier} == set(asked(part))  # the last one
    for stage in known_stages(part):
        text = (ROOT / stage.folder / 'README.md').read_text()
        line = f'\n\nWrite the next stage yourself: `make learn FROM={stage.name}`.\n'
        assert text.endswith(line) is (learn.first_after(stage) is not None), stage


def see(reader, words):
    """Wait until these words are on the terminal, whatever their style, and wherever a line ends."""
    reader.expect(r'(?:\x1b\[\d*m|\s)+'.join(map(re.escape, words.split())))


def press(reader, key):
    see(reader, 'q quit')
    reader.send(key)


def save(house, stage):
    """Save a stage as the reader's server, as editors do: a new file takes the place of the old one."""
    (house / 'my/new').write_text((ROOT / stage.server).read_text())
    (house / 'my/new').rename(house / 'my/server.py')


@pytest.mark.long
def test_a_reader_goes_through_two_lessons(terminal, house, tool):
    tool('strace')
    bug, result = FIRST.bugs[0], Result(BUG)
    start, typed = 'PORT=8888 python3 my/server.py', telling.typed(bug.case(result).see)
    reader = terminal('learn', folder=house)
    see(reader, f'my/server.py: copied from part3/v1.0. {learn.SAVED}')
    see(reader, f'{bug.predict} Your prediction (Enter skips): ')
    reader.sendline('I do not know')
    see(reader, f'Lesson 1 of 5, from {FIRST.before.name} to {FIRST.stage.name} bug {bug.asks}')
    for words in '<-- in the backlog, not accepted', 'What happened: ', 'You predicted: I do not know':
        see(reader, words)
    for number, hint in enumerate(bug.hints(result), 1):
        press(reader, 'h')
        see(reader, f'Hint {number} of 3: {hint.replace("{see}", typed)}')
        see(reader, f'To start your server in another terminal: {start}' * ('{see}' in hint))
    press(reader, 'h')
    see(reader, 'There are no more hints.')
    press(reader, 's')
    see(reader, 'Your server')
    see(reader, f'Start: {start} Type: {typed} {bug.case(result).look_for}')
    press(reader, 't')
    see(reader, 'accept4 → a client')
    press(reader, 'v')
    see(reader, f'Open in a browser: {house}/my/replay.html')
    see(reader, 'q quit')
    for lesson, passes in (FIRST, 'This lesson passes.'), (SECOND, 'and so do the earlier ones.'):
        save(house, lesson.stage)
        see(reader, f'pass {lesson.bugs[0].asks}')
        see(reader, passes)
        press(reader, 'd')
        see(reader, f'Yours, compared with {lesson.before.name}:')
        see(reader, f'Ours: make diff-{lesson.stage.name}')
        press(reader, 'n')
        see(reader, 'Your prediction (Enter skips): ')
        reader.sendline('')
        see(reader, 'What happened: ')
        see(reader, 'q quit')
    reader.send('q')
    assert end_of(reader) == 0


def test_the_keys_work_again_after_ctrl_z_and_fg_and_ctrl_c_ends_a_test(terminal, house):
    shell = terminal('--norc', '-i', program='bash', folder=house, PS1='ready> ', HISTFILE=os.devnull,
                     GUESS='no', SERVER=f'cd part3/v1.0 && exec {PYTHON} server.py')
    shell.sendline(f'{PYTHON} -m laboratory.learn')
    see(shell, learn.NO_FILE)
    press(shell, '\x1a')
    see(shell, 'ready>')
    shell.sendline('fg')
    see(shell, 'q quit')
    assert not termios.tcgetattr(shell.child_fd)[3] & (termios.ICANON | termios.ECHO)
    shell.send('r')
    see(shell, 'does it serve?')
    shell.send('\x1a')
    see(shell, 'ready>')
    shell.sendline('fg')
    see(shell, 'does it serve?')
    shell.sendintr()
    see(shell, 'ready>')
    assert 'Traceback' not in shell.before
    shell.sendline('echo "status $?"; stty -a; exit')
    see(shell, 'status 130')
    shell.expect(r'[^-]icanon(.|\n)*[^-]echo ')
    shell.expect(pexpect.EOF)


@pytest.fixture
def endless(terminal, house):
    """A reader whose test does not end: the experiment waits for an hour."""
    experiment = house / 'laboratory/bugs/silent_client.py'
    begin = 'def experiment(server, step):\n'
    assert begin in experiment.read_text()
    experiment.write_text(experiment.read_text().replace(
        begin, f'{begin}    if "endless" in server.output():\n        __import__("time").sleep(3600)\n'))
    (house / 'my').mkdir()
    source = (ROOT / FIRST.stage.server).read_text()
    (house / 'my/server.py').write_text(f'print("endless", flush=True)\n{source}')
    reader = terminal('learn', folder=house, GUESS='no')
    see(reader, FIRST.bugs[0].asks)
    return reader


def test_a_save_during_a_test_ends_it_and_begins_the_next(endless, house):
    save(house, FIRST.stage)
    see(endless, f'bug {SECOND.bugs[0].asks}')
    press(endless, 'r')
    see(endless, f'bug {SECOND.bugs[0].asks}')
    assert kernel.family(endless.pid) == {}


def test_a_key_ends_a_test_and_not_the_loop(endless):
    endless.send('x')
    see(endless, 'The test has ended without a result. r begins it again.')
    see(endless, 'r run again t trace v replay q quit')
    assert kernel.family(endless.pid) == {}
    endless.send('r')
    see(endless, FIRST.bugs[0].asks)
    endless.send('q')
    assert end_of(endless) == 0


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_test_leaves_nothing(endless, signum, temporary):
    assert kernel.eventually(lambda: len(kernel.family(endless.pid)) > 1)
    endless.kill(signum)
    assert end_of(endless) == 128 + signum
    assert left(temporary) == []


def test_a_signal_during_a_scene_ends_the_scene_too(terminal, house, temporary):
    reader = terminal('learn', folder=house, GUESS='no')
    press(reader, 's')
    see(reader, 'Your server')
    reader.kill(signal.SIGTERM)
    assert end_of(reader) == 128 + signal.SIGTERM
    assert left(temporary) == []


def test_in_a_pipe_it_tests_the_server_once(house, temporary):
    env = {**os.environ, 'TMPDIR': str(temporary), 'COLUMNS': '120'}
    (house / 'my').mkdir()
    for source, status, told in [
            ((ROOT / 'part3/v1.1/server.py').read_text(), 1, 'Lesson 3 of .*<-- ended, not waited for'),
            ('\nwhile True\n', 2, "Lesson 1 of .*server.py\", line 2\n    while True\n.*Error: .*':'\n$")]:
        (house / 'my/server.py').write_text(source)
        ran = subprocess.run([sys.executable, '-m', 'laboratory.learn'], cwd=house, env=env, text=True,
                             stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert re.match(f'(?s)my/server.py is there already, and is used as it is. .*{told}', ran.stdout)
        assert (ran.returncode, ran.stderr) == (status, '')
        assert '\x1b' not in ran.stdout


def test_a_stage_is_copied_with_all_its_files_into_an_empty_place_only(house, monkeypatch):
    monkeypatch.setattr(stages, 'ROOT', house)
    stage = find_stage('part4-v1.1-protocol')
    assert learn.copied(stage, 'my/part4') == stage.files == ['server.py', 'protocol.py']
    for name in stage.files:
        assert (house / 'my/part4' / name).read_text() == (ROOT / stage.folder / name).read_text()
    assert learn.copied(find_stage('part4-v1.1'), 'my/part4') == []
    (house / 'yours').write_text('')
    with pytest.raises(SystemExit, match=f'^cannot write into {house}/yours: File exists$'):
        learn.copied(stage, 'yours')


def found(outcome, case='', detail='', **more):
    """The Result of a server that has printed nothing."""
    return Result(outcome, case, detail, **{'printed': [], **more})


@pytest.fixture
def learner(monkeypatch):
    """A Learner at the first lesson, of whose server `found` says {bug: Result}."""
    learner = learn.Learner(PART3, 'nosuch', '', number=0, patience=1)
    learner.found, learner.fine = {}, Tried(0.0, '8888', True)
    fine = found(PASS, detail='fine')
    monkeypatch.setattr(learn, 'measure', lambda bug, start: learner.found.get(bug, fine))
    monkeypatch.setattr(learn, 'first_client', lambda command, server, look: learner.fine)
    return learner


def keys_after(learner, found):
    """Let the server behave so, and test it; return the keys that make sense then."""
    learner.found = found
    learner.test()
    return ''.join(Loop(learner, None).commands())


def test_the_reader_is_in_the_first_lesson_that_does_not_pass(learner, capsys):
    assert keys_after(learner, {ZOMBIE: found('no worker')}) == 'rhstvq'
    assert learner.number == AT_ZOMBIE
    assert keys_after(learner, {}) == 'rdnstvq'
    keys_after(learner, {FIRST.bugs[0]: found(BUG)})
    learner.tell()
    assert 'This lesson passes, but your server now fails an earlier one.' in capsys.readouterr().out
    assert learner.number == AT_ZOMBIE


def test_at_the_end_everything_is_asked(learner, capsys, monkeypatch):
    assert keys_after(learner, {ZOMBIE: found('no child')}) == 'rdstvq'
    learner.tell()
    assert f'Your server passes all lessons of part 3.\n{learn.THE_END["part3"]}' in capsys.readouterr().out
    assert set(learner.results) == set(asked('part3'))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SERVER', 'nosuch')
    monkeypatch.setattr(learn, 'Learner', lambda *args: learner)
    assert learn.main() == 0


@pytest.mark.parametrize(('result', 'hint'), [
    (found(BUG, 'zombie'), ZOMBIE.hints(Result(BUG, 'zombie'))[1]),
    (found(BUG, 'never_ends'), ZOMBIE.hints(Result(BUG, 'never_ends'))[0]),
    (found(ENDED, cause='enoent'), telling.WHEN_IT_STOPS[0]),
    (found(ENDED, cause='eintr'), EINTR.hints(Result(BUG))[0]),
])
def test_the_hints_begin_again_when_something_else_is_wrong(result, hint, learner, capsys):
    keys_after(learner, {ZOMBIE: found(BUG, 'zombie')})
    learner.tell_hint()
    keys_after(learner, {ZOMBIE: result})
    assert learner.hints[learner.told] == hint
    learner.tell_hint()
    typed = telling.typed(EINTR.case(Result(BUG)).see)  # of what has ended the server
    assert (typed in capsys.readouterr().out) is (result.cause == 'eintr')


def test_a_server_that_cannot_be_tested_gets_hints_and_its_lesson_later(learner, capsys, monkeypatch):
    def fail(command, server, look):
        raise ServerFailed('did not listen on a port', 'Traceback\nOSError: \x1b[2J')
    with monkeypatch.context() as patched:
        patched.setattr(learn, 'first_client', fail)
        assert keys_after(learner, {}) == 'rhtvq'
    learner.tell()
    assert capsys.readouterr().out.endswith(
        '\n\nYour server could not be tested: it did not listen on a port. It printed:\n'
        'Traceback\nOSError: \\x1b[2J\n')
    assert learner.hints == telling.WHEN_IT_STOPS
    keys_after(learner, {ZOMBIE: found(BUG)})
    assert learner.number == AT_ZOMBIE


@pytest.mark.parametrize(('tried', 'why'), [
    (Tried(0.0, '9999', True), learn.OWN_PORT), (Tried(0.0, '8888', True, is_built=True), learn.BUILT)])
def test_a_server_that_cannot_run_twice_is_tested_one_by_one(tried, why, learner, monkeypatch, capsys):
    most_at_once, learner.fine = [], tried

    def at_once(runs, most, look):
        most_at_once.append(most)
        yield from (run() for run in runs)
    monkeypatch.setattr(learn, 'at_once', at_once)
    keys_after(learner, {})
    learner.tell()
    assert most_at_once == [1]
    assert f'\n{why}\n' in capsys.readouterr().out


def test_a_command_that_writes_a_file_that_it_names_rebuilds_the_server(monkeypatch):
    looks = [{}, {'server': 1}]
    monkeypatch.setattr(own, 'stamps', lambda paths: looks.pop(0))
    monkeypatch.setattr(own, 'try_out', lambda server: Tried(0.0, '8888', True))
    assert own.first_client('nosuch', None).is_built


def test_the_first_bug_ends_a_test_and_an_end_does_not(learner):
    first, second = asked('part3')[:2]
    keys_after(learner, {first: found(BUG), second: found(BUG)})
    assert list(learner.results) == [first]
    learner.is_placed = False
    keys_after(learner, {first: found(ENDED), ZOMBIE: found(BUG)})
    assert (learner.bad, list(learner.results)[-1]) == (first, ZOMBIE)


@pytest.mark.parametrize(('bug', 'prediction', 'result', 'told'), [
    (FIRST.bugs[0], 'no', found(BUG, '', 'it waits'), 'no. That is right.'),
    (FIRST.bugs[0], 'Yes, it is', found(BUG, '', 'it waits'), 'Yes, it is. It is the other way round.'),
    (FIRST.bugs[0], 'y', found(PASS, '', 'fine'), 'y. That is right.'),
    (FIRST.bugs[0], 'not sure', found(BUG, '', 'it waits'), 'not sure. What happened: it waits.'),
    (FIRST.bugs[0], 'no', found(ENDED, '', 'it has ended'), 'no. What happened: it has ended.'),
    (BUGS['dead_worker'], 'no', found(PASS, '', 'fine'), 'no. What happened: fine.'),
    (BUGS['lost_signal'], '23', found(BUG, '', '23 zombies'), '23. What happened: 23 zombies.'),
])
def test_a_prediction_is_called_right_or_not_where_that_can_be_known(bug, prediction, result, told):
    assert telling.compared(bug, prediction, result) == f'You predicted: {told}'


@pytest.mark.parametrize('bug', BUGS.values(), ids=BUGS)
def test_a_question_for_yes_or_no_is_answered_with_yes_by_a_server_that_passes(bug):
    told, last = telling.compared(bug, 'yes', found(PASS)), re.split('[.?!:;] ', bug.predict)[-1]
    is_yes_or_no = last.split()[0] in YES_OR_NO and ' or ' not in last
    assert told.endswith('right.' if is_yes_or_no else 'What happened: .')


def test_a_lesson_that_passes_is_told_before_the_earlier_ones_are_awaited(learner, capsys):
    seen = []

    def lesson_passes():
        seen.append(list(learner.results))
        learner.tell_passes()
    keys_after(learner, {ZOMBIE: found(BUG)})
    learner.found = {FIRST.bugs[0]: found(BUG, detail='it waits')}
    learner.test(lesson_passes=lesson_passes)
    learner.tell()
    assert seen == [learner.lesson.bugs]
    told = capsys.readouterr().out
    assert [told.count(f'{words}{ZOMBIE.asks}') for words in ('pass  ', '')] == [1, 1]
    assert told.endswith('What happened: it waits.\n')


def test_a_server_that_forks_no_child_is_told_so(learner, capsys):
    keys_after(learner, dict.fromkeys(PART3[-1].bugs, found('no child')))
    learner.tell()
    assert f'so this passes.\n{telling.TO_FORK}\n' in capsys.readouterr().out


def test_a_result_is_told_with_what_was_seen_last_how_many_more_and_what_was_printed(capsys):
    steps = ('the first', 'not shown'), ('the second', 'a table')
    printed = ['Traceback', 'OSError: no', 'bye']
    left = '3 of 9 left, also one'
    telling.tell_failure(EINTR, Result(BUG, '', 'one thing', ('another', 'a third'), left, steps, printed))
    telling.tell_success(ZOMBIE, Result(PASS, detail='fine', printed=printed))
    assert capsys.readouterr().out == (
        f'bug  {EINTR.asks}\n'
        '     (in Python: with the accept() of Python 2, which fails when a signal comes)\n'
        '\nThe first.\nThe second:\n\na table\n'
        '\nWhat happened: one thing; 3 of 9 left, also one.\nIt printed:\nTraceback\nOSError: no\n'
        f'pass  {ZOMBIE.asks}\n      fine\n'
        '      Your server printed an error all the same: OSError: no\n\n')


@pytest.mark.parametrize(('key', 'is_suspended', 'is_saved', 'then'), [
    ('', False, False, None), ('q', False, False, 'q'), ('', True, False, 'r'), ('', False, True, 'r')])
def test_a_key_a_save_and_a_stop_end_a_test(key, is_suspended, is_saved, then, learner, monkeypatch):
    keys = SimpleNamespace(was_suspended=is_suspended, pressed=lambda seconds: key)
    monkeypatch.setattr(learner.files, 'were_saved', lambda: is_saved)
    if not then:
        return Loop(learner, keys).look()
    with pytest.raises(Interrupted) as interrupted:
        Loop(learner, keys).look()
    assert interrupted.value.key == then


def test_a_test_that_was_ended_changes_nothing(learner, monkeypatch):
    keys_after(learner, {ZOMBIE: found(BUG)})
    before = learner.results

    def interrupt():
        raise Interrupted('x')
    monkeypatch.setattr(learn, 'at_once', lambda runs, most, look: at_once(runs, most, interrupt))
    with pytest.raises(Interrupted):
        keys_after(learner, {ZOMBIE: found(PASS)})
    assert (learner.results, learner.number) == (before, AT_ZOMBIE)


@pytest.mark.parametrize(('typed', 'key'), [
    (b'\x1bOQ', ''), (b'\x1b[D', ''), (b'\x1b[15~', ''), (b'\x1b[[D', ''), (b'\x1b', ''), (b'quest', ''),
    (b'h', 'h'), (b'hh', 'h'), (b'\x1b[Ah', 'h'), (b'\n', '\n'), (b'', 'q')])
def test_an_arrow_a_function_key_or_a_pasted_word_is_no_letter(typed, key, monkeypatch):
    keys = Keys()
    keys.before = True
    monkeypatch.setattr(select, 'select', lambda *args: ([0], [], []))
    monkeypatch.setattr(os, 'read', lambda *args: typed)
    assert keys.pressed(0) == key


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder my/ with a server.py, below the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my').mkdir()
    (tmp_path / 'my/server.py').write_text('import protocol')
    return tmp_path / 'my'


def looks(files):
    return [files.were_saved(), files.were_saved()]


def test_a_save_counts_when_two_looks_show_the_same(folder):
    watched, server = Files('python3 my/server.py'), folder / 'server.py'
    assert looks(watched) == [False, False]
    server.write_text('half')
    assert not watched.were_saved()
    server.write_text('the whole')
    assert looks(watched) == [False, True]
    watched.note()
    server.rename(folder / '.old')  # it vanishes for a moment
    later = Files('python3 my/server.py')
    assert not watched.were_saved()
    (folder / '.old').rename(server)
    assert looks(watched) == [False, False]
    assert looks(later) == [False, True]


@pytest.mark.parametrize(('written', 'command', 'counts'), [
    ('protocol.py', '', True), ('.server.py.swp', '', False), ('server.py~', '', False),
    ('part4/server.py', '', False), ('log', '>>my/log 2>&1', False), ('built', '; my/built', False)])
def test_a_module_beside_the_server_is_a_save_and_what_an_editor_or_a_server_writes_is_not(
        written, command, counts, folder):
    watched = Files(f'python3 my/server.py {command}')
    (folder / written).parent.mkdir(exist_ok=True)
    (folder / written).write_bytes(b'\x7fELF\0')
    assert looks(watched) == [False, counts]
