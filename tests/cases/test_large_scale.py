"""Streamed rows, the claims about following them, and what is said of measured seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from telescope_core.errors import DataError
from telescope_pipeline.cases.large_scale.claims import claims
from telescope_pipeline.cases.large_scale.costs import costs
from telescope_pipeline.cases.large_scale.metrics import allowed_by_count, summarize
from telescope_pipeline.cases.large_scale.sweep import members
from telescope_pipeline.study.datasets.stream import BatchesOnDisk, TeacherTable

_Trained = Callable[[str], tuple[Any, pd.DataFrame]]


@pytest.fixture
def table() -> TeacherTable:
    generator = torch.Generator().manual_seed(0)
    inner, outer = torch.randn(5, 8, generator=generator), torch.randn(8, generator=generator)
    return TeacherTable(7, inner, outer, noise=0.5)


def test_rows_are_the_same_in_parts_of_any_size(table: TeacherTable) -> None:
    x, y = table.rows(0, 40)
    for start, count in ((0, 7), (7, 1), (8, 32)):
        inputs, targets = table.rows(start, count)
        assert np.array_equal(inputs, x[start : start + count])
        assert targets == pytest.approx(y[start : start + count], rel=1e-5, abs=1e-5)
    far, _ = table.rows(2**40, 3)
    assert not np.isin(far, x).any()


def test_rows_have_the_moments_that_are_stated(table: TeacherTable) -> None:
    x, y = table.rows(0, 40_000)
    assert x.mean(axis=0) == pytest.approx(np.zeros(5), abs=0.02)
    assert np.cov(x.T) == pytest.approx(np.eye(5), abs=0.02)
    hidden = np.tanh(x.astype(np.float64) @ table.inner.double().numpy())
    noise = y - hidden @ table.outer.double().numpy()
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert np.corrcoef(noise, x.T)[0, 1:] == pytest.approx(np.zeros(5), abs=0.02)


def test_batches_come_in_order_from_disk_again_and_again(
    table: TeacherTable, tmp_path: Path
) -> None:
    path = tmp_path / "rows.npy"
    table.write(path, 10)
    x, y = table.rows(0, 10)
    seen = list(islice(BatchesOnDisk(path, 4), 5))
    for inputs, targets, ids in seen:
        assert np.array_equal(inputs.numpy(), x[ids])
        assert np.array_equal(targets.numpy(), y[ids])
    assert torch.cat([ids for _, _, ids in seen]).tolist() == [*range(10), *range(10)]
    later = next(iter(BatchesOnDisk(path, 4, first=3)))
    assert all(torch.equal(a, b) for a, b in zip(later, seen[3], strict=True))


def test_rows_that_come_out_otherwise_are_refused(
    build: Callable[..., Any], prepared: Callable[[str], Any], train: Callable[..., Any]
) -> None:
    from telescope_pipeline.cases.large_scale.training.train import _require_same

    data = prepared("large_scale").files["seed-0"]
    other = TeacherTable(1, data["teacher_inner"], data["teacher_outer"], 0.1)
    path = Path(__file__).parent / "absent.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "load", lambda *_, **__: np.column_stack(other.rows(0, 60)))
        with pytest.raises(DataError, match="run the stage again on this machine"):
            _require_same(path, data)


def test_members_leave_training_alone_and_cost_the_same_at_every_size(trained: _Trained) -> None:
    _, history = trained("large_scale")
    assert (history["training/difference"] == 0).all()
    later = history[history["step"] > 0]
    for name in ("plain/gflop", "predictions/gflop", "probes/gflop", "probes/state_mb"):
        assert later.groupby("step")[name].nunique().max() == 1
    assert (later["probes/gflop"] > later["predictions/gflop"]).all()
    # Up to a size, the training set is kept in memory as well.
    stored = later.set_index("rows")["stored/effective_parameters"]
    assert stored.loc[60].gt(0).all()
    assert stored.loc[200].isna().all()


def test_claims_hold_where_the_finding_is(build: Callable[..., Any]) -> None:
    assert _failing(build, _history()) == set()
    assert allowed_by_count(build("large_scale")) == pytest.approx(4 + 12 / 40 * (12 + 12) / 6)


@pytest.mark.parametrize(
    ("rows", "column", "value", "fails"),
    [
        (60, "training/difference", 1e-9, {"training-is-left-alone"}),
        (200, "test/approximation_error", 0.02, {"closer-than-lazy"}),
        (200, "predictions/gflop", 1.31, {"predictions-are-cheap", "no-growth-with-rows"}),
        (60, "probes/gflop", 10.9, {"probes-cost-what-they-must"}),
        (200, "probes/state_mb", 3.4, {"no-growth-with-rows"}),
        (60, "stored/effective_parameters", 9.0, {"streamed-as-in-memory"}),
        (60, "stored/effective_parameters", float("nan"), {"streamed-as-in-memory"}),
    ],
)
def test_a_claim_fails_where_its_finding_is_missing(
    build: Callable[..., Any], rows: int, column: str, value: float, fails: set[str]
) -> None:
    history = _history()
    history.loc[history["rows"] == rows, column] = value
    assert _failing(build, history) == fails


def test_summary_reads_by_size(build: Callable[..., Any]) -> None:
    summary = summarize(build("large_scale"), _history())
    json.dumps(summary, allow_nan=False)
    assert summary["rows-00000200"]["probes_gflop"] == 10.0
    assert "stored_effective_parameters" not in summary["rows-00000200"]


def test_seconds_are_held_against_the_bounds_apart_from_the_results(
    build: Callable[..., Any],
) -> None:
    case = build("large_scale")
    seconds = {"plain": 0.002, "predictions": 0.0024, "probes": 0.02}
    timing = {
        member.name: {
            "peak_memory_mb": 600.0,
            "measured": {
                f"{way}_cpu_seconds_a_step": taken * (1.2 if way == "probes" and large else 1.0)
                for way, taken in seconds.items()
            },
        }
        for member in members(case)
        for large in [member.values["rows"] == 200]
    }
    told = "\n".join(costs(case, timing))
    assert "60 rows, processor time of a step: plain 2.00 ms (1.00×), predictions 2.40 ms" in told
    assert "predictions over plain: 1.2, within 1.3" in told
    assert "6 probes over plain: 12, above 10.4" in told
    assert "gigabytes of a process: 0.6, within 24" in told
    assert "probes, largest over smallest size: 1.2, above 1.1" in told
    assert costs(case, {**timing, members(case)[0].name: {"cpu_seconds": 1.0}}) == []


def _history() -> pd.DataFrame:
    rows = []
    for size in (60, 200):
        for seed in (0, 1):
            name = f"rows-{size:08d}"
            for step in (4, 16):
                rows.append(
                    {
                        "member": f"{name}_seed-{seed}",
                        "group": name,
                        "seed": seed,
                        "rows": size,
                        "step": step,
                        "test/mse": 0.5,
                        "test/effective_parameters": 5.0 + 0.1 * seed,
                        "test/effective_parameters_stderr": 0.5,
                        "test/approximation_error": 0.01,
                        "test/linearization_error": 0.11,
                        "training/difference": 0.0,
                        "plain/gflop": 1.0,
                        "predictions/gflop": 1.1,
                        "probes/gflop": 10.0,
                        "probes/state_mb": 3.0,
                        "stored/effective_parameters": 5.2 if size == 60 else float("nan"),
                        "stored/effective_parameters_stderr": 0.5 if size == 60 else float("nan"),
                    }
                )
    return pd.DataFrame(rows)


def _failing(build: Callable[..., Any], history: pd.DataFrame) -> set[str]:
    found = claims(build("large_scale"), history)
    for claim in found:
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return {claim.id for claim in found if not claim.holds}
