"""Figures are the same bytes every time, come with tidy tables and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from telescope_pipeline.publish.results import read_table
from telescope_pipeline.report.charts import chart_of
from telescope_pipeline.study.drawing import style as style

# Columns that, beside the x axis, tell the rows of a table apart.
_TOLD_APART_BY = ["setting", "optimizer", "table", "model", "epsilon"]

# What only their pictures show: many lines at once, or an axis laid out in columns.
_PICTURES_ONLY = {"what-each-choice-does", "gradient-change", "interpolation"}

_Trained = Callable[[str], tuple[Any, pd.DataFrame]]


def _draw(kind: str, trained: _Trained) -> list[Any]:
    case, history = trained(kind)
    drawn: list[Any] = import_module(f"telescope_pipeline.cases.{kind}.figures").draw(case, history)
    return drawn


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=60, format="png")
    return buffer.getvalue()


def test_drawing_twice_gives_the_same_bytes(kind: str, trained: _Trained) -> None:
    first, second = _draw(kind, trained), _draw(kind, trained)
    for one, other in zip(first, second, strict=True):
        assert _png(one.figure) == _png(other.figure)


def test_tables_are_tidy_with_the_x_axis_first(kind: str, trained: _Trained) -> None:
    _, history = trained(kind)
    for figure in _draw(kind, trained):
        x = figure.table.columns[0]
        if x in {"proportion", "progress"}:
            assert figure.table[x].between(0, 1).all()
        else:
            assert x in {"step", "width", "learning_rate", "depth"}
            assert set(figure.table[x]) <= set(history[x])
        assert np.isfinite(figure.table.select_dtypes("number").to_numpy()).all()
        assert figure.table.columns.is_unique
        keys = [x, *figure.table.columns.intersection(_TOLD_APART_BY)]
        keys += [name for name in ("width",) if name in figure.table and name != x]
        assert not figure.table.duplicated(keys).any()


def test_table_holds_the_means_of_the_history(trained: _Trained) -> None:
    _, history = trained("grokking_polynomial")
    table = _draw("grokking_polynomial", trained)[0].table.set_index("step")
    main = history[history["group"] == "epsilon-0.2"]
    expected = main.groupby("step")["test/mse"].mean()
    pd.testing.assert_series_equal(
        table["test_mse"], expected, check_names=False, check_exact=False
    )


def test_names_are_unique_and_words_are_there(kind: str, trained: _Trained) -> None:
    figures = _draw(kind, trained)
    assert len({figure.name for figure in figures}) == len(figures) >= 2
    for figure in figures:
        assert figure.title
        assert figure.caption
        labelled = [*figure.figure.texts, figure.figure._supxlabel, figure.figure._supylabel]
        shared = any(text is not None and text.get_text() for text in labelled)
        for axes in figure.figure.axes:
            assert shared or axes.get_ylabel() or axes.get_title()


def test_legends_do_not_cover_a_panel(kind: str, trained: _Trained) -> None:
    for figure in _draw(kind, trained):
        figure.figure.draw_without_rendering()
        assert figure.figure.legends
        for legend in figure.figure.legends:
            covered = legend.get_window_extent()
            for axes in figure.figure.axes:
                assert not covered.overlaps(axes.get_window_extent())


def test_train_and_test_have_their_colours_wherever_they_appear(trained: _Trained) -> None:
    for kind in ("grokking_polynomial", "double_descent"):
        panels = _draw(kind, trained)[0].figure.axes
        for axes in panels:
            colors = [to_hex(line.get_color(), keep_alpha=False).upper() for line in axes.lines]
            assert colors[:2] == [style.TRAIN, style.TEST]


def test_settings_of_matplotlib_are_left_alone(kind: str, trained: _Trained) -> None:
    before = dict(matplotlib.rcParams)
    _draw(kind, trained)
    assert dict(matplotlib.rcParams) == before


def test_a_band_on_a_log_axis_stays_above_zero() -> None:
    with style.paper_style():
        _, ((axes,),) = style.grid_of_axes(1, 1, (2, 2))
        axes.set_yscale("log")
        curve = pd.DataFrame({"step": [1, 2], "mean": [1.0, 2.0], "stderr": [5.0, 0.1]})
        style.draw_band(axes, curve, style.TRAIN)
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() > 0
    assert heights.max() >= 2.1


@pytest.mark.parametrize("part", ["metrics", "figures"])
def test_metrics_and_figures_work_without_torch(kind: str, part: str) -> None:
    code = (
        f"import sys; import telescope_pipeline.cases.{kind}.{part}; "
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_become_charts_of_the_report(kind: str, trained: _Trained, tmp_path: Path) -> None:
    for figure in _draw(kind, trained):
        path = tmp_path / f"{figure.name}.csv"
        figure.table.to_csv(path, index=False)
        assert (chart_of(*read_table(path)) is None) == (figure.name in _PICTURES_ONLY)
