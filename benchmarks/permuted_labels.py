"""Does a gap between p_train and p_test announce generalisation?  The same run on permuted labels.

The network, the optimizer and the data of the case ``grokking_network``, 150 digits (odd or even),
once with their labels and once with the same labels permuted.  Prints, per seed and step, effective
parameters, (p_train − p_test) / p_test and accuracies; see docs/mathematics.md, section 12.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from telescope_core import TelescopeLens
from telescope_pipeline.cases.grokking_network.training.train import scaled_network
from telescope_pipeline.study.training.measures import accuracy, half_squared_error

TRAIN, ROWS, STEPS, WARMUP, RATE = 150, 450, 600, 100, 1e-3
SHOWN = (80, 152, 300, 600)


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Images (450, 64) from 0 to 1 and whether the digit is odd, the first 150 to train on."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.data))[:ROWS]
    x = torch.tensor(data.data[order] / 16, dtype=torch.float32)
    return x, torch.tensor(data.target[order] % 2, dtype=torch.float32)


def show(seed: int, permuted: bool) -> None:
    """Train one network and print its records."""
    x, labels = digits(seed)
    y = labels[:TRAIN].clone()
    if permuted:
        y = y[torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))]
    model = scaled_network(64, [50, 50], 4.0, "linear", seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.4)
    sets = {"test": x[TRAIN:]}
    lens = TelescopeLens(
        model, optimizer, half_squared_error, x[:TRAIN], y, sets, stride=4, probes=32, deflate=0
    )
    everything = torch.arange(TRAIN)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = RATE * min(1, step / WARMUP)
        with lens.step(everything):
            optimizer.zero_grad()
            half_squared_error(model(x[:TRAIN]), y).backward()
            optimizer.step()
        if step in SHOWN:
            record = lens.snapshot().to_record()
            p_train, p_test = (record[f"{s}/effective_parameters"] for s in ("train", "test"))
            right = accuracy(lens.predictions("train"), y)
            clean = accuracy(lens.predictions("test"), labels[TRAIN:])
            print(
                f"seed {seed} {'permuted' if permuted else 'true':8} step {step:3} "
                f"p_train {p_train:6.1f} p_test {p_test:6.1f} gap/p_test "
                f"{(p_train - p_test) / p_test:.2f} accuracy {right:.2f} {clean:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    for number in (0, 1):
        for flag in (False, True):
            show(number, flag)
