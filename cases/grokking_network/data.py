"""Images of two classes: a draw of its own for every seed."""

from __future__ import annotations

from telescope_core.data.dataset import Dataset
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.contract import Prepared
from telescope_pipeline.schemas.grokking_network import (
    DigitsSource,
    GrokkingNetworkCase,
    MNISTSource,
)


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
    files, cards = {}, {}
    for replicate in range(case.seeds):
        images = _draw(case.data, derive_seed(seed, "grokking_network", "data", replicate))
        files[file_stem(replicate)] = images.tensors()
        cards[file_stem(replicate)] = images.card
    return Prepared(files, {"name": case.data.source, "files": cards})


def _draw(data: DigitsSource | MNISTSource, seed: int) -> Dataset:
    # Imported here, so that one source works without what the other needs.
    if isinstance(data, DigitsSource):
        from telescope_core.data.digits import load_digits

        return load_digits(data.train_size, data.test_size, seed=seed)
    from telescope_core.data.images import mnist

    return mnist(data.classes, data.train_size, data.test_size, (data.side, data.side), seed=seed)
