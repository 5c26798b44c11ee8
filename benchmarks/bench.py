"""Side-by-side timings: the lens, the straightforward way and plain training.

``python benchmarks/bench.py OUT.json`` runs every measurement on this machine, one after the other,
writes the figures with the environment and prints tables; ``--only modes`` measures that part again
(all modes side by side, within a minute) and leaves the others as they are.  Speeds are medians and
are to be read as ratios within one run; peak memory, beyond that of plain training and with 64
probes where there are probes, comes from a fresh process for each side.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost
import modes
import tangent_kernel
import torch
from accuracy import second_order_table
from estimates import estimates_table, exactness_table, measure_estimates, measure_exactness
from straightforward import Straightforward
from torch import Tensor
from workloads import Workload, loss, mlp_adamw, polynomial_gd, wide_momentum

from telescope_core import TelescopeLens

# With two columns for S·Y + c, 30 and 46 probes are 32 and 48 columns: matrix products like
# multiples of 16.
WORKLOADS: dict[str, tuple[Callable[[], Workload], dict[str, Any]]] = {
    "mlp-adamw": (mlp_adamw, {"probes": 30, "stride": 12}),
    "polynomial-gd": (polynomial_gd, {"probes": "exact", "stride": 48}),
    "wide-momentum": (wide_momentum, {"probes": 46, "stride": 25}),
}
_MEMORY_OPTIONS = {"probes": 64}
PARTS = (
    *("speed", "predictions-only", "modes", "cost", "estimates", "exactness"),
    *("tangent-kernel", "second-order"),
)
SIDES = ("plain", "lens", "straightforward")
_BLOCKS = 5
_REFERENCE_STEPS = 4


def main() -> None:
    """Run what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("benchmarks/results.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--neural-tangents",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter that has neural-tangents (this one); without it that figure is left out",
    )
    parser.add_argument("--only", choices=PARTS, help="measure this part again, keep the others")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--workload", choices=WORKLOADS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.memory is not None:
        run_side(asked.memory, asked.workload)
        print(own_peak())
        return
    parts: dict[str, Callable[[], Any]] = {
        "speed": lambda: {name: measure_speed(name) for name in WORKLOADS},
        "predictions-only": measure_predictions,
        "modes": modes.measure,
        "cost": cost.measure,
        "estimates": lambda: {
            name: measure_estimates(build(), options)
            for name, (build, options) in WORKLOADS.items()
            if options["probes"] != "exact"
        },
        "exactness": lambda: {
            name: measure_exactness(build(), options)
            for name, (build, options) in WORKLOADS.items()
            if options["probes"] == "exact"
        },
        "tangent-kernel": lambda: tangent_kernel.measure(asked.neural_tangents),
        "second-order": second_order_table,
    }
    results = {} if asked.only is None else json.loads(asked.out.read_text())
    results["environment"] = environment(asked.threads)
    for part, measure in parts.items():
        if asked.only in (None, part):
            results[part] = measure()
    asked.out.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results) if asked.only is None else json.dumps(results[asked.only], indent=2))
    if "modes" in results:
        print(f"\n{modes.table(results['modes'])}\n\nagain: {modes.COMMAND}")


def measure_speed(name: str) -> dict[str, float]:
    """Seconds a step of each side, their ratios, and peak memory."""
    build, options = WORKLOADS[name]
    workload = build()
    stride = int(options["stride"])
    plain = seconds_a_step(*plain_training(workload), 2, stride)
    with_lens = seconds_a_step(*lens_training(workload, options), _BLOCKS, stride)
    reference = seconds_a_step(*straightforward_training(workload), _REFERENCE_STEPS, 1)
    baseline = peak_memory("plain", name)
    memory = {side: peak_memory(side, name) - baseline for side in ("lens", "straightforward")}
    return {
        "plain": plain,
        "lens": with_lens,
        "straightforward": reference,
        "speed_up": reference / with_lens,
        "over_plain": with_lens / plain,
        "lens_bytes": memory["lens"],
        "straightforward_bytes": memory["straightforward"],
        "memory_ratio": memory["straightforward"] / memory["lens"],
    }


def measure_predictions() -> dict[str, float]:
    """Predictions only on 1000 test points beside plain training, stride 10."""
    workload = mlp_adamw()
    plain = seconds_a_step(*plain_training(workload), 20, 10)
    options = {"probes": None, "stride": 10, "follow_train": False}
    lens = seconds_a_step(*lens_training(workload, options), 20, 10)
    return {"plain": plain, "lens": lens, "over_plain": lens / plain}


def plain_training(workload: Workload) -> tuple[Workload, Callable[[Tensor], None]]:
    """A training step and nothing else."""
    model, optimizer = workload.make()

    def step(index: Tensor) -> None:
        optimizer.zero_grad()
        loss(model(workload.x[index]), workload.y[index]).backward()
        optimizer.step()

    return workload, step


def lens_training(
    workload: Workload, options: dict[str, Any]
) -> tuple[Workload, Callable[[Tensor], None]]:
    """A training step with the lens attached."""
    model, optimizer = workload.make()
    x, n = workload.x, workload.n
    lens = TelescopeLens(model, optimizer, loss, x[:n], workload.y, {"test": x[n:]}, **options)

    def step(index: Tensor) -> None:
        with lens.step(index):
            optimizer.zero_grad()
            loss(model(x[index]), workload.y[index]).backward()
            optimizer.step()

    return workload, step


def straightforward_training(workload: Workload) -> tuple[Workload, Callable[[Tensor], None]]:
    """A training step of the reference."""
    model, optimizer = workload.make()
    reference = Straightforward(model, optimizer, workload.x, workload.n)
    return workload, lambda index: reference.step(index, workload.y)


def seconds_a_step(
    workload: Workload, step: Callable[[Tensor], None], blocks: int, stride: int
) -> float:
    """Median over blocks of the mean time of a step, after one block that is not counted."""
    times = []
    batches = workload.batches((blocks + 1) * stride)
    for _ in range(blocks + 1):
        started = time.perf_counter()
        for _ in range(stride):
            step(next(batches))
        times.append((time.perf_counter() - started) / stride)
    return statistics.median(times[1:])


def run_side(side: str, name: str) -> None:
    """A few steps of one side, for its peak memory."""
    build, options = WORKLOADS[name]
    if options["probes"] != "exact":
        options = options | _MEMORY_OPTIONS
    sides = {
        "plain": plain_training,
        "lens": lambda w: lens_training(w, options),
        "straightforward": straightforward_training,
    }
    workload, step = sides[side](build())
    for index in workload.batches(int(options["stride"]) + 1 if side == "lens" else 2):
        step(index)


def peak_memory(side: str, name: str) -> int:
    """Peak resident bytes of a fresh process that trains in one of the ways."""
    # In the same working directory, since the folder with the data may be relative to it.
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, __file__, "--memory", side, "--workload", name, "--threads", threads],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def own_peak() -> int:
    """Peak resident bytes of this process (Linux: getrusage would count the parent's, too)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def environment(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": threads,
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| work | straightforward | lens | speed-up | over plain training | memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results["speed"].items():
        lines.append(
            f"| {name} | {r['straightforward']:.3f} s | {1e3 * r['lens']:.1f} ms "
            f"| {r['speed_up']:.0f}× | {r['over_plain']:.1f}× | 1/{r['memory_ratio']:.0f} |"
        )
    r = results["predictions-only"]
    lines.append(f"| predictions only | | {1e3 * r['lens']:.2f} ms | | {r['over_plain']:.2f}× | |")
    lines += ["", cost.table(results["cost"])]
    lines += ["", estimates_table(results["estimates"])]
    lines += ["", exactness_table(results["exactness"])]
    lines += ["", tangent_kernel.table(results["tangent-kernel"])]
    return "\n".join([*lines, "", results["second-order"]["table"]])


if __name__ == "__main__":
    main()
