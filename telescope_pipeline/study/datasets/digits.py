"""The 8x8 handwritten digits that ship inside scikit-learn, odd against even."""

from __future__ import annotations

import importlib.metadata

import torch

from telescope_core.errors import DataError, MissingDependencyError
from telescope_core.seeds import derive_seed
from telescope_pipeline.study.datasets.dataset import Dataset, describe_noise, describe_split
from telescope_pipeline.study.datasets.label_noise import flip_labels

_LARGEST_PIXEL = 16.0
_SIDE = 8


def load_digits(
    train_size: int,
    test_size: int,
    seed: int,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
) -> Dataset:
    """Split the 1797 digits into disjoint training and test sets; label 1 means odd.

    Args:
        train_size: Number of training images.
        test_size: Number of test images, disjoint from the training images.
        seed: Decides the permutation that both are taken from.
        label_noise: Proportion of training labels to flip; test labels stay clean.
        noise_seed: Decides which labels are flipped; derived from ``seed`` if None.

    Returns:
        The data set, inputs (rows, 64) with pixels scaled to [0, 1]. Its extra tensors
        ``train_rows`` (n,) and ``test_rows`` (n_test,) give positions in scikit-learn's order;
        with label noise ``train_clean_targets`` (n,) holds the training labels before it.

    Raises:
        DataError: A size is smaller than one, both together exceed the data set, or the proportion
            of noise is out of range.
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
    clean = targets[train_rows]
    if noise_seed is None:
        noise_seed = derive_seed(seed, "digits", "label noise")
    train = inputs[train_rows], flip_labels(clean, label_noise, noise_seed)
    test = inputs[test_rows], targets[test_rows]
    card = {
        "name": "digits",
        "source": "scikit-learn " + importlib.metadata.version("scikit-learn") + ", load_digits: "
        "test part of 'Optical Recognition of Handwritten Digits' (Alpaydin and Kaynak 1998, UCI)",
        "licence": "CC BY 4.0",
        "task": "binary classification, even as 0 and odd as 1",
        "classes": {"0": "even", "1": "odd"},
        "seed": seed,
        "train": describe_split(*train, classes=True),
        "test": describe_split(*test, classes=True),
        "normalisation": f"pixels 0 to {_LARGEST_PIXEL:.0f} divided by {_LARGEST_PIXEL:.0f}",
        "label_noise": describe_noise(
            label_noise,
            noise_seed if label_noise else None,
            int((train[1] != clean).sum()),
        ),
    }
    extras = {"train_rows": train_rows, "test_rows": test_rows}
    if label_noise:
        extras["train_clean_targets"] = clean
    return Dataset(*train, *test, card=card, extras=extras)


def digit_images(train_size: int, test_size: int, seed: int) -> Dataset:
    """The split of :func:`load_digits` as images with the digit itself as class.

    Returns:
        Images (rows, 1, 8, 8); the card is that of :func:`load_digits`: odd against even.
    """
    split = load_digits(train_size, test_size, seed)
    from sklearn import datasets

    labels = torch.from_numpy(datasets.load_digits().target).long()
    return Dataset(
        split.train_inputs.view(-1, 1, _SIDE, _SIDE),
        labels[split.extras["train_rows"]],
        split.test_inputs.view(-1, 1, _SIDE, _SIDE),
        labels[split.extras["test_rows"]],
        card=split.card,
    )
