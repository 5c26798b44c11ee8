"""The 8x8 digits, odd against even, in one split per seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.digits import load_digits


def file_stem(replicate: int) -> str:
    """Name of the file that holds the split of one seed."""
    return f"seed-{replicate}"


def prepare(case: DesignChoicesCase, seed: int) -> Prepared:
    """Split the digits into training and test sets, anew for every seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; each split gets a seed derived from it.

    Returns:
        One file per seed, with its card.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        split = load_digits(
            case.data.train_size,
            case.data.test_size,
            seed=derive_seed(seed, "design_choices", "data", replicate),
        )
        files[file_stem(replicate)] = split.tensors()
        cards[file_stem(replicate)] = split.card
    return Prepared(files, {"name": "digits", "files": cards})
