"""The figure of the demo: errors above, effective parameters below, and when what happened."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.contract import Figure
from telescope_pipeline.demo.reading import Reading
from telescope_pipeline.study.drawing import Guide, Panel, between, figure, on_sets

_STEPS = "training step"


def draw(history: pd.DataFrame, reading: Reading) -> Figure:
    """Draw a run.

    Args:
        history: Its records.
        reading: What happened in it.

    Returns:
        The figure; it marks those events that there were.
    """
    errors, complexity = (on_sets(history, name) for name in ("mse", "effective_parameters"))
    events = {"memorised": reading.memorised, "generalised": reading.generalised}
    seen = {name: step for name, step in events.items() if step is not None}
    # The first steps spend next to no effective parameters and would fill a third of the axis.
    steps = min(10.0, reading.steps / 10), float(reading.steps)
    most = max(float(line.curve["mean"].max()) for line in complexity)
    above = Panel(
        errors,
        x=_STEPS,
        y="mean squared error",
        y_scale="log",
        x_range=steps,
        guides=[
            Guide(reading.level, f"error {reading.level:g}", axis="y"),
            *(Guide(step, name) for name, step in seen.items()),
        ],
    )
    below = Panel(
        [between(*complexity), *complexity],
        x=_STEPS,
        y="effective parameters, p",
        x_range=steps,
        y_range=(0, 1.12 * max(reading.n, most)),
        guides=[
            Guide(reading.n, f"n = {reading.n} training points", axis="y"),
            *(Guide(step, name) for name, step in seen.items()),
        ],
    )
    return figure(
        "grokking",
        "A network that groks",
        " ".join(reading.sentences),
        [[above], [below]],
        see="Compare where the two errors fall with where the two counts part.",
    )
