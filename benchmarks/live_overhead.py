"""What logging while training costs: the same run with and without ``log_to``, taking turns.

``python benchmarks/live_overhead.py [OUT.json]`` trains several copies of one run, as many steps as
there are between two records each in turn, at the default stride and interval.  A copy has the lens
alone, or also logs: to a list in memory, or to Weights & Biases (offline).  A turn takes processor
time of all threads, which says more than the clock on a machine that has other work, until its
record is with the tracker, although training does not wait for that.  Costs are medians over turns
of the ratio to the lens alone in the same turn, with half their interquartile range.

What a record costs is also measured by itself, which is finer: the snapshot on the one hand, and on
the other all that the thread does to hand it over.  Both are shown as shares of the steps between
two records with the lens alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench import environment
from torch import Tensor
from workloads import Workload, loss, mlp_adamw, wide_momentum

from telescope_core import Snapshot, TelescopeLens
from telescope_core.live import default_interval
from telescope_core.trackers import RunDescription, TrackedRun, open_tracker
from telescope_core.trackers.null import NullRun

_STRIDE = 10
_WORKLOADS = {
    "mlp-adamw, 30 probes": (mlp_adamw, {"probes": 30}),
    "wide-momentum, 46 probes": (wide_momentum, {"probes": 46}),
    "mlp-adamw, predictions only": (mlp_adamw, {"probes": None}),
}
_SIDES = ("lens", "memory", "wandb")


class Memory(NullRun):
    """Keeps rows in a list."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Keep a row."""
        self.rows.append((step, dict(record)))


class Counting(NullRun):
    """Counts the rows that a run has taken, and the time it took for them."""

    def __init__(self, run: TrackedRun) -> None:
        self.seconds: list[float] = []
        self._run = run

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Hand a row on."""
        started = time.thread_time()
        self._run.log(step, record)
        self.seconds.append(time.thread_time() - started)


class Timed(TelescopeLens):
    """A lens that knows what its snapshots took."""

    seconds: list[float]

    def snapshot(self) -> Snapshot:
        """Take one, by the clock."""
        started = time.thread_time()
        taken = super().snapshot()
        self.seconds.append(time.thread_time() - started)
        return taken


class Side:
    """One copy of the run.

    Args:
        workload: The run.
        options: Of the lens.
        name: One of ``_SIDES``.
        tracked: Where records go, for the sides that log.
    """

    def __init__(
        self, workload: Workload, options: dict[str, Any], name: str, tracked: TrackedRun | None
    ) -> None:
        self._x, self._y = workload.x, workload.y
        self._model, self._optimizer = workload.make()
        n = workload.n
        self.lens = Timed(
            self._model,
            self._optimizer,
            loss,
            self._x[:n],
            self._y,
            {"test": self._x[n:]},
            stride=_STRIDE,
            **options,
        )
        self.lens.seconds = []
        self._every = interval_of(options)
        self.sink = None if tracked is None else Counting(tracked)
        if self.sink is not None:
            self.lens.log_to(self.sink)

    def turn(self, batches: list[Tensor]) -> float:
        """Seconds a step over some batches, up to the next record or the one after."""
        started = time.process_time()
        for index in batches:
            with self.lens.step(index):
                self._optimizer.zero_grad()
                loss(self._model(self._x[index]), self._y[index]).backward()
                self._optimizer.step()
        if self.sink is not None:
            while len(self.sink.seconds) < self.lens.steps // self._every:
                time.sleep(1e-3)
        return (time.process_time() - started) / len(batches)


def interval_of(options: dict[str, Any]) -> int:
    """Steps from one record to the next."""
    return default_interval(_STRIDE, options["probes"] is not None)


def measure(name: str, turns: int, records: int, folder: Path) -> dict[str, Any]:
    """Seconds a step of the lens alone, and what the other sides cost on top, as shares of it."""
    build, options = _WORKLOADS[name]
    workload = build()
    chance = random.Random(0)
    with open_tracker("wandb", project="overhead", mode="offline", directory=folder) as tracker:
        word = "".join(c for c in name if c.isalnum())
        runs: dict[str, TrackedRun] = {"memory": Memory()}
        about = RunDescription(f"{word}-wandb", name, "overhead", "train")
        runs["wandb"] = tracker.start(about)
        sides = {each: Side(workload, options, each, runs.get(each)) for each in _SIDES}
        times: dict[str, list[float]] = {each: [] for each in _SIDES}
        steps = records * interval_of(options)
        batches = workload.batches((turns + 1) * steps)
        for number in range(turns + 1):
            chosen = [next(batches) for _ in range(steps)]
            for each in chance.sample(_SIDES, len(_SIDES)):
                seconds = sides[each].turn(chosen)
                if number:
                    times[each].append(seconds)
    costs = {}
    for each in _SIDES[1:]:
        ratios = [t / alone - 1 for t, alone in zip(times[each], times["lens"], strict=True)]
        quarters = statistics.quantiles(ratios, n=4)
        costs[each] = {
            "cost": statistics.median(ratios),
            "half_quartile_range": (quarters[2] - quarters[0]) / 2,
        }
    step = statistics.median(times["lens"])
    parts = {"snapshot": sides["memory"].lens.seconds}
    for each in ("memory", "wandb"):
        sink = sides[each].sink
        assert sink is not None
        parts[f"to {each}"] = sink.seconds
    return {
        "step": step,
        "interval": interval_of(options),
        "costs": costs,
        "record": {part: statistics.median(seconds) for part, seconds in parts.items()},
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--records", type=int, default=1, help="per turn")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: measure(name, asked.turns, asked.records, Path(folder)) for name in _WORKLOADS
        }
    print("| run | steps a record | with lens alone | memory | W&B |", end="")
    print(" snapshot | hand-over, memory | hand-over, W&B |")
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        between = result["interval"] * result["step"]
        shown = [
            f"{100 * c['cost']:.1f} ± {100 * c['half_quartile_range']:.1f} %"
            for c in result["costs"].values()
        ] + [f"{1e3 * t:.2f} ms, {100 * t / between:.2f} %" for t in result["record"].values()]
        start = f"| {name} | {result['interval']} | {1e3 * between:.0f} ms"
        print(f"{start} | {' | '.join(shown)} |")
    if asked.out is not None:
        everything = {"environment": environment(asked.threads), "overhead": results}
        asked.out.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
