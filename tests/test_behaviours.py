"""Both tables, a row at a time: each bug where a stage has it, and its absence where it has not."""
import itertools

import pytest

from common.stages import all_stages
from laboratory.experiments.tables import EXPERIMENTS, expected, measure_all

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
}


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


def test_in_part_2_no_stage_goes_back_from_pass_to_bug():
    rows = list(expected('part2').values())
    for before, after in itertools.pairwise(rows):
        assert [name for name in before if (before[name], after[name]) == ('pass', 'bug')] == []
