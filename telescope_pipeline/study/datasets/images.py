"""The image data sets of the paper, MNIST, CIFAR-10 and SVHN, as tasks with their cards.

Images are taken from the official training and test splits, so the two never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.study.datasets.dataset import Dataset, describe_noise, describe_split
from telescope_pipeline.study.datasets.entry import Entry
from telescope_pipeline.study.datasets.files import Content, read_files
from telescope_pipeline.study.datasets.formats import Bytes, parse_cifar10, parse_mnist, parse_svhn
from telescope_pipeline.study.datasets.label_noise import flip_labels
from telescope_pipeline.study.datasets.registry import lookup

# Luma of ITU-R BT.601, as in Pillow's mode L.
_LUMA = (0.299, 0.587, 0.114)
_WHITE = 255.0


class _Split(NamedTuple):
    """Images (rows, channels, height, width) and labels (rows,), uint8."""

    images: Bytes
    labels: Bytes


def load_images(
    name: str,
    *,
    seed: int,
    classes: Sequence[int | str] | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    size: tuple[int, int] | None = None,
    gray: bool = False,
    flat: bool = False,
    standardise: bool = False,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
    folder: str | Path | None = None,
    entry: Entry | None = None,
) -> Dataset:
    """Load images and labels of a data set; by default all of them as they are.

    Args:
        name: ``mnist`` (28x28), ``cifar10`` or ``svhn`` (32x32, RGB).
        seed: Decides which images are drawn. A smaller draw is the beginning of a larger one.
        classes: Classes in the order of their new labels, by number or name; all ten if None.
        train_size: Number of training images, drawn from the official training split; all if None.
        test_size: Number of test images, drawn from the official test split; all if None.
        size: Height and width in pixels, reached by area interpolation.
        gray: Whether colours become luma.
        flat: Whether inputs are vectors or images (n, channels, height, width).
        standardise: Whether channels are centred and scaled by the training images; else in [0, 1].
        label_noise: Proportion of binary training labels to flip; test labels stay clean.
        noise_seed: Decides which labels are flipped; derived from ``seed`` if None.
        folder: A folder in the layout of the registry; by default the one that TELESCOPE_DATA
            names.
        entry: Files, addresses and checksums, if not those of the registry.

    Returns:
        The data set. Targets are float32 in {0, 1} for two classes, else int64 class indices.
        Extra tensors ``train_rows`` and ``test_rows`` (int64) are positions in the official splits;
        for two classes ``train_clean_targets`` holds the training labels before noise. The card's
        ``fidelity`` tells original pixels from copies that were re-encoded.

    Raises:
        DataError: Files are missing or damaged, or an argument is not possible.
        MissingDependencyError: SciPy is not installed (SVHN), or pooch is not and a download is
            needed.
    """
    entry = entry or lookup(name)
    contents = read_files(entry, folder=folder)
    splits = dict(zip(("train", "test"), _SPLITS[name](contents), strict=True))
    chosen = _class_numbers(entry, classes)
    shape = splits["train"].images.shape[1:]
    if size is not None and not (1 <= size[0] <= shape[1] and 1 <= size[1] <= shape[2]):
        raise DataError(f"size must be from (1, 1) to {shape[1:]}, got {tuple(size)}")
    rows = {
        part: _draw(splits[part], part, chosen, count, entry, seed)
        for part, count in (("train", train_size), ("test", test_size))
    }
    inputs = {part: _pixels(splits[part].images[rows[part]], size, gray) for part in rows}
    normalisation = "pixels 0 to 255 divided by 255"
    if standardise:
        inputs, statistics = _standardised(inputs)
        normalisation += "; then centred and scaled per channel by the training images: "
        normalisation += statistics
    if flat:
        inputs = {part: pixels.flatten(1) for part, pixels in inputs.items()}
    targets = {part: _targets(splits[part].labels[rows[part]], chosen) for part in rows}
    clean = targets["train"]
    if noise_seed is None:
        noise_seed = derive_seed(seed, entry.name, "label noise")
    if label_noise:
        if len(chosen) != 2:
            raise DataError(f"label noise is defined for two classes, got {len(chosen)}")
        targets["train"] = flip_labels(clean, label_noise, noise_seed)
    extras = {f"{part}_rows": torch.from_numpy(rows[part]) for part in rows}
    if len(chosen) == 2:
        extras["train_clean_targets"] = clean
    names = [entry.classes[old] for old in chosen]
    card: dict[str, Any] = entry.card() | {
        "files": [content.record() for content in contents.values()],
        "fidelity": next(iter(contents.values())).known.fidelity,
        "task": f"binary classification, class {names[0]} as 0 and class {names[1]} as 1"
        if len(chosen) == 2
        else f"classification, {len(chosen)} classes",
        "classes": {str(new): old for new, old in enumerate(names)},
        "split": "official training and test splits; images drawn without replacement, seeds "
        "derived from seed, name and split",
        "seed": seed,
        "train": describe_split(inputs["train"], targets["train"], classes=True),
        "test": describe_split(inputs["test"], targets["test"], classes=True),
        "preprocessing": _describe_pixels(shape, size, gray, flat),
        "normalisation": normalisation,
        "label_noise": describe_noise(
            label_noise,
            noise_seed if label_noise else None,
            int((targets["train"] != clean).sum()),
        ),
    }
    return Dataset(inputs["train"], targets["train"], inputs["test"], targets["test"], card, extras)


mnist = partial(load_images, "mnist")
cifar10 = partial(load_images, "cifar10")
svhn = partial(load_images, "svhn")


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


def _draw(
    split: _Split, part: str, chosen: list[int], count: int | None, entry: Entry, seed: int
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


def _pixels(images: Bytes, size: tuple[int, int] | None, gray: bool) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float() / _WHITE
    if gray and pixels.shape[1] == 3:
        red, green, blue = pixels.unbind(1)
        pixels = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)
    if size is not None and tuple(size) != tuple(pixels.shape[2:]):
        pixels = functional.interpolate(pixels, size=tuple(size), mode="area")
    return pixels


def _standardised(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    # In double, where the sum over millions of pixels does not depend on its order visibly.
    exact = inputs["train"].double()
    mean = exact.mean(dim=(0, 2, 3))
    scale = exact.std(dim=(0, 2, 3), correction=0)
    if bool((scale == 0).any()):
        raise DataError("a channel of the training images is constant and cannot be standardised")
    numbers = [[round(value, 4) for value in part.tolist()] for part in (mean, scale)]
    centre, width = mean.float().view(1, -1, 1, 1), scale.float().view(1, -1, 1, 1)
    scaled = {part: (images - centre) / width for part, images in inputs.items()}
    return scaled, f"means {numbers[0]}, standard deviations {numbers[1]}"


def _targets(labels: Bytes, chosen: list[int]) -> Tensor:
    renumbered = np.full(256, -1, dtype=np.int64)
    renumbered[chosen] = np.arange(len(chosen))
    targets = torch.from_numpy(renumbered[labels])
    return targets.float() if len(chosen) == 2 else targets


def _describe_pixels(
    shape: Sequence[int], size: tuple[int, int] | None, gray: bool, flat: bool
) -> str:
    channels, height, width = shape
    steps = [f"{height}x{width}, {channels} channel(s)"]
    if gray and channels == 3:
        steps.append("gray by 0.299 R + 0.587 G + 0.114 B")
    if size is not None and tuple(size) != (height, width):
        steps.append(f"area interpolation to {size[0]}x{size[1]}")
    if flat:
        steps.append("flattened")
    return "; ".join(steps)


def _mnist_splits(contents: Mapping[str, Content]) -> list[_Split]:
    return [
        _Split(
            *parse_mnist(
                contents[f"{part}-images-idx3-ubyte"].data,
                contents[f"{part}-labels-idx1-ubyte"].data,
                contents[f"{part}-images-idx3-ubyte"].form.path,
            )
        )
        for part in ("train", "t10k")
    ]


def _cifar10_splits(contents: Mapping[str, Content]) -> list[_Split]:
    batches = {name: parse_cifar10(c.data, c.form.path) for name, c in contents.items()}
    test = _Split(*batches.pop("test_batch"))
    images, labels = zip(*batches.values(), strict=True)
    return [_Split(np.concatenate(images), np.concatenate(labels)), test]


def _svhn_splits(contents: Mapping[str, Content]) -> list[_Split]:
    files = (contents[part] for part in ("train", "test"))
    return [_Split(*parse_svhn(content.data, content.form.path)) for content in files]


_SPLITS = {"mnist": _mnist_splits, "cifar10": _cifar10_splits, "svhn": _svhn_splits}
