"""The whole registry: every model of the zoo in many cells."""

import pytest

from telescope_core.lens import TelescopeLens
from telescope_core.testing.registry import compare, registry
from telescope_core.testing.zoo import OPTIMIZERS

pytestmark = pytest.mark.slow

CELLS = registry()


def attach(run, cell):
    return TelescopeLens(
        run.model,
        run.optimizer,
        run.loss,
        run.train_inputs,
        run.train_targets,
        run.eval_sets,
        order=cell.order,
        stride=cell.stride,
        probes="exact",
        strategy=cell.strategy,
    )


def test_every_rule_meets_many_models():
    for rule in OPTIMIZERS:
        assert len({cell.model for cell in CELLS if cell.optimizer == rule}) >= 20


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_cell(cell):
    compare(cell, attach)
