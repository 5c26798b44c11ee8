"""One polynomial regression problem per seed."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.polynomial import draw_polynomial
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: GrokkingPolynomialCase, seed: int) -> Prepared:
    """Draw the problem of every seed, with a seed derived from the run's."""
    sizes = case.data
    return drawn_per_seed(
        "polynomial",
        case.seeds,
        lambda drawn_with: draw_polynomial(
            sizes.dimension, sizes.train_size, sizes.test_size, seed=drawn_with
        ),
        seed,
        "grokking_polynomial",
        "data",
    )
