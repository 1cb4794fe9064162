"""Each bug: where a stage has it, where it is cured, and what is said about it."""
import os
import re
from functools import partial
from inspect import cleandoc
from itertools import pairwise

import pytest

from common.diff import diff_lines
from common.stages import ROOT, all_stages, find_stage, is_own, stage_before, stages_of, steps_of
from laboratory import bugs
from laboratory.bugs import BUGS, EXPECTED, bugs_of, cure, expected, known_stages, part_of, stage_with
from laboratory.instruments.experiment import Result, measure
from laboratory.instruments.own import start_line
from laboratory.instruments.ports import free_port
from laboratory.instruments.process import ServerProcess, stage_server
from laboratory.instruments.telling import as_text, typed
from tests.helpers import PYTHON, altered, protocols, run_in_shell

ALL = list(BUGS.values())
MOST = 330  # characters of a hint


def diagonal():
    """The stage before the cure, the one of the cure, the last stage of the part, and those beside it."""
    for bug in ALL:
        part = part_of(bug)
        stages = [stage_with(bug), cure(bug), known_stages(part)[-1], *bugs.beside(part)]
        for stage in dict.fromkeys(filter(None, stages)):
            yield pytest.param(bug, stage, id=f'{bug.name}-{stage.name}')


@pytest.mark.long
@pytest.mark.parametrize(('bug', 'stage'), list(diagonal()))
def test_the_stage_behaves_as_expected(bug, stage):
    result = measure(bug, partial(stage_server, stage))
    assert result.outcome == expected(stage)[bug.name], result
    if stage == stage_with(bug):
        assert result.case in bug.cases
        assert bug.witness in result.detail
    if len(bug.apps) > 1:
        assert [words for words, _ in result.steps] == [f'with {bug.apps[0]}: a client asks for /hello']


@pytest.mark.long
@pytest.mark.parametrize('bug', bugs_of('part2'), ids=lambda bug: bug.name)
@pytest.mark.parametrize('stage', protocols())
def test_each_protocol_of_part_4_passes_what_part_2_asks(bug, stage):
    result = measure(bug, partial(stage_server, find_stage(stage)))
    assert result.outcome == 'pass', result


def test_the_table_has_a_column_for_each_stage_in_their_order():
    for part, rows in EXPECTED.items():
        stages = [stage.name for stage in stages_of(part) if not is_own(stage.folder)]
        assert [list(row) for row in rows.values()] == [stages] * len(rows)


def test_a_side_road_shows_a_bug_that_a_step_cures_and_is_no_lesson():
    threads, crash = find_stage('part3-threads'), BUGS['shared_crash']
    assert (stage_with(crash), cure(crash)) == (threads, find_stage('part3-v1.1-fd-leak'))
    assert bugs.beside('part3') == [threads]
    assert [lesson.stage for lesson in bugs.lessons('part3')] == steps_of('part3')[1:]


def test_no_stage_of_parts_2_and_4_goes_from_pass_to_bug_but_where_workers_replace_children():
    steps = [step for part in ('part2', 'part4') for row in EXPECTED[part].values()
             for step in pairwise(row.items())]
    assert {stage for (_, before), (stage, after) in steps if (before, after) == ('pass', 'bug')} == {
        'part4-v1.1'}


@pytest.mark.parametrize('bug', ALL, ids=lambda bug: bug.name)
def test_a_bug_is_told_in_full(bug):
    assert re.fullmatch('[^A-Z].*[^.]', bug.asks)
    assert bug.predict.endswith('?')
    assert bug.witness or not stage_with(bug)
    assert bug.why[0].islower() and bug.why.endswith('.')
    for name, case in bug.cases.items():
        assert case.yours and case.see and case.look_for.startswith('You see ')
        look, *others = hints = bug.hints(Result('bug', name))
        assert len(hints) == 3
        assert [hint for hint in hints if not 0 < len(as_text(hint, '')) <= MOST] == []
        assert '{see}' not in ''.join(others)


@pytest.mark.parametrize('bug', ALL, ids=lambda bug: bug.name)
def test_the_cases_that_an_experiment_names_are_told(bug):
    source = (ROOT / f'laboratory/bugs/{bug.name}.py').read_text()
    assert set(re.findall(r"\bbug\('(\w+)'", source)) <= set(bug.cases)


@pytest.mark.parametrize('bug', [bug for bug in ALL if cure(bug)], ids=lambda bug: bug.name)
def test_only_the_third_hint_gives_the_cure_away(bug):
    cured = cure(bug)
    added = '\n'.join(line for line in diff_lines(stage_before(cured), cured) if line.startswith('+'))
    for name in bug.cases:
        look, idea, place = bug.hints(Result('bug', name))
        calls = {name for name in re.findall(r'[\w.]+(?=\()', place) if f'{name}(' in added}
        assert [name for name in calls if f'{name}(' in look + idea] == []


def functions(stage):
    """The names of the functions in the files of a stage."""
    texts = [(ROOT / stage.folder / name).read_text() for name in stage.files]
    return set(re.findall(r'def (\w+)', '\n'.join(texts)))


@pytest.mark.parametrize('part', EXPECTED)
def test_a_hint_names_a_function_of_ours_only_if_the_reader_has_it_or_is_told_to_write_it(part):
    hints = '\n'.join(case.hints for bug in bugs_of(part) for case in bug.cases.values())
    to_be_written = set(re.findall(r'(\w+)\(\w', hints))  # is named with its parameters
    ours, theirs = set().union(*map(functions, all_stages())), functions(bugs.lessons(part)[0].before)
    assert set(re.findall(r'(?<![.\w])(\w+)\(', hints)) & ours - theirs - to_be_written == set()


def test_no_hint_stands_twice_or_leads_to_our_solution():
    texts = {case.hints for bug in ALL for case in bug.cases.values() if case.hints}
    hints = [hint for text in texts for hint in cleandoc(text).split('\n\n')]
    assert len(set(hints)) == len(hints)
    assert [hint for hint in hints if re.search(r'make diff|part\d(?!/apps)|\bv\d\.\d|\bfinal\b', hint)] == []


TYPED = [pytest.param(bug, case, id=f'{bug.name}-{name}') for bug in ALL
         for name, case in bug.cases.items() if case.shows]


@pytest.mark.long
@pytest.mark.parametrize(('bug', 'case'), TYPED)
def test_what_a_command_should_show_is_seen_when_it_is_typed(bug, case, tool, request):
    for name in 'curl', 'ss', 'ps':
        tool(name)
    stage, port = stage_with(bug) or known_stages(part_of(bug))[-1], str(free_port())
    app = case.app or bug.apps[0] or ''
    start = 'unset PROBES; ' + start_line(f'{PYTHON} {stage.server}', app, bug.pep475, port)
    server = ServerProcess(['sh', '-c', start], env={'PORT': port, 'WORKERS': '2'}).__enter__()
    request.addfinalizer(server.stop)
    shown = run_in_shell(typed(case.see, port), {**os.environ, 'PORT': port})
    server.let_rest()
    shown += server.output()
    assert bool(re.search(case.shows, shown)) == bool(stage_with(bug)), shown
    assert not re.search('not found|syntax error', shown)


def test_a_hint_is_about_the_case():
    never_ends, zombie = (BUGS['zombie'].hints(Result('bug', case)) for case in ('never_ends', 'zombie'))
    assert 'os.wait()' in zombie[2]
    assert 'os._exit(0)' in never_ends[2]


def test_a_leak_is_found_although_the_server_accepts_its_clients_late(tmp_path):
    mutant = altered(
        'part4-final', tmp_path,
        (r'except HangUp:\n( +)(?=self\.break_off)', r'\g<0>os.dup(self.client_fd.fileno())\n\1'),
        (r'try:\n( +)(?=client_fd, client_addr = )', r'\g<0>time.sleep(0.02)\n\1'))
    found = measure(BUGS['leaks'], partial(stage_server, mutant))
    assert found.case == 'hang_ups', found
