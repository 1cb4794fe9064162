"""Both tables, a row at a time: each bug where a stage has it, and its absence where it has not."""
import itertools

import pytest

from common.stages import all_stages
from laboratory.experiments.tables import EXPERIMENTS, expected, verdicts

MEASURED = [stage for stage in all_stages() if stage.part in EXPERIMENTS]


EVIDENCE = {  # exactly so many
    ('part3-v1.1-fd-leak', 'descriptors'):
        '24 more descriptors after 24 clients, 24 of them sockets in CLOSE_WAIT',
    ('part3-v1.1-fd-leak', 'children_at_once'): '24 zombies after 24 children ended together',
    ('part3-v1.1', 'children_at_once'): '24 zombies after 24 children ended together',
    ('part3-v1.2', 'children_at_once'): '23 zombies after 24 children ended together',
    ('part3-v1.3', 'children_at_once'): '23 zombies after 24 children ended together',
    ('part3-final', 'children_at_once'): '0 zombies after 24 children ended together',
}


@pytest.mark.parametrize('stage', MEASURED, ids=lambda stage: stage.name)
def test_the_stage_behaves_as_its_table_says(stage):
    row = expected(stage.part)[stage.name]
    seen = {experiment.__name__: verdict for (_, experiment), verdict in verdicts([stage]).items()}
    assert {name: verdict for name, verdict in seen.items() if verdict.outcome != row[name]} == {}
    for name, verdict in seen.items():
        assert verdict.evidence == EVIDENCE.get((stage.name, name), verdict.evidence)


@pytest.mark.parametrize('part', EXPERIMENTS)
def test_the_table_has_a_row_for_every_stage_and_a_column_for_every_experiment(part):
    stages = [stage.name for stage in all_stages() if stage.name.startswith(part)]
    names = [experiment.__name__ for experiment in EXPERIMENTS[part]]
    assert [(stage, list(row)) for stage, row in expected(part).items()] == [(s, names) for s in stages]


def test_in_part_2_no_stage_goes_back_from_pass_to_bug():
    rows = list(expected('part2').values())
    for before, after in itertools.pairwise(rows):
        assert [name for name in before if (before[name], after[name]) == ('pass', 'bug')] == []
