"""Images of two classes: a draw of its own for every seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.grokking_network.schema import GrokkingNetworkCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.sources import draw_replicates


def file_stem(replicate: int) -> str:
    """Name of the file that holds the data of one seed."""
    return f"seed-{replicate}"


def prepare(case: GrokkingNetworkCase, seed: int) -> Prepared:
    """Draw training and test images anew for every seed.

    All alphas of one seed share its images, so differences between alphas are not differences
    between draws, while the error bars over seeds include the draw.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file per seed, with its card.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few images.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    return draw_replicates(
        case.data,
        case.seeds,
        lambda replicate: derive_seed(seed, "grokking_network", "data", replicate),
        file_stem,
    )
