"""Charts out of the tables beside the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from telescope_pipeline.publish.results import read_table
from telescope_pipeline.report.chart_names import colours_of, measure_of, readable, series_label
from telescope_pipeline.report.charts import Chart, chart_of
from telescope_pipeline.report.mathematics import without_formulas

_RESULTS = Path(__file__).resolve().parents[2] / "paper" / "reduced" / "results"
_TABLES = sorted(_RESULTS.glob("*/plots/*.csv"))


def _chart(text: str) -> Chart | None:
    names, *rows = ([_cell(field) for field in line.split(",")] for line in text.split())
    return chart_of([str(name) for name in names], rows)


def _cell(field: str) -> float | str | None:
    try:
        return float(field)
    except ValueError:
        return field or None


def _content(chart: Chart) -> Any:
    return json.loads(chart.to_json())


@pytest.mark.parametrize("path", _TABLES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_number_of_the_committed_tables_is_in_their_charts(path: Path) -> None:
    names, rows = read_table(path)
    chart = chart_of(names, rows)
    assert chart is not None
    drawn = [
        (legend, x, y, error)
        for row in chart.rows
        for panel in row.panels
        for legend, values, errors in [(c.legend, c.values, c.errors) for c in panel.curves]
        for x, y, error in zip(panel.x, values, errors or (0.0,) * len(values), strict=True)
        if y is not None
    ]
    quantities = [n for n, name in enumerate(names) if f"{name}_stderr" in names]
    written = [
        (row[0], row[n], row[names.index(f"{names[n]}_stderr")])
        for row in rows
        for n in quantities
        if row[n] is not None
    ]
    assert sorted(point[1:] for point in drawn) == sorted(written)
    # Colours tell the lines of a panel apart.
    for row in chart.rows:
        for panel in row.panels:
            used = [chart.legend[curve.legend] for curve in panel.curves]
            assert len(set(used)) == len(used)


def test_groups_told_apart_by_words_are_panels_and_measures_are_rows() -> None:
    chart = _chart(
        "step,setting,train_mse,train_mse_stderr,test_mse,test_mse_stderr,"
        "train_effective_parameters,train_effective_parameters_stderr\n"
        "1,alpha-5.0_linear,1,.1,2,0,3,.5\n100,alpha-5.0_linear,.01,.1,2,0,4,.5\n"
        "1,alpha-1.0_linear,1,.1,2,0,3,.5\n"
    )
    assert chart is not None
    assert [(row.label, row.log) for row in chart.rows] == [
        ("mean squared error", True),
        ("effective parameters", False),
    ]
    assert [panel.title for panel in chart.rows[0].panels] == [
        "alpha 5.0, linear",
        "alpha 1.0, linear",
    ]
    assert chart.legend == (("train", "blue"), ("test", "red"))
    assert chart.x_scale == "log"
    train, test = chart.rows[0].panels[0].curves
    assert (train.errors, test.errors) == ((0.1, 0.1), None)


def test_groups_told_apart_by_a_number_are_lines() -> None:
    chart = _chart("step,width,test_mse,test_mse_stderr\n0,30,1,0\n5,30,2,0\n0,2,3,0\n7,2,4,0\n")
    assert chart is not None
    assert (chart.legend_title, chart.legend) == ("width", (("2", ""), ("30", "")))
    (panel,) = chart.rows[0].panels
    assert panel.x == (0.0, 5.0, 7.0)
    assert [curve.values for curve in panel.curves] == [(3.0, None, 4.0), (1.0, 2.0, None)]


def test_rows_are_sorted_and_a_part_shared_by_all_names_goes_to_the_axis() -> None:
    chart = _chart(
        "width,test_smoother_error,test_smoother_error_stderr,"
        "test_approximation_error,test_approximation_error_stderr\n20,2,0,4,0\n10,1,0,3,0\n"
    )
    assert chart is not None
    assert chart.rows[0].label == "mean absolute error, test"
    assert [text for text, _ in chart.legend] == ["smoother", "telescoped"]
    assert chart.rows[0].panels[0].x == (10.0, 20.0)


def test_a_name_without_another_part_is_the_network_s() -> None:
    chart = _chart(
        "step,test_accuracy,test_accuracy_stderr,test_linearized_accuracy,"
        "test_linearized_accuracy_stderr\n1,.5,0,.4,0\n"
    )
    assert chart is not None
    assert chart.rows[0].label == "accuracy, test"
    assert chart.legend == (("network", "ink"), ("lazy linearisation", "gray"))


@pytest.mark.parametrize(
    ("positions", "scale"),
    [
        ([0, 0.5, 1], "linear"),
        ([1, 10, 100], "log"),
        ([0, 1, 10, 100], "symlog"),
        (list(range(100)), "log"),
        ([-1, 100], "linear"),
        ([5], "linear"),
    ],
)
def test_the_horizontal_axis_follows_from_the_positions(positions: list[float], scale: str) -> None:
    chart = chart_of(["step", "mse", "mse_stderr"], [(x, 1.0, 0.0) for x in positions])
    assert chart is not None
    assert chart.x_scale == scale


@pytest.mark.parametrize(
    "text",
    [
        "width,label,mse\n1,a,2\n",  # no standard errors
        "step,mse,mse_stderr\n",  # no rows
        "step,mse,mse_stderr\n1,2,0\n1,3,0\n",  # two rows at the same place
        "name,mse,mse_stderr\na,2,0\n",  # words on the axis
        "mse,mse_stderr\n2,0\n",  # no axis
        "step,mse,mse_stderr\n1,b,0\n",  # words for numbers
        "step,mse,mse_stderr\n1,,\n",  # nothing to draw
        "step,mse,mse_stderr,note\n1,2,0,4\n",  # a column that is no quantity
        "step,accuracy_alpha_0.5,accuracy_alpha_0.5_stderr\n1,2,0\n",  # an axis in columns
        "step," + ",".join(f"e{n}_mse,e{n}_mse_stderr" for n in range(11)) + "\n1" + ",1,0" * 11,
    ],
)
def test_tables_of_another_form_are_left_to_the_picture(text: str) -> None:
    assert _chart(text) is None


def test_numbers_are_short_and_nothing_ends_the_script() -> None:
    chart = chart_of(
        ["step", "setting", "mse", "mse_stderr"],
        [(1, "</script><!--&", 1 / 3, 2 / 3000), (2, "</script><!--&", 2.0, None)],
    )
    assert chart is not None
    assert not set("<>&") & set(chart.to_json())
    (panel,) = _content(chart)["rows"][0]["panels"]
    assert panel["title"].startswith("</script>")
    assert panel["curves"] == [[0, [0.33333333, 2], [0.00066666667, None]]]


@pytest.mark.parametrize(
    ("column", "label", "parts"),
    [
        ("train_effective_parameters", "effective parameters", ("train",)),
        ("accuracy_gap_averaged", "accuracy gap", ("averaged",)),
        ("accuracy_order1-stride10", "accuracy", ("order1-stride10",)),
        ("mse", "mean squared error", ()),
        ("update_cosine", "update cosine", ()),
    ],
)
def test_names_say_what_is_measured(column: str, label: str, parts: tuple[str, ...]) -> None:
    measure, rest = measure_of(column)
    assert (measure.label, rest) == (label, parts)


def test_names_made_for_files_are_spelled_out() -> None:
    assert readable("sgd-momentum0.9-lr-0.01") == "SGD, momentum 0.9, rate 0.01"
    assert readable("sgd-lr-1e-05") == "SGD, rate 1e-05"
    assert series_label(("approximation", "order1-stride10")) == "telescoped, order 1, stride 10"
    assert readable("label-noise-0.25") == "label noise 0.25"
    assert series_label(("approximation", "order2")) == "telescoped, order 2"
    assert series_label(()) == ""


def test_colours_keep_their_meaning_and_differ() -> None:
    names = [("train",), ("test",), ("conv1",), ("conv2",), ("train", "late")]
    colours = colours_of(names)
    assert colours[:2] == ["blue", "red"]
    assert len(set(colours)) == len(names)
    assert len(colours_of([(str(n),) for n in range(20)])) == 20


def test_formulas_become_text() -> None:
    assert without_formulas(r"multiplied by $\alpha$.") == "multiplied by α."
    assert without_formulas(r"$|f - f_{\mathrm{lin}}|$ costs 5 $") == "|f - f_lin| costs 5 $"
