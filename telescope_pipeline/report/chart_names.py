"""What columns, groups and series of a figure's table are called in a chart."""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS = ("green", "pink", "sky", "orange", "blue", "red", "ink", "gray")
"""Colours of the page's stylesheet, in the order in which they are given away."""


@dataclass(frozen=True)
class Measure:
    """What a column measures.

    Attributes:
        label: In words.
        log: Whether it spans orders of magnitude, so that a logarithmic axis may suit it.
        least: What smaller values say nothing about, so that with them the axis is linear.
    """

    label: str
    log: bool
    least: float = 0.0


# The longest that a column's name contains is what it measures.
_MEASURES = {
    "accuracy": Measure("accuracy", False),
    "accuracy_gap": Measure("accuracy gap", False),
    "cross_entropy": Measure("cross-entropy", True),
    "effective_parameters": Measure("effective parameters", True, 0.5),
    "error": Measure("mean absolute error", True),
    "gradient_change": Measure("gradient change", True),
    "kernel_norm_max": Measure("largest kernel norm", True),
    "kernel_norm_mean": Measure("mean kernel norm", True),
    "kernel_norm_ratio": Measure("kernel norm, test / train", False),
    "misclassification": Measure("misclassified, as a share", False),
    "mse": Measure("mean squared error", True),
    "share": Measure("share of effective parameters", False),
}

_PROPER = {
    "adamw": "AdamW",
    "cifar10": "CIFAR-10",
    "lr": "rate",
    "mnist": "MNIST",
    "sgd": "SGD",
    "svhn": "SVHN",
}
_WORDS = {
    "approximation": "telescoped",
    "linearization": "lazy linearisation",
    "linearized": "lazy linearisation",
}

# As in the figures: a colour means the same thing everywhere.
_MEANINGS = {
    "train": "blue",
    "test": "red",
    "regular": "red",
    "irregular": "pink",
    "network": "ink",
    "trees": "green",
    "approximation": "green",
    "linearization": "gray",
    "linearized": "gray",
    "smoother": "pink",
}


def measure_of(column: str) -> tuple[Measure, tuple[str, ...]]:
    """Split a column's name into what it measures and of what.

    Args:
        column: E.g. ``"train_effective_parameters"``.

    Returns:
        The measure, and the other parts of the name, e.g. ``("train",)``.  A name that contains no
        known measure is one itself.
    """
    for name in sorted(_MEASURES, key=len, reverse=True):
        found = re.search(rf"(?:^|_){name}(?=_|$)", column)
        if found:
            rest = f"{column[: found.start()]}_{column[found.end() :]}"
            return _MEASURES[name], tuple(part for part in rest.split("_") if part)
    return Measure(readable(column), False), ()


def series_label(parts: tuple[str, ...]) -> str:
    """Name a series after the parts of its column's name that are left.

    Args:
        parts: E.g. ``("approximation", "order1-stride10")``.

    Returns:
        E.g. ``"telescoped, order 1, stride 10"``.
    """
    label = ""
    for part in parts:
        between = ", " if re.match(r"order\d", part) else " "
        label += (between if label else "") + _WORDS.get(part, readable(part))
    return label


def readable(text: str) -> str:
    """Spell out a name that was made for files.

    Args:
        text: E.g. ``"sgd-momentum0.9-lr-0.01"``.

    Returns:
        E.g. ``"SGD, momentum 0.9, rate 0.01"``.
    """
    # A minus sign behind the e of 1e-05 belongs to the number.
    spaced = re.sub(r"(?<=[0-9])_(?=[a-z])", "-", text.replace("label-noise", "label noise"))
    spaced = spaced.replace("_", " ")
    parts = [part for part in re.split(r"(?<![0-9]e)-", spaced) if part]
    lines: list[str] = []
    for part in parts:
        spelled = _PROPER.get(part) or re.sub(r"^([a-z]+)([0-9])", r"\1 \2", part)
        if lines and spelled[0].isdigit():
            lines[-1] += f" {spelled}"
        else:
            lines.append(spelled)
    return ", ".join(lines)


def colours_of(series: list[tuple[str, ...]]) -> list[str]:
    """Give every series a colour.

    Args:
        series: The parts of each one's name, as from :func:`measure_of`.

    Returns:
        Names out of ``COLOURS``; a colour comes twice only when there are more than eight series.
    """
    given: list[str | None] = []
    for parts in series:
        meant = next((_MEANINGS[part] for part in parts if part in _MEANINGS), None)
        given.append(meant if meant not in given else None)
    free = [colour for colour in COLOURS if colour not in given]
    free += [COLOURS[n % len(COLOURS)] for n in range(len(series))]
    return [colour or free.pop(0) for colour in given]
