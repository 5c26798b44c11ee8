"""Names of groups, files and layers, as they appear in tables and files."""

from __future__ import annotations

from collections.abc import Iterable

TRAIN, TEST = "train/effective_parameters", "test/effective_parameters"
LAZY, TELESCOPED = "test/linearization_error", "test/approximation_error"
LAST_LAYER = "head"


def group_name(label_noise: float) -> str:
    """Name of the members with this label noise, e.g. ``label-noise-0.2``."""
    return f"label-noise-{float(label_noise)!r}"


def file_stem(label_noise: float, replicate: int) -> str:
    """Name of the file that holds the data of one label noise and seed."""
    return f"{group_name(label_noise)}_seed-{replicate}"


def layer_column(name: str, layer: str) -> str:
    """The column with a layer's part of a set's effective parameters, in parameters."""
    return f"{name}/effective_parameters@{layer}"


def layers(columns: Iterable[str]) -> list[str]:
    """The layers that a history tells apart, from input to output."""
    start = layer_column("train", "")
    return [name.removeprefix(start) for name in columns if name.startswith(start)]


def layer_label(layer: str) -> str:
    """A layer as a legend names it, e.g. ``convolution 1``."""
    return "linear layer" if layer == LAST_LAYER else f"convolution {int(layer.split('.')[-1]) + 1}"
