"""The kernel of neural-tangents in a process of its own, without torch.

``python neural_tangents_kernel.py ARRAYS.npz CORES`` prints ``null`` where neural-tangents cannot
be imported, and otherwise its median seconds and how far its kernel is from the one in the file.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_WARM_UP, _ROUNDS = 2, 15


def main() -> None:
    """Measure, and print one line of JSON."""
    path, cores = Path(sys.argv[1]), int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):
        # Before JAX is imported, which starts a thread a core.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    try:
        import jax
        import neural_tangents
    except ImportError as error:
        print(f"neural-tangents is left out: {error}", file=sys.stderr)
        print("null")
        return
    print(json.dumps(measure(dict(np.load(path)), jax, neural_tangents)))


def measure(arrays: dict[str, np.ndarray], jax: Any, neural_tangents: Any) -> dict[str, float]:
    """Median seconds of the jitted kernel function with structured derivatives."""
    layers = range(sum(name.startswith("weight") for name in arrays))
    parameters = [(arrays[f"weight{i}"], arrays[f"bias{i}"]) for i in layers]
    x, others = arrays["x"], arrays["x"][: arrays["kernel"].shape[1]]

    def network(values: Any, rows: Any) -> Any:
        *hidden, (weight, bias) = values
        for w, b in hidden:
            rows = jax.nn.relu(rows @ w + b)
        return rows @ weight + bias

    of_rows = neural_tangents.empirical_ntk_fn(
        network,
        trace_axes=(),
        vmap_axes=0,
        implementation=neural_tangents.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    kernel = jax.jit(of_rows)
    given = jax.device_put((x, others, parameters))
    seconds = []
    for _ in range(_WARM_UP + _ROUNDS):
        started = time.perf_counter()
        result = kernel(*given).block_until_ready()
        seconds.append(time.perf_counter() - started)
    found = np.asarray(result)[:, :, 0, 0]
    difference = np.abs(found - arrays["kernel"]).max() / np.abs(found).max()
    return {"seconds": statistics.median(seconds[_WARM_UP:]), "difference": float(difference)}


if __name__ == "__main__":
    main()
