"""All sums modulo p, split anew for every seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.modular_addition.names import file_stem
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.modular import modular_addition


def prepare(case: ModularAdditionCase, seed: int) -> Prepared:
    """Split the sums anew for every seed, so that error bars include the split.

    Args:
        case: The case's parameters.
        seed: The run's seed; each split gets a seed derived from it.

    Returns:
        One file per seed, with its card.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        sums = modular_addition(
            case.data.modulus,
            case.data.train_fraction,
            seed=derive_seed(seed, "modular_addition", "data", replicate),
        )
        files[file_stem(replicate)] = sums.tensors()
        cards[file_stem(replicate)] = sums.card
    return Prepared(files, {"name": "modular_addition", "files": cards})
