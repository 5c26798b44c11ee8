"""Figures of the tiny case."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Figure


def draw(case: DoubleDescentCase, history: pd.DataFrame) -> list[Figure]:
    """The test error of every member."""
    figure, axes = plt.subplots()
    for name, frame in history.groupby("member"):
        axes.plot(frame["step"], frame["test/mse"], label=str(name))
    axes.legend()
    table = history[["member", "step", "test/mse"]]
    return [Figure("error", "Test error", "It falls.", figure, table)]
