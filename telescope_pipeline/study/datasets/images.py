"""The image data sets of the paper: MNIST, CIFAR-10 and SVHN.

Each loader takes images from the official training and test splits, so the two never overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from telescope_pipeline.study.datasets._images import Options, Split, make_task
from telescope_pipeline.study.datasets.dataset import Dataset
from telescope_pipeline.study.datasets.files import Content, read_files
from telescope_pipeline.study.datasets.formats import (
    check_pair,
    parse_cifar10,
    parse_idx,
    parse_svhn,
)
from telescope_pipeline.study.datasets.registry import Entry, lookup

_Contents = Mapping[str, Content]


def mnist(
    classes: Sequence[int | str] | None = (3, 5),
    train_size: int | None = 1000,
    test_size: int | None = 1000,
    size: tuple[int, int] | None = (8, 8),
    *,
    seed: int,
    flat: bool = True,
    standardise: bool = False,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
    folder: str | Path | None = None,
    entry: Entry | None = None,
) -> Dataset:
    """Load MNIST; by default the task of Sections 3 and 4.1: 3 against 5, 8x8 pixels, 1000 each.

    Args:
        classes: Digits in the order of their new labels; all ten if None.
        train_size: Number of training images, drawn from the official training split; all if None.
        test_size: Number of test images, drawn from the official test split; all if None.
        size: Height and width in pixels, reached by area interpolation; 28x28 if None.
        seed: Decides which images are drawn. A smaller draw is the beginning of a larger one.
        flat: Whether inputs are vectors (n, height * width) or images (n, 1, height, width).
        standardise: Whether pixels are centred and scaled by the training images; else in [0, 1].
        label_noise: Proportion of binary training labels to flip; test labels stay clean.
        noise_seed: Decides which labels are flipped; derived from ``seed`` if None.
        folder: A folder that holds ``mnist/``; by default the one that TELESCOPE_DATA names.
        entry: Files, addresses and checksums, if not those of the registry.

    Returns:
        The data set. Targets are float32 in {0, 1} for two classes, else int64 class indices.
        Extra tensors ``train_rows`` and ``test_rows`` (int64) are positions in the official splits;
        for two classes ``train_clean_targets`` holds the training labels before noise.

    Raises:
        DataError: Files are missing or damaged, or an argument is not possible.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    options = Options(
        classes=classes,
        train_size=train_size,
        test_size=test_size,
        size=size,
        gray=False,
        flat=flat,
        standardise=standardise,
        label_noise=label_noise,
        noise_seed=noise_seed,
        seed=seed,
    )
    return _load("mnist", _mnist_splits, options, folder, entry)


def cifar10(
    classes: Sequence[int | str] | None = ("cat", "dog"),
    train_size: int | None = 1000,
    test_size: int | None = 1000,
    size: tuple[int, int] | None = (8, 8),
    *,
    seed: int,
    gray: bool = True,
    flat: bool = True,
    standardise: bool = False,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
    folder: str | Path | None = None,
    entry: Entry | None = None,
) -> Dataset:
    """Load CIFAR-10; by default the task of Section 4.1: cats and dogs, 8x8 gray, 1000 each.

    For the networks of Section 4.3: ``classes=None, train_size=None, test_size=None, size=None,
    gray=False, flat=False, standardise=True``, which is (50000, 3, 32, 32).

    Args:
        classes: Classes in the order of their new labels, by number or name; all ten if None.
        train_size: Number of training images, drawn from the official training split; all if None.
        test_size: Number of test images, drawn from the official test split; all if None.
        size: Height and width in pixels, reached by area interpolation; 32x32 if None.
        seed: Decides which images are drawn. A smaller draw is the beginning of a larger one.
        gray: Whether colours become luma.
        flat: Whether inputs are vectors or images (n, channels, height, width).
        standardise: Whether channels are centred and scaled by the training images; else in [0, 1].
        label_noise: Proportion of binary training labels to flip; test labels stay clean.
        noise_seed: Decides which labels are flipped; derived from ``seed`` if None.
        folder: A folder that holds ``cifar-10-batches-bin/`` (``.bin``, or packed as ``.bin.xz``)
            or the official archive; by default the one that TELESCOPE_DATA names.
        entry: Files, addresses and checksums, if not those of the registry.

    Returns:
        The data set, as from :func:`mnist`. The card's ``fidelity`` tells original pixels from
        copies that were re-encoded.

    Raises:
        DataError: Files are missing or damaged, or an argument is not possible.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    options = Options(
        classes=classes,
        train_size=train_size,
        test_size=test_size,
        size=size,
        gray=gray,
        flat=flat,
        standardise=standardise,
        label_noise=label_noise,
        noise_seed=noise_seed,
        seed=seed,
    )
    return _load("cifar10", _cifar10_splits, options, folder, entry)


def svhn(
    classes: Sequence[int | str] | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    size: tuple[int, int] | None = None,
    *,
    seed: int,
    gray: bool = False,
    flat: bool = False,
    standardise: bool = True,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
    folder: str | Path | None = None,
    entry: Entry | None = None,
) -> Dataset:
    """Load SVHN's cropped digits; by default all of it, for the pre-training of Section 4.3.

    Args:
        classes: Digits in the order of their new labels; all ten if None.
        train_size: Number of training images, drawn from the official training split; all if None.
        test_size: Number of test images, drawn from the official test split; all if None.
        size: Height and width in pixels, reached by area interpolation; 32x32 if None.
        seed: Decides which images are drawn. A smaller draw is the beginning of a larger one.
        gray: Whether colours become luma.
        flat: Whether inputs are vectors or images (n, channels, height, width).
        standardise: Whether channels are centred and scaled by the training images; else in [0, 1].
        label_noise: Proportion of binary training labels to flip; test labels stay clean.
        noise_seed: Decides which labels are flipped; derived from ``seed`` if None.
        folder: A folder that holds ``svhn/train_32x32.mat`` and ``svhn/test_32x32.mat``; by default
            the one that TELESCOPE_DATA names.
        entry: Files, addresses and checksums, if not those of the registry.

    Returns:
        The data set, as from :func:`mnist`. The label 10 of the files is the digit 0.

    Raises:
        DataError: Files are missing or damaged, or an argument is not possible.
        MissingDependencyError: SciPy is not installed, or pooch is not and a download is needed.
    """
    options = Options(
        classes=classes,
        train_size=train_size,
        test_size=test_size,
        size=size,
        gray=gray,
        flat=flat,
        standardise=standardise,
        label_noise=label_noise,
        noise_seed=noise_seed,
        seed=seed,
    )
    return _load("svhn", _svhn_splits, options, folder, entry)


def _load(
    name: str,
    splits: Callable[[_Contents], tuple[Split, Split]],
    options: Options,
    folder: str | Path | None,
    entry: Entry | None,
) -> Dataset:
    """Read the files of a data set, part them into training and test images, and select."""
    entry = entry or lookup(name)
    contents = read_files(entry, folder=folder)
    train, test = splits(contents)
    return make_task(entry, train, test, options, contents)


def _mnist_splits(contents: _Contents) -> tuple[Split, Split]:
    def split(prefix: str) -> Split:
        pixels, labels = (
            contents[f"{prefix}-{part}-ubyte"] for part in ("images-idx3", "labels-idx1")
        )
        images = parse_idx(pixels.data, pixels.form.path)
        digits = parse_idx(labels.data, labels.form.path)
        check_pair(images, digits, pixels.form.path)
        return Split(images[:, None], digits)

    return split("train"), split("t10k")


def _cifar10_splits(contents: _Contents) -> tuple[Split, Split]:
    train = [name for name in contents if name != "test_batch"]
    return _batches(contents, train), _batches(contents, ["test_batch"])


def _svhn_splits(contents: _Contents) -> tuple[Split, Split]:
    train, test = (
        Split(*parse_svhn(contents[name].data, contents[name].form.path))
        for name in ("train", "test")
    )
    return train, test


def _batches(contents: _Contents, names: Sequence[str]) -> Split:
    parsed = [parse_cifar10(contents[name].data, contents[name].form.path) for name in names]
    images, labels = zip(*parsed, strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))
