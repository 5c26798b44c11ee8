"""Lines that figures of several kinds have, and what their captions say of lines and bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from telescope_pipeline.contract import Scalar
from telescope_pipeline.study.drawing.colours import GAP, LAZY, SETS, TELESCOPED
from telescope_pipeline.study.drawing.panels import SEED, Line
from telescope_pipeline.study.findings.statistics import over_seeds

MODELS = {
    "linearization_error": (LAZY, "lazy linearisation"),
    "smoother_error": (TELESCOPED[1], "smoother S Y + c"),
    "approximation_error": (TELESCOPED[0], "telescoped"),
}
"""Colour and label of each model of a network, by the name of its error."""


def measured(history: pd.DataFrame, column: str, by: str = "step") -> pd.DataFrame:
    """Mean over seeds of a column, with the single seeds.

    Args:
        history: Records of members that differ by seed only, or final rows of several groups; of a
            single run without the column ``seed``.
        column: What to average; the standard error contains that in ``<column>_stderr`` if it is
            recorded.
        by: The x axis.

    Returns:
        The curve of a :class:`Line`.
    """
    curve = over_seeds(history, column, by)
    if "seed" not in history:
        return curve
    singles = history.pivot_table(index=by, columns="seed", values=column, aggfunc="mean")
    singles.columns = [f"{SEED}{seed}" for seed in singles.columns]
    return curve.join(singles, on=by)


def on_sets(
    history: pd.DataFrame,
    quantity: str,
    *,
    by: str = "step",
    named: str = "",
    members: str = "points",
    **options: Any,
) -> list[Line]:
    """A line of a quantity on training and one on test points.

    Args:
        history: Records of one group.
        quantity: Its column without the set, ``"mse"`` for ``"train/mse"``.
        by: The x axis.
        named: What the figure's table calls it; as the history does if empty.
        members: What the sets consist of.
        **options: Of :class:`Line`.

    Returns:
        Both lines.
    """
    return [
        Line(
            measured(history, f"{name}/{quantity}", by),
            colour,
            f"{name} {members}",
            f"{name}_{named or quantity}",
            **options,
        )
        for name, colour in SETS.items()
    ]


def model_errors(
    history: pd.DataFrame,
    models: Sequence[str] = tuple(MODELS),
    *,
    on: str = "test",
    by: str = "step",
    named: str = "test_",
    group: Mapping[str, Scalar] | None = None,
    points: bool = False,
) -> list[Line]:
    """A line for each model's distance from the network.

    Args:
        history: Records of one group.
        models: Keys of ``MODELS``.
        on: The set.
        by: The x axis.
        named: What names of columns in the figure's table begin with.
        group: Columns that tell the group from others.
        points: Whether points are marked.

    Returns:
        The lines.
    """
    return [
        Line(
            measured(history, f"{on}/{name}", by),
            *MODELS[name],
            f"{named}{name}",
            group or {},
            points=points,
        )
        for name in models
    ]


def between(low: Line, high: Line, *, tag: str = "gap") -> Line:
    """The area between two lines, shaded, with a word in it."""
    table = pd.DataFrame({"low": low.curve["mean"], "high": high.curve["mean"]})
    middle = table.mean(axis=1)
    x = low.curve.columns[0]
    curve = table.assign(mean=middle, stderr=0.0, **{str(x): low.curve[x]})
    curve = curve[[x, "mean", "stderr", "low", "high"]]
    return Line(curve, GAP, unit=low.unit, width=0.0, opacity=1.0, tag=tag)


def bands(seeds: int) -> str:
    """The sentence of a caption that says what lines and bands are."""
    if seeds == 1:
        return "One seed; bands: standard error of the estimate where there is one."
    return (
        f"Thick lines: mean over n = {seeds} seeds; thin lines: each seed; bands: one standard "
        "error of the mean."
    )
