"""From the images and labels of a data set's official splits to a task with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.study.datasets.dataset import Dataset, describe_split
from telescope_pipeline.study.datasets.files import Content
from telescope_pipeline.study.datasets.formats import Bytes
from telescope_pipeline.study.datasets.label_noise import flip_labels
from telescope_pipeline.study.datasets.registry import Entry

# Luma of ITU-R BT.601, as in Pillow's mode L.
_LUMA = (0.299, 0.587, 0.114)
_WHITE = 255.0


@dataclass(frozen=True)
class Options:
    """What a task is made of.

    Attributes:
        classes: Classes in the order of their new labels, by number or name; all if None.
        train_size: Number of training images; all if None.
        test_size: Number of test images; all if None.
        size: Height and width to shrink to by area interpolation; as they are if None.
        gray: Whether RGB becomes luma.
        flat: Whether each image becomes a vector.
        standardise: Whether channels are centred and scaled by the training images.
        label_noise: Proportion of binary training labels to flip.
        noise_seed: Decides which; derived from ``seed`` if None.
        seed: Decides which images are taken.
    """

    classes: Sequence[int | str] | None
    train_size: int | None
    test_size: int | None
    size: tuple[int, int] | None
    gray: bool
    flat: bool
    standardise: bool
    label_noise: float
    noise_seed: int | None
    seed: int


@dataclass(frozen=True)
class Split:
    """Images (rows, channels, height, width) and labels (rows,), uint8."""

    images: Bytes
    labels: Bytes


def make_task(
    entry: Entry, train: Split, test: Split, options: Options, contents: Mapping[str, Content]
) -> Dataset:
    """Select, subsample and transform both official splits.

    Args:
        entry: The data set.
        train: Its official training split.
        test: Its official test split.
        options: What to make of it.
        contents: The files it was read from, for the card.

    Returns:
        The data set with its card; targets are float32 zeros and ones for two classes, int64 class
        indices otherwise. Extra tensors: positions in the official splits, and for two classes the
        training labels before noise.

    Raises:
        DataError: Classes, sizes or the proportion of noise are not possible.
    """
    chosen = _class_numbers(entry, options.classes)
    _check_size(options.size, train.images)
    rows = {
        part: _draw(split, part, chosen, count, entry, options.seed)
        for part, split, count in (
            ("train", train, options.train_size),
            ("test", test, options.test_size),
        )
    }
    train_inputs = _pixels(train.images, rows["train"], options)
    test_inputs = _pixels(test.images, rows["test"], options)
    normalisation = "pixels 0 to 255 divided by 255"
    if options.standardise:
        train_inputs, test_inputs, statistics = _standardise(train_inputs, test_inputs)
        normalisation += "; then centred and scaled per channel by the training images: "
        normalisation += statistics
    if options.flat:
        train_inputs, test_inputs = train_inputs.flatten(1), test_inputs.flatten(1)
    clean = _targets(train.labels[rows["train"]], chosen)
    test_targets = _targets(test.labels[rows["test"]], chosen)
    noise_seed = options.noise_seed
    if noise_seed is None:
        noise_seed = derive_seed(options.seed, entry.name, "label noise")
    train_targets = _noisy(clean, options.label_noise, noise_seed, chosen)
    extras = {
        "train_rows": torch.from_numpy(rows["train"]),
        "test_rows": torch.from_numpy(rows["test"]),
    }
    if len(chosen) == 2:
        extras["train_clean_targets"] = clean
    card: dict[str, Any] = {
        "name": entry.name,
        "title": entry.title,
        "source": entry.source,
        "licence": entry.licence,
        "citation": entry.citation,
        "files": [content.record() for content in contents.values()],
        "fidelity": next(iter(contents.values())).known.fidelity,
        "task": _describe_task(entry, chosen),
        "classes": {str(new): entry.classes[old] for new, old in enumerate(chosen)},
        "split": "official training and test splits; images drawn without replacement, seeds "
        "derived from seed, name and split",
        "seed": options.seed,
        "train": describe_split(train_inputs, train_targets, classes=True),
        "test": describe_split(test_inputs, test_targets, classes=True),
        "preprocessing": _describe_pixels(train.images, options),
        "normalisation": normalisation,
        "label_noise": {
            "proportion": options.label_noise,
            "seed": noise_seed if options.label_noise else None,
            "flipped": int((train_targets != clean).sum()),
        },
    }
    return Dataset(train_inputs, train_targets, test_inputs, test_targets, card=card, extras=extras)


def _class_numbers(entry: Entry, classes: Sequence[int | str] | None) -> list[int]:
    names = list(entry.classes)
    if classes is None:
        return list(range(len(names)))
    known: dict[int | str, int] = {}
    for number, label in enumerate(names):
        known[label] = known[number] = number
    if isinstance(classes, str) or any(name not in known for name in classes):
        raise DataError(
            f"{entry.name} has the classes {', '.join(names)} (0 to {len(names) - 1}); "
            f"got {classes!r}"
        )
    chosen = [known[name] for name in classes]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise DataError(f"{entry.name} needs two or more different classes, got {list(classes)}")
    return chosen


def _check_size(size: tuple[int, int] | None, images: Bytes) -> None:
    height, width = images.shape[2:]
    if size is not None and not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise DataError(f"size must be from (1, 1) to {(height, width)}, got {tuple(size)}")


def _draw(
    split: Split, part: str, chosen: list[int], count: int | None, entry: Entry, seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions in the split: all in its order, or the first ``count`` of a seeded permutation."""
    eligible = np.flatnonzero(np.isin(split.labels, chosen)).astype(np.int64)
    if count is None:
        return eligible
    if not 1 <= count <= len(eligible):
        raise DataError(
            f"{entry.name} has {len(eligible)} images of these classes in its official {part} "
            f"split; {part}_size={count} cannot be taken from them"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, entry.name, part))
    order = torch.randperm(len(eligible), generator=generator)[:count]
    return np.take(eligible, order.numpy())


def _pixels(images: Bytes, rows: np.ndarray[Any, Any], options: Options) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images[rows])).float() / _WHITE
    if options.gray and pixels.shape[1] == 3:
        red, green, blue = pixels.unbind(1)
        pixels = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)
    if options.size is not None and tuple(options.size) != tuple(pixels.shape[2:]):
        pixels = functional.interpolate(pixels, size=tuple(options.size), mode="area")
    return pixels


def _standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, str]:
    # In double, where the sum over millions of pixels does not depend on its order visibly.
    exact = train.double()
    mean = exact.mean(dim=(0, 2, 3))
    scale = exact.std(dim=(0, 2, 3), correction=0)
    if bool((scale == 0).any()):
        raise DataError("a channel of the training images is constant and cannot be standardised")
    numbers = [[round(value, 4) for value in part.tolist()] for part in (mean, scale)]
    shape = (1, -1, 1, 1)

    def apply(images: Tensor) -> Tensor:
        return (images - mean.float().view(shape)) / scale.float().view(shape)

    return apply(train), apply(test), f"means {numbers[0]}, standard deviations {numbers[1]}"


def _targets(labels: Bytes, chosen: list[int]) -> Tensor:
    renumbered = np.full(256, -1, dtype=np.int64)
    renumbered[chosen] = np.arange(len(chosen))
    targets = torch.from_numpy(renumbered[labels])
    return targets.float() if len(chosen) == 2 else targets


def _noisy(clean: Tensor, proportion: float, seed: int, chosen: list[int]) -> Tensor:
    if not proportion:
        return clean
    if len(chosen) != 2:
        raise DataError(f"label noise is defined for two classes, got {len(chosen)}")
    return flip_labels(clean, proportion, seed)


def _describe_task(entry: Entry, chosen: list[int]) -> str:
    if len(chosen) == 2:
        zero, one = (entry.classes[number] for number in chosen)
        return f"binary classification, class {zero} as 0 and class {one} as 1"
    return f"classification, {len(chosen)} classes"


def _describe_pixels(images: Bytes, options: Options) -> str:
    channels, height, width = images.shape[1:]
    steps = [f"{height}x{width}, {channels} channel(s)"]
    if options.gray and channels == 3:
        steps.append("gray by 0.299 R + 0.587 G + 0.114 B")
    if options.size is not None and tuple(options.size) != (height, width):
        steps.append(f"area interpolation to {options.size[0]}x{options.size[1]}")
    if options.flat:
        steps.append("flattened")
    return "; ".join(steps)
