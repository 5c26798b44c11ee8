"""The members, by start and seed, and the names of files, columns and kinds of layers."""

from __future__ import annotations

from functools import partial

from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates, seed_stem

STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}
STATISTICS = ("recomputed", "interpolated")

HEAD = "head"
KINDS = {"convolution": "convolutions", "norm": "BatchNorm", "head": "last linear layer"}


def members(case: WeightAveragingCase) -> list[Member]:
    """One member per start (from scratch or pre-trained) and seed."""
    return [
        member
        for start in case.training.starts
        for member in replicates(
            start, case.seeds, {"setting": start}, data=partial(file_stem, case.data.source)
        )
    ]


def file_stem(source: str, replicate: int) -> str:
    """Data file of a seed: the digits are split anew for each, official splits are the same."""
    return seed_stem(replicate) if source == "digits" else "shared"


def gap_column(statistics: str) -> str:
    """The accuracy gap with these running statistics of BatchNorm."""
    return f"test/accuracy_gap@{statistics}"


def children_column(statistics: str) -> str:
    """Mean accuracy of the children, with their statistics treated like their average's."""
    return f"test/children@{statistics}_accuracy"


def path_column(statistics: str, alpha: float) -> str:
    """Accuracy on the line between two children, mean over pairs."""
    return f"test/path_accuracy@{statistics},alpha={alpha:.4f}"


def change_column(layer: str) -> str:
    """Gradient change of a layer."""
    return f"test/gradient_change@{layer}"


def kind_of(layer: str) -> str:
    """``norm``, ``head`` or ``convolution``, from a layer's name in the model."""
    if layer == HEAD:
        return "head"
    return "norm" if "norm" in layer.rpartition(".")[2] else "convolution"


def alphas(count: int) -> list[float]:
    """Evenly spaced positions with both ends, and the middle even if the count is even."""
    return sorted({position / (count - 1) for position in range(count)} | {0.5})
