"""Images to train on, images to test on, and other images to pre-train on."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from telescope_core.data.dataset import Dataset, describe_split
from telescope_core.data.digits import load_digits
from telescope_core.errors import DataError, MissingDependencyError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.contract import Prepared
from telescope_pipeline.schemas.weight_averaging import DigitImages, WeightAveragingCase

_DIGITS_SIDE = 8
_COLOURS = 3


def file_stem(replicate: int) -> str:
    """Name of the file that holds the data of one seed."""
    return f"seed-{replicate}"


def prepare(case: WeightAveragingCase, seed: int) -> Prepared:
    """Split the digits anew for every seed, or read the official split of CIFAR-10 and SVHN.

    Inputs are images (rows, channels, h, w), every channel with mean 0 and standard deviation 1
    over its own training or pre-training set; targets are class indices.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file per seed, with its card.

    Raises:
        DataError: A loader gave something other than colour images.
        MissingDependencyError: This version of the library has no loader for the source.
    """
    files, cards = {}, {}
    for replicate in range(case.seeds):
        if isinstance(case.data, DigitImages):
            drawn = derive_seed(seed, "weight_averaging", "split", replicate)
            tensors, about = _digits(case.data, drawn)
        else:
            tensors, about = _colour_images()
        _normalise(tensors)
        files[file_stem(replicate)] = {name: value.contiguous() for name, value in tensors.items()}
        cards[file_stem(replicate)] = about | {
            split: describe_split(
                tensors[f"{split}_inputs"], tensors[f"{split}_targets"], classes=True
            )
            for split in ("train", "test", "pretrain")
        }
    return Prepared(files, {"name": case.data.source, "files": cards})


def _digits(sizes: DigitImages, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from sklearn import datasets

    # The loader's split and card; its task is odd or even, ours the digit itself.
    held_out = sizes.test_size + sizes.pretrain_size
    split = load_digits(sizes.train_size, held_out, seed)
    labels = torch.from_numpy(datasets.load_digits().target).long()
    train, other = labels[split.extras["train_rows"]], labels[split.extras["test_rows"]]
    images = split.test_inputs.view(-1, 1, _DIGITS_SIDE, _DIGITS_SIDE)
    tensors = {
        "train_inputs": split.train_inputs.view(-1, 1, _DIGITS_SIDE, _DIGITS_SIDE),
        "train_targets": train,
        "test_inputs": images[: sizes.test_size],
        "test_targets": other[: sizes.test_size],
        "pretrain_inputs": torch.rot90(images[sizes.test_size :], 1, (2, 3)),
        "pretrain_targets": other[sizes.test_size :],
    }
    card = {
        "source": split.card["source"],
        "licence": split.card["licence"],
        "task": "ten digits; those to pre-train on are other images, turned by 90 degrees",
        "seed": seed,
    }
    return tensors, card


def _colour_images() -> tuple[dict[str, Tensor], dict[str, Any]]:
    target, other = _load("cifar10"), _load("svhn")
    tensors = {
        "train_inputs": _as_colour(target.train_inputs, "cifar10"),
        "train_targets": target.train_targets.long(),
        "test_inputs": _as_colour(target.test_inputs, "cifar10"),
        "test_targets": target.test_targets.long(),
        "pretrain_inputs": _as_colour(other.train_inputs, "svhn"),
        "pretrain_targets": other.train_targets.long(),
    }
    return tensors, {"cifar10": target.card, "svhn": other.card}


def _load(name: str) -> Dataset:
    # By name, so that the digits neither need nor depend on loaders of files.
    loader = getattr(importlib.import_module("telescope_core.data"), name, None)
    if loader is None:
        raise MissingDependencyError(
            f"telescope_core.data has no loader {name!r} in this version; expected a function that "
            "gives a Dataset: upgrade telescope-lens, or set data.source to digits"
        )
    loaded: Dataset = loader()
    return loaded


def _as_colour(inputs: Tensor, source: str) -> Tensor:
    shape = tuple(inputs.shape)
    pixels = shape[-1] if len(shape) == 2 else 0
    side = round((pixels / _COLOURS) ** 0.5)
    if len(shape) == 2 and _COLOURS * side * side == pixels:
        return inputs.view(-1, _COLOURS, side, side).float()
    if len(shape) == 4 and shape[1] == _COLOURS:
        return inputs.float()
    raise DataError(
        f"{source} gave inputs of shape {shape}; expected (rows, 3, h, w) or (rows, 3 h w): load "
        "the images in colour, at full size"
    )


def _normalise(tensors: dict[str, Tensor]) -> None:
    for reference, names in {"train": ("train", "test"), "pretrain": ("pretrain",)}.items():
        pixels = tensors[f"{reference}_inputs"].double()
        mean = pixels.mean(dim=(0, 2, 3), keepdim=True)
        scale = pixels.std(dim=(0, 2, 3), keepdim=True)
        for name in names:
            inputs = tensors[f"{name}_inputs"].double()
            tensors[f"{name}_inputs"] = ((inputs - mean) / scale).float()
