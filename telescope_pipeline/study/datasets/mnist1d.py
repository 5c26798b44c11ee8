"""MNIST-1D: forty-point signals in ten classes, generated offline, two of them chosen."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.dataset import Dataset, describe_noise, describe_split
from telescope_pipeline.study.datasets.label_noise import flip_labels
from telescope_pipeline.study.datasets.mnist1d_signals import SEED, VERSION, signals


def generate_mnist1d(classes: tuple[int, int], label_noise: float, noise_seed: int) -> Dataset:
    """Generate two classes of MNIST-1D (Greydanus and Kobak 2024) at the package's default sizes.

    Args:
        classes: The class that becomes label 0 and the class that becomes label 1.
        label_noise: Proportion of training labels to flip; test labels stay clean.
        noise_seed: Decides which training labels are flipped. The signals do not depend on it.

    Returns:
        The data set, inputs (rows, 40). Among its extra tensors, ``train_clean_targets`` (n,) holds
        the training labels before the noise.

    Raises:
        DataError: The classes are not two different digits, or the proportion is out of range.
    """
    if len(set(classes)) != 2 or len(classes) != 2 or not all(0 <= c <= 9 for c in classes):
        raise DataError(f"MNIST-1D needs two different classes from 0 to 9, got {list(classes)}")
    drawn = _generate()
    train_inputs, clean = _select(drawn.train, drawn.train_digits, classes)
    test_inputs, test_targets = _select(drawn.test, drawn.test_digits, classes)
    noisy = flip_labels(clean, label_noise, noise_seed)
    card = {
        "name": "mnist1d",
        "source": f"generated as by package mnist1d {VERSION} with its default arguments and seed "
        f"{SEED}; Greydanus and Kobak 2024, 'Scaling Down Deep Learning with MNIST-1D'",
        "licence": "Apache-2.0",
        "task": f"binary classification, class {classes[0]} as 0 and class {classes[1]} as 1",
        "classes": {"0": str(classes[0]), "1": str(classes[1])},
        "seed": SEED,
        "train": describe_split(train_inputs, noisy, classes=True),
        "test": describe_split(test_inputs, test_targets, classes=True),
        "normalisation": "the whole set (all ten classes) is centred and scaled to mean 0 and "
        "standard deviation 1",
        "label_noise": describe_noise(label_noise, noise_seed, int((noisy != clean).sum())),
    }
    return Dataset(
        train_inputs,
        noisy,
        test_inputs,
        test_targets,
        card=card,
        extras={"train_clean_targets": clean},
    )


_generate = functools.lru_cache(maxsize=1)(signals)


def _select(
    inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    kept = np.isin(labels, classes)
    chosen = torch.from_numpy(np.ascontiguousarray(inputs[kept])).float()
    targets = torch.from_numpy((labels[kept] == classes[1]).astype(np.float32))
    return chosen, targets
