"""The 8x8 digits, odd against even, in one split that all members share."""

from __future__ import annotations

from telescope_core.data.digits import load_digits
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.contract import Prepared
from telescope_pipeline.schemas.approximation_quality import ApproximationQualityCase

FILE_STEM = "shared"


def prepare(case: ApproximationQualityCase, seed: int) -> Prepared:
    """Split the digits into training and test sets.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file with its card.
    """
    split = load_digits(
        case.data.train_size,
        case.data.test_size,
        seed=derive_seed(seed, "approximation_quality", "split"),
    )
    return Prepared(
        {FILE_STEM: split.tensors()}, {"name": "digits", "files": {FILE_STEM: split.card}}
    )
