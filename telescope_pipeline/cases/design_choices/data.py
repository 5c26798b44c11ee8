"""The 8x8 digits, odd against even, in a split of its own for every seed."""

from __future__ import annotations

from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.digits import load_digits
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: DesignChoicesCase, seed: int) -> Prepared:
    """Split the digits anew for every seed, with a seed derived from the run's."""
    return drawn_per_seed(
        "digits",
        case.seeds,
        lambda drawn_with: load_digits(case.data.train_size, case.data.test_size, seed=drawn_with),
        seed,
        "design_choices",
        "data",
    )
