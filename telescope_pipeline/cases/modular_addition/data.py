"""All sums modulo p, split anew for every seed."""

from __future__ import annotations

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.modular import modular_addition
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: ModularAdditionCase, seed: int) -> Prepared:
    """Split the sums anew for every seed, so that error bars include the split."""
    return drawn_per_seed(
        "modular_addition",
        case.seeds,
        lambda drawn_with: modular_addition(
            case.data.modulus, case.data.train_fraction, seed=drawn_with
        ),
        seed,
        "modular_addition",
        "data",
    )
