"""Both tables, a row at a time: each bug where a stage has it, and its absence where it has not."""
import itertools

import pytest

from common.stages import all_stages, stages_of
from laboratory.experiments import part2
from laboratory.experiments.tables import EXPERIMENTS, expected, measure_all, measure_each

MEASURED = [stage for stage in all_stages() if stage.part in EXPERIMENTS]


ZOMBIES = '{} zombies after 24 children ended together'
EVIDENCE = {  # exactly so many
    'part3-v1.1-fd-leak': {
        'descriptors': '24 more descriptors after 24 clients, 24 of them sockets in CLOSE_WAIT',
        'children_at_once': ZOMBIES.format(24)},
    'part3-v1.1': {'children_at_once': ZOMBIES.format(24)},
    'part3-v1.2': {'children_at_once': ZOMBIES.format(23)},
    'part3-v1.3': {'children_at_once': ZOMBIES.format(23)},
    'part3-final': {'children_at_once': ZOMBIES.format(0)},
    'part4-v1.0': {'few_processes': '100 more processes for 100 silent clients'},
    'part4-v1.1': {
        'few_processes': '0 more processes for 100 silent clients',
        'killed_workers': '2 workers were killed, and the next client is not answered',
        'killed_supervisor': 'it was killed, and 2 workers still serve'},
    'part4-v1.2': {
        'killed_workers': '2 workers were killed, and new ones answer',
        'stuck_application':
            'an application that does not return holds up its worker for 5 seconds and more'},
    'part4-v1.3': {
        'drip': "it is ended after a while: 408 with b'the request took too long\\n'",
        'keep_alive': 'the connection ends after the first reply'},
    'part4-v1.4': {
        'idle_clients': '8 of 8 other clients get no answer while 150 clients are idle',
        'waiting_application': '8 of 8 other clients get no answer while an application waits in each worker',
        'non_reader': '8 of 8 other clients get no answer while 24 clients do not read'},
}
GIVEN_UP = {  # what a child for each client has, and a few workers have not
    ('part4-v1.1', 'waiting_application'), ('part4-v1.1', 'non_reader'), ('part4-v1.1', 'stop_mid_reply'),
}


@pytest.mark.long
@pytest.mark.parametrize('stage', MEASURED, ids=lambda stage: stage.name)
def test_the_stage_behaves_as_its_table_says(stage):
    seen = {experiment.__name__: verdict for (_, experiment), verdict in measure_all([stage]).items()}
    assert {name: verdict.outcome for name, verdict in seen.items()} == expected(stage.part)[stage.name], seen
    for name, evidence in EVIDENCE.get(stage.name, {}).items():
        assert seen[name].evidence == evidence


@pytest.mark.parametrize('part', EXPERIMENTS)
def test_the_table_has_a_row_for_every_stage_and_a_column_for_every_experiment(part):
    stages = [stage.name for stage in all_stages() if stage.name.startswith(part)]
    names = [experiment.__name__ for experiment in EXPERIMENTS[part]]
    assert [(stage, list(row)) for stage, row in expected(part).items()] == [(s, names) for s in stages]


@pytest.mark.parametrize('stage', stages_of('part4'), ids=lambda stage: stage.name)
def test_a_stage_of_part_4_passes_what_part_2_asks(stage):
    seen = measure_each([(stage, experiment) for experiment in part2.EXPERIMENTS])
    assert [verdict for verdict in seen.values() if verdict.outcome != 'pass'] == []


@pytest.mark.parametrize('part', ['part2', 'part4'])
def test_no_stage_goes_back_from_pass_to_bug_except_where_workers_replace_children(part):
    rows = list(expected(part).items())
    back = {(stage, name) for (_, before), (stage, after) in itertools.pairwise(rows)
            for name in before if (before[name], after[name]) == ('pass', 'bug')}
    assert back == (GIVEN_UP if part == 'part4' else set())
