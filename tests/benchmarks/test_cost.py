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
