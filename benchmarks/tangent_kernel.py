"""A tangent kernel in one call, beside the ways that are public: torch.func and neural-tangents.

The kernel of 2000 × 200 rows of the MLP 64-200-200-1, float32.  Sides of torch take turns in one
process: the one call with all its checks, a kernel that was checked before, and per-sample
Jacobians.  neural-tangents, where it works, has a fresh process with the same weights, rows and
number of cores; it was compiled before, so the kernel that was checked before is its counterpart.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from workloads import mlp_adamw

from telescope_core import TangentKernel, tangent_kernel

ROWS, OTHERS = 2000, 200
TOLERANCE = 1e-4
_WARM_UP, _ROUNDS, _CALLS_A_ROUND = 2, 9, 5
_OTHER_SCRIPT = Path(__file__).with_name("neural_tangents_kernel.py")


def measure(python: str = sys.executable, *, rows: int = ROWS, others: int = OTHERS) -> Any:
    """Median seconds of each side and how far the kernels are apart.

    Args:
        python: Interpreter that is asked for neural-tangents, which needs an old JAX.
        rows: Rows on one side of the kernel.
        others: Rows on the other side, the first ones.

    Returns:
        Figures by name, ready for JSON; those of neural-tangents are ``None`` without it.

    Raises:
        RuntimeError: The sides disagree by more than 1e-4 of the largest entry.
    """
    workload = mlp_adamw()
    model, _ = workload.make()
    # The digits are fewer than 2000: they are repeated, which no side can make use of.
    x = workload.x.repeat(-(-rows // len(workload.x)), 1)[:rows]
    kernel, seconds = side_by_side(model, x, x[:others])
    there = neural_tangents(python, model, x, kernel)
    if there is not None:
        _require_agreement("neural-tangents", there["difference"])
    compiled = None if there is None else there["seconds"]
    return {
        "rows": rows,
        "others": others,
        **seconds,
        "neural_tangents": compiled,
        "speed_up": seconds["torch_func"] / seconds["one_call"],
        "speed_up_again": seconds["torch_func"] / seconds["again"],
        "over_neural_tangents": None if compiled is None else compiled / seconds["again"],
    }


def side_by_side(model: nn.Module, x: Tensor, others: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The kernel, and the median seconds of ``one_call``, ``again`` and ``torch_func``."""
    kernel = tangent_kernel(model, x, others)[:, 0, :, 0]
    expected = by_torch_func(model, x, others)[..., 0, 0]
    _require_agreement("torch.func", float((kernel - expected).abs().max() / expected.abs().max()))
    del expected
    made = TangentKernel(model, x)
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "one_call": (lambda: tangent_kernel(model, x, others), _CALLS_A_ROUND),
        "again": (lambda: made(x, others), _CALLS_A_ROUND),
        "torch_func": (lambda: by_torch_func(model, x, others), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round in range(_WARM_UP + _ROUNDS):
        for name, (call, repetitions) in sides.items():
            taken = [_seconds(call) for _ in range(repetitions)]
            if round >= _WARM_UP:
                times[name].extend(taken)
    return kernel, {name: statistics.median(taken) for name, taken in times.items()}


def by_torch_func(model: nn.Module, x: Tensor, others: Tensor) -> Tensor:
    """Per-sample Jacobians of both sides, contracted one parameter after the other.

    Returns:
        Shape ``(rows, rows_other, k, k)``.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def output(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (row[None],)).flatten()

    per_sample = torch.func.vmap(torch.func.jacrev(output), in_dims=(None, 0))
    left, right = per_sample(parameters, x), per_sample(parameters, others)
    parts = [
        torch.einsum("Naf,Mbf->NMab", left[name].flatten(2), right[name].flatten(2))
        for name in parameters
    ]
    return torch.stack(parts).sum(0)


def neural_tangents(
    python: str, model: nn.Module, x: Tensor, kernel: Tensor
) -> dict[str, float] | None:
    """``seconds`` and ``difference`` of neural-tangents, or None where it does not work."""
    layers = [module for module in model if isinstance(module, nn.Linear)]
    arrays = {"x": x.numpy(), "kernel": kernel.numpy()}
    for number, layer in enumerate(layers):
        arrays[f"weight{number}"] = layer.weight.detach().numpy().T
        arrays[f"bias{number}"] = layer.bias.detach().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        done = subprocess.run(
            [python, str(_OTHER_SCRIPT), str(path), str(torch.get_num_threads())],
            stdout=subprocess.PIPE,
            # JAX looks for accelerators and says so.
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            text=True,
            check=False,
        )
    # It needs an old JAX, and with another one it fails at import or later; it then says why.
    if done.returncode:
        return None
    result: dict[str, float] | None = json.loads(done.stdout.splitlines()[-1])
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, dashes where a side is absent."""
    milliseconds = {
        name: "–" if result[name] is None else f"{1e3 * result[name]:.1f} ms"
        for name in ("one_call", "again", "torch_func", "neural_tangents")
    }
    ratio = result["over_neural_tangents"]
    lines = [
        f"| tangent kernel, {result['rows']} × {result['others']} rows | time "
        "| torch.func | neural-tangents |",
        "|---|---|---|---|",
        f"| seconds | | {milliseconds['torch_func']} | {milliseconds['neural_tangents']} |",
        f"| one call | {milliseconds['one_call']} | {result['speed_up']:.0f}× | |",
        f"| checked before | {milliseconds['again']} | {result['speed_up_again']:.0f}× "
        f"| {'–' if ratio is None else f'{ratio:.2f}×'} |",
    ]
    return "\n".join(lines)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _require_agreement(side: str, difference: float) -> None:
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the kernels of tangent_kernel and {side} differ by {difference:.1e} of the largest "
            f"entry, more than {TOLERANCE:.0e}: a speed of something wrong is worth nothing"
        )
