"""The 8x8 digits, odd against even, in a split of its own for every seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.depth.names import file_stem
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.digits import load_digits


def prepare(case: DepthCase, seed: int) -> Prepared:
    """Split the digits anew for every seed.

    All networks of one seed share its split, so differences between depths are not differences
    between splits, while the error bars over seeds include the draw.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file per seed, with its card.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        split = load_digits(
            case.data.train_size,
            case.data.test_size,
            seed=derive_seed(seed, "depth", "split", replicate),
        )
        files[file_stem(replicate)] = split.tensors()
        cards[file_stem(replicate)] = split.card
    return Prepared(files, {"name": "digits", "files": cards})
