"""Names of files and columns, and layers by kind, as one stage writes and the next reads them."""

from __future__ import annotations

STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}
STATISTICS = ("recomputed", "interpolated")

HEAD = "head"
KINDS = {"convolution": "convolutions", "norm": "BatchNorm", "head": "last linear layer"}


def file_stem(source: str, replicate: int) -> str:
    """Data file of a seed: the digits are split anew for each, official splits are the same."""
    return f"seed-{replicate}" if source == "digits" else "shared"


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
