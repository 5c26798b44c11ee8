"""Nested values as lines, and metrics as tables."""

from __future__ import annotations

import pytest

from telescope_pipeline.report.entries import Entry, entries_of, with_errors
from telescope_pipeline.report.metrics import tables_of
from telescope_pipeline.report.words import words_of


def test_single_values() -> None:
    assert entries_of(3) == (Entry("", "3"),)
    assert entries_of(None) == (Entry("", "none"),)
    assert entries_of(True) == (Entry("", "yes"),)
    assert entries_of({"value": 1.5, "stderr": 0.5}) == (Entry("", "1.50 ± 0.50"),)


def test_mappings_are_labelled_and_nothing_is_lost() -> None:
    value = {
        "peak_width": 30,
        "gap": {"value": 2.0, "stderr": 0.25, "smallest": 1.75, "largest": 2.25},
        "steps": {"2-5": {"value": 1.0, "stderr": 0.5}, "5-10": {"value": -3.0, "stderr": 0.5}},
        "rates": [0.1, 0.01],
        "nothing": [],
        "odd": {"value": 1.0, "stderr": 0.5, "seeds": 4},
        "pairs": [{"low": 1, "high": "x"}],
    }
    assert entries_of(value) == (
        Entry("peak width", "30"),
        Entry("gap", "2.00 ± 0.25", "seeds from 1.75 to 2.25"),
        Entry(
            "steps",
            "2 values, −3 to 1",
            children=(Entry("2 to 5", "1.00 ± 0.50"), Entry("5 to 10", "−3.00 ± 0.50")),
        ),
        Entry("rates", "0.1, 0.01"),
        Entry("nothing", "none"),
        Entry("odd", "1.00 ± 0.50", "seeds 4"),
        Entry(
            "pairs",
            "1 value",
            children=(Entry("1", "2 values", children=(Entry("low", "1"), Entry("high", "x"))),),
        ),
    )


def test_errors_join_their_numbers() -> None:
    assert with_errors({"mse": 1.0, "mse_stderr": 0.5, "lonely_stderr": 2.0}) == {
        "mse": {"value": 1.0, "stderr": 0.5},
        "lonely_stderr": 2.0,
    }


def test_a_sweep_becomes_a_grid() -> None:
    metrics = {
        "peak_width": 30,
        "width": {
            "0002": {"mse": 0.25, "mse_stderr": 0.05, "lens": {"error": 0.125}},
            "0030": {"mse": 0.5, "mse_stderr": 0.05, "accuracy": 0.75, "lens": {"error": 0.25}},
        },
    }
    single, grid = tables_of(metrics)

    assert single.rows == (("peak width", ("30",)),)
    assert grid.title == "width"
    assert grid.columns == ("mean squared error", "lens: error", "accuracy")
    assert grid.rows == (
        ("2", ("0.250 ± 0.050", "0.125", "")),
        ("30", ("0.500 ± 0.050", "0.25", "0.75")),
    )


def test_groups_at_the_top_become_one_grid() -> None:
    (table,) = tables_of({"sgd": {"mse": 1}, "adamw": {"mse": 2}})

    assert table.columns == ("mean squared error",)
    assert table.rows == (("SGD", ("1",)), ("AdamW", ("2",)))


def test_unlike_mappings_become_a_table_each() -> None:
    final, steps = tables_of({"final": {"mse": 1}, "steps": {"generalisation": 40}})

    assert (final.title, final.rows) == ("final", (("mean squared error", ("1",)),))
    assert (steps.title, steps.rows) == ("steps", (("generalisation", ("40",)),))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("furthest_from_one", "distance from 1 at most"),
        ("standard_errors", "standard errors beyond which it counts"),
        (
            "sgd-momentum0.9-lr-0.001/order2-stride10",
            "SGD, momentum 0.9, γ = 0.001, 2nd order, every 10 steps",
        ),
        ("adamw/0.0001-0.001/order1-stride1", "AdamW, 0.0001 to 0.001, 1st order, every step"),
        ("alpha-4.0_linear", "α = 4.0, linear"),
        ("label-noise-0.0", "no label noise"),
        ("residual-depth-0064", "residual, 64 layers"),
        ("test_p025", "test set with 25 % irregular rows"),
        ("test_linearization_error", "test lazy error"),
        ("000160", "160"),
        ("0.05", "0.05"),
        ("a name of one's own", "a name of one's own"),
    ],
)
def test_keys_are_written_in_words(key: str, words: str) -> None:
    assert words_of(key) == words


def test_no_metrics_are_no_tables() -> None:
    assert tables_of({}) == []


def test_many_metrics_of_few_settings_are_rows() -> None:
    values = {f"m{n}": n for n in range(11)}
    (table,) = tables_of({"table": {"houses": values, "diamonds": values | {"m0": 7}}})

    assert table.title == "metric, by table"
    assert table.columns == ("houses", "diamonds")
    assert table.rows[0] == ("m0", ("0", "7"))
    assert len(table.rows) == 11
