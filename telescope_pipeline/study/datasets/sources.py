"""Draws two classes from the source that a case names, and describes what was drawn."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from telescope_core.seeds import derive_seed
from telescope_pipeline.schemas.sources import (
    CIFAR10Source,
    DigitsSource,
    MNIST1DSource,
    MNISTSource,
)
from telescope_pipeline.study.datasets.dataset import Dataset

Source = DigitsSource | MNISTSource | CIFAR10Source | MNIST1DSource


def draw_binary(source: Source, seed: int) -> Dataset:
    """Draw training and test rows of two classes, labels 0 and 1, and flip training labels.

    The signals of MNIST-1D are the same for every seed, which decides the flipped labels alone.

    Args:
        source: The section that names the data.
        seed: Decides the rows and, by a seed derived from it, the flipped labels.

    Returns:
        Inputs (rows, d) and targets (rows,), float32. The card tells source, checksums of the
        source's files and of every tensor, classes, counts, normalisation and label noise.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few rows.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    noise_seed = derive_seed(seed, "label noise")
    drawn = _draw(source, seed, noise_seed)
    drawn.card["sha256"] = {name: _digest(tensor) for name, tensor in drawn.tensors().items()}
    return drawn


def _draw(source: Source, seed: int, noise_seed: int) -> Dataset:
    # Imported here, so that one source works without what the others need.
    if isinstance(source, MNIST1DSource):
        from telescope_pipeline.study.datasets.mnist1d import generate_mnist1d

        zero, one = source.classes
        return generate_mnist1d((zero, one), source.label_noise, noise_seed)
    if isinstance(source, DigitsSource):
        from telescope_pipeline.study.datasets.digits import load_digits

        return load_digits(
            source.train_size,
            source.test_size,
            seed=seed,
            label_noise=source.label_noise,
            noise_seed=noise_seed,
        )
    from telescope_pipeline.study.datasets.images import load_images

    return load_images(
        "mnist" if isinstance(source, MNISTSource) else "cifar10",
        classes=source.classes,
        train_size=source.train_size,
        test_size=source.test_size,
        size=(source.side, source.side),
        gray=True,
        flat=True,
        seed=seed,
        label_noise=source.label_noise,
        noise_seed=noise_seed,
    )


def _digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's numbers in row-major order, little-endian."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
