"""Every cell of both tables: each bug where a stage has it, and its absence where it has not."""
import itertools
from functools import partial

import pytest

from common.stages import all_stages, find_stage
from laboratory.experiments.tables import EXPERIMENTS, expected
from laboratory.experiments.verdicts import measure
from laboratory.instruments.process import stage_server

CELLS = [
    pytest.param(stage, experiment, id=f'{stage}-{experiment.__name__}')
    for part in EXPERIMENTS for stage in expected(part) for experiment in EXPERIMENTS[part]
]


@pytest.mark.parametrize(('stage', 'experiment'), CELLS)
def test_the_stage_behaves_as_its_table_says(stage, experiment):
    part = stage.partition('-')[0]
    verdict = measure(experiment, partial(stage_server, find_stage(stage)))
    assert verdict.outcome == expected(part)[stage][experiment.__name__], verdict.evidence


@pytest.mark.parametrize('part', EXPERIMENTS)
def test_the_table_has_a_row_for_every_stage_and_a_column_for_every_experiment(part):
    stages = [stage.name for stage in all_stages() if stage.name.startswith(part)]
    names = [experiment.__name__ for experiment in EXPERIMENTS[part]]
    assert [(stage, list(row)) for stage, row in expected(part).items()] == [(s, names) for s in stages]


def test_in_part_2_no_stage_goes_back_from_holds_to_bug():
    rows = list(expected('part2').values())
    for before, after in itertools.pairwise(rows):
        assert [name for name in before if (before[name], after[name]) == ('holds', 'bug')] == []
