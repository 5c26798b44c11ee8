"""The cost against plain training by model and probes, and what is estimated of it beforehand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from workloads import Workload, loss, mlp_adamw, polynomial_gd, wide_momentum

from telescope_core import TelescopeLens

STRIDE = 10
RUNS: dict[str, tuple[Callable[[], Workload], tuple[int | str | None, ...]]] = {
    "MLP 64-200-200-1, AdamW": (mlp_adamw, (None, 16, 64)),
    "one hidden layer of 1000, momentum": (wide_momentum, (None, 16, 64)),
    "polynomial network, full batch": (polynomial_gd, (None, "exact")),
}
_ROUNDS = 5


def measure(rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """A row for each model and number of probes.

    Args:
        rounds: Blocks of ten steps, each beside as long a stretch of plain training.

    Returns:
        Seconds of a step of either and their ratio, and the ratio and bytes that
        ``estimate_cost`` says before the first step.
    """
    return [
        {"model": name, "probes": probes} | _row(build(), probes, rounds)
        for name, (build, choices) in RUNS.items()
        for probes in choices
    ]


def _row(workload: Workload, probes: int | str | None, rounds: int) -> dict[str, float]:
    x, n = workload.x, workload.n
    model, optimizer = workload.make()
    options: Any = {"probes": probes, "stride": STRIDE, "follow_train": probes is not None}
    lens = TelescopeLens(model, optimizer, loss, x[:n], workload.y, {"test": x[n:]}, **options)
    stated = lens.estimate_cost(workload.batch_size)
    plain_model, plain_optimizer = workload.make()

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, index: Tensor) -> None:
        optimizer.zero_grad()
        loss(model(x[index]), workload.y[index]).backward()
        optimizer.step()

    # A round that is not counted, for the first step's own work and the machine's caches.
    times: dict[str, list[float]] = {"plain": [], "lens": []}
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for index in workload.batches(STRIDE):
            with lens.step(index):
                train(model, optimizer, index)
        took = time.perf_counter() - started
        times["lens"].append(took / STRIDE)
        steps, started = 0, time.perf_counter()
        while steps < STRIDE or time.perf_counter() - started < took:
            for index in workload.batches(STRIDE):
                train(plain_model, plain_optimizer, index)
            steps += STRIDE
        times["plain"].append((time.perf_counter() - started) / steps)
    plain, followed = (statistics.median(seconds[1:]) for seconds in times.values())
    return {
        "plain": plain,
        "lens": followed,
        "over_plain": followed / plain,
        "stated_over_plain": stated.ratio,
        "stated_bytes": stated.smoother_bytes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| model | probes | plain | lens | over plain | estimated | smoother |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        probes = "none" if row["probes"] is None else row["probes"]
        lines.append(
            f"| {row['model']} | {probes} | {1e3 * row['plain']:.2f} ms "
            f"| {1e3 * row['lens']:.2f} ms | {row['over_plain']:.1f}× "
            f"| {row['stated_over_plain']:.1f}× | {row['stated_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines)
