"""The costs of all ways to follow one network, beside plain training, in turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from workloads import Workload, loss, mlp_adamw

from telescope_core import TelescopeLens

COMMAND = "python benchmarks/bench.py --only modes"
STRIDE, PROBES = 10, 32
_ROUNDS = 5
_SGD, _MOMENTUM, _DROPOUT = "SGD", "SGD with momentum", "SGD with momentum, dropout"
_REPLAYED = {"probes": PROBES, "deflate": 0, "follow_train": True}
_SMOOTHER = {"probes": PROBES}

# Beside which plain training each mode is held, and what the lens is asked for.
MODES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "plain": (_SGD, None),
    "predictions only": (_SGD, {"probes": None, "follow_train": False}),
    "kernel norms": (_SGD, {"probes": None, "kernel_norms": True}),
    "function space": (_SGD, {**_SMOOTHER, "strategy": "function-space"}),
    "midpoint": (_SGD, {**_SMOOTHER, "strategy": "midpoint"}),
    "parameter space": (_SGD, {**_SMOOTHER, "strategy": "parameter-space"}),
    "plain, momentum": (_MOMENTUM, None),
    "function space with momentum": (_MOMENTUM, {**_SMOOTHER, "strategy": "function-space"}),
    "plain, dropout": (_DROPOUT, None),
    "replayed, Gauss–Newton": (_DROPOUT, _REPLAYED),
    "replayed, full curvature": (_DROPOUT, {**_REPLAYED, "curvature": "full"}),
    "streamed": (_DROPOUT, {**_REPLAYED, "follow_train": False, "train_rows": 10**6}),
}


@dataclass
class _Side:
    """One way to train, with the seconds of a step in each round."""

    step: Callable[[Tensor], None]
    seconds: list[float]


def measure(rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """A row for every mode.

    Args:
        rounds: Blocks of ten steps of every mode, in turns.

    Returns:
        Seconds of a step, and over those of plain training with the same optimizer and layers.
    """
    workload = mlp_adamw()
    sides = {name: _Side(_stepper(workload, *MODES[name]), []) for name in MODES}
    names = list(sides)
    for number in range(rounds + 1):
        # Another one first every time, so that drifts of the machine weigh on all alike.
        turn = number % len(names)
        batches = list(workload.batches(STRIDE))
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            repeats = 1 if MODES[name][1] else 5
            for _ in range(repeats):
                for index in batches:
                    sides[name].step(index)
            took = time.perf_counter() - started
            sides[name].seconds.append(took / (repeats * STRIDE))
    medians = {name: statistics.median(side.seconds[1:]) for name, side in sides.items()}
    plain = {MODES[name][0]: medians[name] for name in MODES if MODES[name][1] is None}
    return [
        {
            "mode": name,
            "training": training,
            "seconds": medians[name],
            "over_plain": medians[name] / plain[training],
        }
        for name, (training, _) in MODES.items()
    ]


def _stepper(
    workload: Workload, training: str, options: dict[str, Any] | None
) -> Callable[[Tensor], None]:
    torch.manual_seed(0)
    masks = [nn.Dropout(0.1)] if training == _DROPOUT else []
    hidden = [nn.Linear(64, 200), nn.ReLU(), *masks, nn.Linear(200, 200), nn.ReLU(), *masks]
    model = nn.Sequential(*hidden, nn.Linear(200, 1), nn.Flatten(0))
    momentum = 0.0 if training == _SGD else 0.9
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
    x, y, n = workload.x, workload.y, workload.n
    lens = None
    if options is not None:
        sets = {"test": x[n:]}
        lens = TelescopeLens(model, optimizer, loss, x[:n], y, sets, stride=STRIDE, **options)

    def train(index: Tensor) -> None:
        optimizer.zero_grad()
        loss(model(x[index]), y[index]).backward()
        optimizer.step()

    def follow(index: Tensor) -> None:
        with lens.step(index, **({"targets": y[index]} if "train_rows" in options else {})):
            train(index)

    return train if lens is None else follow


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| mode ({PROBES} probes, stride {STRIDE}) | training | a step | over plain |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['mode']} | {row['training']} | {1e3 * row['seconds']:.2f} ms "
        f"| {row['over_plain']:.2f}× |"
        for row in rows
    ]
    return "\n".join(lines)
