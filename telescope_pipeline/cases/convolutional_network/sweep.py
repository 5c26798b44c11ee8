"""The members, by label noise and seed, and the names of groups, layers and columns."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates, seed_stem

LAZY, TELESCOPED = "test/linearization_error", "test/approximation_error"
LAST_LAYER = "head"


def members(case: ConvolutionalNetworkCase) -> list[Member]:
    """One member per level of label noise and seed, each with a file of its own."""
    return [
        member
        for level in case.data.label_noise
        for member in replicates(
            group_name(level),
            case.seeds,
            {"label_noise": float(level)},
            data=partial(seed_stem, group=group_name(level)),
        )
    ]


def group_name(label_noise: float) -> str:
    """Name of the members with this label noise, e.g. ``label-noise-0.2``."""
    return f"label-noise-{float(label_noise)!r}"


def layer_column(layer: str) -> str:
    """The column with a layer's part of the degrees of freedom."""
    return f"train/degrees_of_freedom@{layer}"


def layers(columns: Iterable[str]) -> list[str]:
    """The layers that a history tells apart, from input to output."""
    start = layer_column("")
    return [name.removeprefix(start) for name in columns if name.startswith(start)]


def layer_label(layer: str) -> str:
    """A layer as a legend names it, e.g. ``convolution 1``."""
    return "linear layer" if layer == LAST_LAYER else f"convolution {int(layer.split('.')[-1]) + 1}"
