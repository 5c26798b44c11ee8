"""The whole registry: every model of the zoo in many cells."""

import pytest

from support.runs import attached
from telescope_core.lens import TelescopeLens
from telescope_core.testing.recipes import OPTIMIZERS
from telescope_core.testing.registry import compare, registry

pytestmark = pytest.mark.slow

CELLS = registry()


def attach(run, cell):
    options = {"order": cell.order, "stride": cell.stride, "strategy": cell.strategy}
    return attached(TelescopeLens, run, probes="exact", **options)


def test_every_rule_meets_many_models():
    for rule in OPTIMIZERS:
        assert len({cell.model for cell in CELLS if cell.optimizer == rule}) >= 20


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_cell(cell):
    compare(cell, attach)
