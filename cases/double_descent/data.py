"""Two classes of MNIST-1D, with fresh label noise for every seed."""

from __future__ import annotations

from telescope_core.data.mnist1d import generate_mnist1d
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.contract import Prepared
from telescope_pipeline.schemas.double_descent import DoubleDescentCase


def file_stem(replicate: int) -> str:
    """Name of the file that holds the data of one seed."""
    return f"seed-{replicate}"


def prepare(case: DoubleDescentCase, seed: int) -> Prepared:
    """Generate the signals once and flip other training labels for every seed.

    All widths of one seed share one draw of the noise, so differences between widths are not
    differences between draws, while the error bars over seeds include the draw.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file per seed, with its card.
    """
    first, second = case.data.classes
    files, cards = {}, {}
    for replicate in range(case.seeds):
        signals = generate_mnist1d(
            (first, second),
            case.data.label_noise,
            noise_seed=derive_seed(seed, "double_descent", "label noise", replicate),
        )
        files[file_stem(replicate)] = signals.tensors()
        cards[file_stem(replicate)] = signals.card
    return Prepared(files, {"name": "mnist1d", "files": cards})
