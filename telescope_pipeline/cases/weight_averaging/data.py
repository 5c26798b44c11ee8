"""Images to train on, images to test on, and other images to pre-train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.weight_averaging.schema import (
    CIFAR10Images,
    DigitImages,
    WeightAveragingCase,
)
from telescope_pipeline.cases.weight_averaging.sweep import file_stem
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.dataset import describe_split
from telescope_pipeline.study.datasets.digits import digit_images


def prepare(case: WeightAveragingCase, seed: int) -> Prepared:
    """Split the digits anew for every seed, or read the official splits of CIFAR-10 and SVHN once.

    Inputs are images (rows, channels, h, w), every channel with mean 0 and standard deviation 1
    over its own training or pre-training set; targets are class indices.

    Returns:
        One file per seed, or one for all of them, with its card.

    Raises:
        DataError: Files are missing or damaged.
        MissingDependencyError: A package that reads or downloads them is not installed.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        stem = file_stem(case.data.source, replicate)
        if stem in files:
            continue
        drawn = derive_seed(seed, "weight_averaging", "split", stem)
        if isinstance(case.data, DigitImages):
            tensors, about = _digits(case.data, drawn)
        else:
            tensors, about = _colour_images(case.data, drawn)
        files[stem] = {name: value.contiguous() for name, value in tensors.items()}
        parts = [name.removesuffix("_inputs") for name in tensors if name.endswith("_inputs")]
        cards[stem] = about | {
            part: describe_split(
                tensors[f"{part}_inputs"], tensors[f"{part}_targets"], classes=True
            )
            for part in parts
        }
    return Prepared(files, {"name": case.data.source, "files": cards})


def _digits(sizes: DigitImages, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    split = digit_images(sizes.train_size, sizes.test_size + sizes.pretrain_size, seed)
    images, labels = split.test_inputs, split.test_targets
    tensors = {
        "train_inputs": split.train_inputs,
        "train_targets": split.train_targets,
        "test_inputs": images[: sizes.test_size],
        "test_targets": labels[: sizes.test_size],
        "pretrain_inputs": torch.rot90(images[sizes.test_size :], 1, (2, 3)),
        "pretrain_targets": labels[sizes.test_size :],
    }
    card = {
        "source": split.card["source"],
        "licence": split.card["licence"],
        "task": "ten digits; those to pre-train on are other images, turned by 90 degrees",
        "seed": seed,
        "normalisation": "mean 0 and standard deviation 1 over the training images, and over "
        "those to pre-train on",
    }
    _normalise(tensors)
    return tensors, card


def _colour_images(chosen: CIFAR10Images, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from telescope_pipeline.study.datasets.images import cifar10, svhn

    whole: dict[str, Any] = {
        "classes": None,
        "size": None,
        "gray": False,
        "flat": False,
        "standardise": True,
        "seed": seed,
    }
    target = cifar10(train_size=chosen.train_size, test_size=chosen.test_size, **whole)
    tensors = replace(target, extras={}).tensors()
    card = {"cifar10": target.card}
    if chosen.pretrain_source is not None:
        other = svhn(train_size=chosen.pretrain_size, **whole)
        tensors |= {"pretrain_inputs": other.train_inputs, "pretrain_targets": other.train_targets}
        card["svhn"] = other.card
    return tensors, card


def _normalise(tensors: dict[str, Tensor]) -> None:
    for reference, names in {"train": ("train", "test"), "pretrain": ("pretrain",)}.items():
        pixels = tensors[f"{reference}_inputs"].double()
        mean = pixels.mean(dim=(0, 2, 3), keepdim=True)
        scale = pixels.std(dim=(0, 2, 3), keepdim=True)
        for name in names:
            inputs = tensors[f"{name}_inputs"].double()
            tensors[f"{name}_inputs"] = ((inputs - mean) / scale).float()
