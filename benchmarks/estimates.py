"""How close effective parameters come to the exact ones, on the runs timed in ``bench``.

Estimates from probes are compared with a lens that follows every label direction, which is the
slow part of the benchmark; a lens that does so itself, with the same at a stride where only
rounding is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from workloads import Workload, loss

from telescope_core import TelescopeLens

STEPS = (60,)
SEEDS = (0, 1, 2, 3, 4, 5)
_EXACT = {"probes": "exact", "strategy": "midpoint", "stride": 5}
_FINE_STRIDE = 4
EXACT_STEPS = (48, 96, 192, 384, 960)


def measure_estimates(
    workload: Workload, options: dict[str, Any], steps: Sequence[int] = STEPS
) -> list[dict[str, float]]:
    """Effective parameters of lenses with several seeds beside those of an exact one.

    Args:
        workload: The training run.
        options: Of the probed lenses.
        steps: When to read them.

    Returns:
        Per step and set: the exact value, the relative error of each seed, and the relative
        standard error that the first one states.
    """
    settings = [options | {"seed": seed} for seed in SEEDS]
    rows = []
    for step, truth, records in _side_by_side(workload, _EXACT, settings, steps):
        for name in ("train", "test"):
            key = f"{name}/effective_parameters"
            row = {"step": step, "set": name, "exact": truth[key]}
            for seed, record in zip(SEEDS, records, strict=True):
                row[f"error_{seed}"] = record[key] / truth[key] - 1
            row["stated"] = records[0][f"{key}_stderr"] / truth[key]
            rows.append(row)
    return rows


def measure_exactness(
    workload: Workload, options: dict[str, Any], steps: Sequence[int] = EXACT_STEPS
) -> list[dict[str, float]]:
    """Effective parameters of an exact lens beside those at a stride of four steps.

    Args:
        workload: The training run.
        options: Of the exact lens.
        steps: When to read them.

    Returns:
        Per step and set: the value at the small stride, the relative error at the lens's own, and
        the mean of ``|f − (S·Y + c)|`` there.
    """
    rows = []
    fine = options | {"stride": _FINE_STRIDE}
    for step, truth, (record,) in _side_by_side(workload, fine, [options], steps):
        for name in ("train", "test"):
            key = f"{name}/effective_parameters"
            error, smoother = record[key] / truth[key] - 1, record[f"{name}/smoother_error"]
            rows.append(
                {"step": step, "set": name, "exact": truth[key], "error": error}
                | {"smoother_error": smoother}
            )
    return rows


def _side_by_side(
    workload: Workload,
    reference: dict[str, Any],
    others: Sequence[dict[str, Any]],
    steps: Sequence[int],
) -> Iterator[tuple[int, dict[str, float], list[dict[str, float]]]]:
    """Lenses on one run: at each of the steps, the record of the reference and of the others."""
    model, optimizer = workload.make()
    x, y, n = workload.x, workload.y, workload.n
    lenses = [
        TelescopeLens(model, optimizer, loss, x[:n], y, {"test": x[n:]}, **settings)
        for settings in (reference, *others)
    ]
    for step, index in enumerate(workload.batches(max(steps)), start=1):
        with ExitStack() as stack:
            for lens in lenses:
                stack.enter_context(lens.step(index))
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
        if step in steps:
            truth, *records = (lens.snapshot().to_record() for lens in lenses)
            yield step, truth, records


def estimates_table(estimates: dict[str, list[dict[str, float]]]) -> str:
    """The figures as Markdown."""
    lines = ["| work | step | set | exact | errors | stated |", "|---|---|---|---|---|---|"]
    for work, rows in estimates.items():
        for row in rows:
            errors = ", ".join(f"{100 * row[f'error_{seed}']:+.1f} %" for seed in SEEDS)
            lines.append(
                f"| {work} | {row['step']} | {row['set']} | {row['exact']:.1f} "
                f"| {errors} | {100 * row['stated']:.1f} % |"
            )
    return "\n".join(lines)


def exactness_table(exactness: dict[str, list[dict[str, float]]]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| work | step | set | at stride {_FINE_STRIDE} | error | mean of abs(f − (S·Y + c)) |",
        "|---|---|---|---|---|---|",
    ]
    for work, rows in exactness.items():
        for row in rows:
            lines.append(
                f"| {work} | {row['step']} | {row['set']} | {row['exact']:.1f} "
                f"| {100 * row['error']:+.3f} % | {row['smoother_error']:.1e} |"
            )
    return "\n".join(lines)
