"""Images of ten classes, a draw of its own for every seed, with and without label noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.convolutional_network.schema import (
    CIFAR10,
    ConvolutionalNetworkCase,
    TenDigits,
)
from telescope_pipeline.cases.convolutional_network.sweep import group_name
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.dataset import describe_split
from telescope_pipeline.study.datasets.digits import digit_images
from telescope_pipeline.study.datasets.label_noise import relabel
from telescope_pipeline.study.sweep import seed_stem

CLASSES = 10


def prepare(case: ConvolutionalNetworkCase, seed: int) -> Prepared:
    """Draw the images anew for every seed and change training labels at every level of noise.

    All levels of one seed share its images, and a higher level changes the labels of a lower one
    too, so differences between levels are not differences between draws.

    Returns:
        One file per level of noise and seed, with its card. Inputs are images (rows, channels, h,
        w), targets class indices, int64.

    Raises:
        DataError: Files are missing or damaged, or hold too few images.
        MissingDependencyError: A package that reads or downloads them is not installed.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        drawn = derive_seed(seed, "convolutional_network", "draw", replicate)
        if isinstance(case.data, TenDigits):
            tensors, about = _digits(case.data, drawn)
        else:
            tensors, about = _colour_images(case.data, drawn)
        clean = tensors["train_targets"]
        noise_seed = derive_seed(seed, "convolutional_network", "label noise", replicate)
        for level in case.data.label_noise:
            stem = seed_stem(replicate, group_name(level))
            noisy = relabel(clean, level, CLASSES, noise_seed)
            named = tensors | {"train_targets": noisy, "train_clean_targets": clean}
            files[stem] = {name: value.contiguous() for name, value in named.items()}
            changed = int((noisy != clean).sum())
            cards[stem] = about | {
                "train": describe_split(tensors["train_inputs"], noisy, classes=True),
                "test": describe_split(
                    tensors["test_inputs"], tensors["test_targets"], classes=True
                ),
                "label_noise": {"proportion": level, "seed": noise_seed, "changed": changed},
            }
    return Prepared(files, {"name": case.data.source, "files": cards})


def _digits(sizes: TenDigits, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    split = digit_images(sizes.train_size, sizes.test_size, seed)
    card = {name: split.card[name] for name in ("source", "licence", "normalisation")}
    return split.tensors(), card | {"task": f"{CLASSES} digits", "seed": seed}


def _colour_images(sizes: CIFAR10, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from telescope_pipeline.study.datasets.images import cifar10

    images = cifar10(
        train_size=sizes.train_size,
        test_size=sizes.test_size,
        seed=seed,
        standardise=True,
    )
    return replace(images, extras={}).tensors(), dict(images.card)
