"""Images of two classes: a draw of its own for every seed."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_network.schema import GrokkingNetworkCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.sources import draw_binary
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: GrokkingNetworkCase, seed: int) -> Prepared:
    """Draw training and test images anew for every seed.

    Returns:
        One data file per seed, with its card.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few images.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    return drawn_per_seed(
        case.data.source,
        case.seeds,
        lambda drawn_with: draw_binary(case.data, drawn_with),
        seed,
        "grokking_network",
        "data",
    )
