"""Draws one polynomial regression problem per seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.polynomial import draw_polynomial


def file_stem(replicate: int) -> str:
    """Name of the file that holds the problem of one seed."""
    return f"seed-{replicate}"


def prepare(case: GrokkingPolynomialCase, seed: int) -> Prepared:
    """Draw the problems.

    Args:
        case: The case's parameters.
        seed: The run's seed; each problem gets a seed derived from it.

    Returns:
        One file per seed, with its card.
    """
    sizes = case.data
    files, cards = {}, {}
    for replicate in range(case.seeds):
        problem = draw_polynomial(
            sizes.dimension,
            sizes.train_size,
            sizes.test_size,
            seed=derive_seed(seed, "grokking_polynomial", "data", replicate),
        )
        files[file_stem(replicate)] = problem.tensors()
        cards[file_stem(replicate)] = problem.card
    return Prepared(files, {"name": "polynomial", "files": cards})
