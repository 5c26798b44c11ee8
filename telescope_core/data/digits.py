"""The 8x8 handwritten digits that ship inside scikit-learn, odd against even."""

from __future__ import annotations

import importlib.metadata

import torch

from telescope_core.data.dataset import Dataset, describe_split
from telescope_core.errors import DataError, MissingDependencyError

_LARGEST_PIXEL = 16.0


def load_digits(train_size: int, test_size: int, seed: int) -> Dataset:
    """Split the 1797 digits into disjoint training and test sets; label 1 means odd.

    Args:
        train_size: Number of training images.
        test_size: Number of test images, disjoint from the training images.
        seed: Decides the permutation that both are taken from.

    Returns:
        The data set, inputs (rows, 64) with pixels scaled to [0, 1]. Its extra tensors
        ``train_rows`` (n,) and ``test_rows`` (n_test,) give positions in scikit-learn's order.

    Raises:
        DataError: A size is smaller than one or both together exceed the data set.
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "the digits need scikit-learn: pip install scikit-learn"
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    if train_size < 1 or test_size < 1 or train_size + test_size > len(pixels):
        raise DataError(
            f"the digits hold {len(pixels)} images; cannot take {train_size} for training and "
            f"{test_size} for testing (each at least 1, without overlap)"
        )
    inputs = torch.from_numpy(pixels / _LARGEST_PIXEL).float()
    targets = torch.from_numpy(labels % 2).float()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    train_rows, test_rows = order[:train_size], order[train_size : train_size + test_size]
    train = inputs[train_rows], targets[train_rows]
    test = inputs[test_rows], targets[test_rows]
    card = {
        "name": "digits",
        "source": "scikit-learn " + importlib.metadata.version("scikit-learn") + ", load_digits: "
        "test part of 'Optical Recognition of Handwritten Digits' (Alpaydin and Kaynak 1998, UCI)",
        "licence": "CC BY 4.0",
        "task": "binary classification, even as 0 and odd as 1",
        "seed": seed,
        "train": describe_split(*train, classes=True),
        "test": describe_split(*test, classes=True),
        "normalisation": f"pixels 0 to {_LARGEST_PIXEL:.0f} divided by {_LARGEST_PIXEL:.0f}",
        "label_noise": {"proportion": 0.0, "seed": None, "flipped": 0},
    }
    return Dataset(
        *train, *test, card=card, extras={"train_rows": train_rows, "test_rows": test_rows}
    )
