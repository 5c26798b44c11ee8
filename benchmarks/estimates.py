"""How close probed effective parameters come to the exact ones, on the runs timed in ``bench``.

The exact lens follows every label direction, so this is the slow part of the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from workloads import Workload, loss

from telescope_core import TelescopeLens

STEPS = (60,)
SEEDS = (0, 1, 2, 3, 4, 5)
_EXACT = {"probes": "exact", "strategy": "midpoint", "stride": 5}


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
    model, optimizer = workload.make()
    x, y, n = workload.x, workload.y, workload.n

    def lens(**settings: Any) -> TelescopeLens:
        return TelescopeLens(model, optimizer, loss, x[:n], y, {"test": x[n:]}, **settings)

    exact = lens(**_EXACT)
    probed = [lens(**options, seed=seed) for seed in SEEDS]
    rows = []
    for step, index in enumerate(workload.batches(max(steps)), start=1):
        with ExitStack() as stack:
            for each in (exact, *probed):
                stack.enter_context(each.step(index))
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
        if step in steps:
            truth = exact.snapshot().to_record()
            records = [each.snapshot().to_record() for each in probed]
            for name in ("train", "test"):
                key = f"{name}/effective_parameters"
                row = {"step": step, "set": name, "exact": truth[key]}
                for seed, record in zip(SEEDS, records, strict=True):
                    row[f"error_{seed}"] = record[key] / truth[key] - 1
                row["stated"] = records[0][f"{key}_stderr"] / truth[key]
                rows.append(row)
    return rows


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
