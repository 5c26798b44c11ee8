"""The cost against plain training is measured side by side, the estimate of it beforehand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest


def test_a_row_for_every_number_of_probes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    monkeypatch.delenv("TELESCOPE_DATA", raising=False)
    cost = importlib.import_module("cost")
    name, (build, _) = next(iter(cost.RUNS.items()))
    monkeypatch.setattr(cost, "RUNS", {name: (build, (None, 2))})
    rows = cost.measure(rounds=1)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["probes"] for row in rows] == [None, 2]
    for row in rows:
        assert row["over_plain"] == row["lens"] / row["plain"] > 0
        assert row["stated_over_plain"] > 0
    assert rows[0]["stated_bytes"] == 0 < rows[1]["stated_bytes"]
    table = cost.table(rows)
    assert f"| {name} | none |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_mode_is_held_against_plain_training_of_its_own_kind(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    monkeypatch.delenv("TELESCOPE_DATA", raising=False)
    modes = importlib.import_module("modes")
    chosen = ("plain", "predictions only", "plain, dropout", "streamed")
    monkeypatch.setattr(modes, "MODES", {name: modes.MODES[name] for name in chosen})
    monkeypatch.setattr(modes, "STRIDE", 2)
    rows = modes.measure(rounds=1)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["mode"] for row in rows] == list(chosen)
    seconds = {row["mode"]: row["seconds"] for row in rows}
    for row in rows:
        plain = "plain, dropout" if "dropout" in row["training"] else "plain"
        assert row["over_plain"] == row["seconds"] / seconds[plain] > 0
    table = modes.table(rows)
    assert len({line.count("|") for line in table.splitlines()}) == 1
