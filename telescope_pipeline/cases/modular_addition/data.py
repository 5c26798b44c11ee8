"""All sums modulo p, split anew for every seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.modular import modular_addition
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: ModularAdditionCase, seed: int) -> Prepared:
    """Split the sums anew for every seed, so that error bars include the split."""
    return drawn_per_seed(
        "modular_addition",
        case.seeds,
        lambda replicate: modular_addition(
            case.data.modulus,
            case.data.train_fraction,
            seed=derive_seed(seed, "modular_addition", "data", replicate),
        ),
    )
