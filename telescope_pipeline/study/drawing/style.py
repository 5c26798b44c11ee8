"""How figures look: one palette, one set of fonts, and bands for standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

# Okabe and Ito's palette, told apart by readers with any colour vision. A colour means the same
# thing in every figure.
TRAIN = "#0072B2"
TEST = "#D55E00"
NETWORK = "#000000"
LAZY = "#7F7F7F"
TELESCOPED = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GUIDE = "#4D4D4D"
GAP = "#ECECEC"

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "normal",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "figure.facecolor": "white",
    "figure.dpi": 100.0,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Create figures inside this block; the settings outside of it stay as they are."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def grid_of_axes(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure without going through pyplot, so that nothing global keeps it.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        size: Width and height in inches.
        **options: Passed to ``Figure.subplots``, e.g. ``sharex=True``.

    Returns:
        The figure and its axes by row and column.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in axes]


def draw_band(
    axes: Axes, curve: pd.DataFrame, color: str, label: str | None = None, **options: Any
) -> None:
    """Draw a mean and, around it, one standard error to either side.

    Args:
        axes: Where to draw.
        curve: First column x, then ``mean`` and ``stderr``.
        color: Of line and band.
        label: For the legend.
        **options: Passed to ``Axes.plot``.
    """
    x = curve.iloc[:, 0].to_numpy(dtype=np.float64)
    mean, error = curve["mean"].to_numpy(), curve["stderr"].to_numpy()
    lower, upper = mean - error, mean + error
    if axes.get_yscale() == "log":
        # The same relative error to either side, so that the band stays above zero.
        lower, upper = mean * np.exp(-error / mean), mean * np.exp(error / mean)
    axes.fill_between(x, lower, upper, color=color, alpha=0.22, linewidth=0)
    axes.plot(x, mean, color=color, label=label, **options)


def mark_position(axes: Axes, x: float, text: str) -> None:
    """Draw a vertical guide and write what it marks above the panel."""
    continue_mark(axes, x)
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.0,
        color=GUIDE,
    )


def continue_mark(axes: Axes, x: float) -> None:
    """Draw a vertical guide without text, as in the panel above."""
    axes.axvline(x, color=GUIDE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def mark_level(axes: Axes, y: float, text: str) -> None:
    """Draw a horizontal guide and write what it is at its left end, just above it."""
    axes.axhline(y, color=GUIDE, linewidth=0.9, linestyle=":", zorder=1)
    axes.annotate(
        text,
        (0.01, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        va="bottom",
        fontsize=8.0,
        color=GUIDE,
    )


def ticks_at(axes: Axes, positions: Sequence[float]) -> None:
    """Put the ticks of a logarithmic x axis where the measurements are."""
    axes.xaxis.set_major_locator(FixedLocator(list(positions)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{position:g}" for position in positions])


def after_start(curve: pd.DataFrame) -> pd.DataFrame:
    """The records a log-log plot can show: past step 0 and above zero."""
    return curve[(curve.iloc[:, 0] > 0) & (curve["mean"] > 0)]


def named(name: str, curve: pd.DataFrame) -> dict[str, pd.Series]:
    """A curve's mean and standard error as columns of a figure's table."""
    return {name: curve["mean"], f"{name}_stderr": curve["stderr"]}


def bands(seeds: int) -> str:
    """The sentence of a caption that says what lines and bands are."""
    if seeds == 1:
        return "One seed; bands: standard error of the estimate where there is one."
    return f"Lines: mean over {seeds} seeds; bands: one standard error."
