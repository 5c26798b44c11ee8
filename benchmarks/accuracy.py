"""First against second order on scikit-learn's digits (docs/mathematics.md, section 2)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from workloads import loss

from telescope_core import TelescopeLens

STEPS = (300, 1000, 3000)
LENSES = {
    "first order, every step": {"order": 1, "stride": 1},
    "first order, K = 10": {"order": 1, "stride": 10},
    "second order, K = 10": {"order": 2, "stride": 10},
}


def second_order_table() -> dict[str, Any]:
    """Mean |f − f̃| on 400 test points, MLP 64-64-64-1, SGD γ = .05, B = 100, n = 400.

    Returns:
        ``errors`` by step and model, and the same as a Markdown ``table``.
    """
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[:800]
    x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target[order] % 2, dtype=torch.float32)[:400]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    lenses = {
        name: TelescopeLens(
            model, optimizer, loss, x[:400], y, {"test": x[400:]}, probes=None, **options
        )
        for name, options in LENSES.items()
    }
    generator = torch.Generator().manual_seed(1)
    errors: dict[int, dict[str, float]] = {}
    for step in range(1, max(STEPS) + 1):
        index = torch.randperm(400, generator=generator)[:100]
        with ExitStack() as stack:
            for lens in lenses.values():
                stack.enter_context(lens.step(index))
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
        if step in STEPS:
            records = {name: lens.snapshot().to_record() for name, lens in lenses.items()}
            first = next(iter(records.values()))
            errors[step] = {"lazy": first["test/linearization_error"]}
            errors[step] |= {n: r["test/approximation_error"] for n, r in records.items()}
    names = ["lazy", *LENSES]
    rows = [f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for step, row in errors.items():
        rows.append(f"| {step} | {' | '.join(f'{row[name]:.1e}' for name in names)} |")
    return {"errors": errors, "table": "\n".join(rows)}
