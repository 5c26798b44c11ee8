"""The training runs that speeds are measured on."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from telescope_pipeline.study.networks.polynomial import PolynomialNetwork

DATA = "TELESCOPE_DATA"


@dataclass(frozen=True)
class Workload:
    """A training run: data, model, optimizer and the order of batches.

    Attributes:
        name: What it is.
        x: All rows, training rows first.
        y: Labels of the training rows.
        n: Number of training rows.
        make: Builds the model and its optimizer, the same every time.
        batch_size: Rows a step.
    """

    name: str
    x: Tensor
    y: Tensor
    n: int
    make: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]
    batch_size: int

    def batches(self, steps: int) -> Iterator[Tensor]:
        """Positions of each batch; the full batch in order where it is the batch size."""
        if self.batch_size == self.n:
            everything = torch.arange(self.n)
            for _ in range(steps):
                yield everything
            return
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            yield torch.randperm(self.n, generator=generator)[: self.batch_size]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """½(f − y)², averaged over the batch."""
    return 0.5 * (outputs - targets).square().mean()


def mlp_adamw() -> Workload:
    """MLP 64-200-200-1 with AdamW, B = 200."""
    x, y, n = images()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 200),
            nn.ReLU(),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, 1),
            nn.Flatten(0),
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.99), weight_decay=0.1
        )
        return model, optimizer

    return Workload("mlp-adamw", x, y, n, make, 200)


def wide_momentum() -> Workload:
    """One hidden ReLU layer of width 1000 with SGD momentum .95, B = 100."""
    x, y, n = images()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 1), nn.Flatten(0))
        return model, torch.optim.SGD(model.parameters(), lr=0.0025, momentum=0.95)

    return Workload("wide-momentum", x, y, n, make, 100)


def polynomial_gd() -> Workload:
    """The polynomial network of the grokking case, full-batch gradient descent."""
    generator = torch.Generator().manual_seed(0)
    d, n, rows = 100, 550, 1050
    x = torch.randn(rows, d, generator=generator) / d**0.5
    beta = torch.randn(d, generator=generator)
    y = 0.5 * (x[:n] @ beta).square()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = PolynomialNetwork(d, hidden=500, epsilon=0.2, seed=0)
        model = nn.Sequential(network, nn.Flatten(0))
        return model, torch.optim.SGD(model.parameters(), lr=500.0)

    return Workload("polynomial-gd", x, y, n, make, n)


def images() -> tuple[Tensor, Tensor, int]:
    """MNIST 3 against 5 at 8×8 from the data folder, n = 1000 of 2000 rows.

    Without the folder, scikit-learn's digits, odd against even: 1000 of 1797 rows.

    Returns:
        Inputs (rows, 64), float32, labels of the first n rows, and n.
    """
    folder = os.environ.get(DATA)
    if folder is None:
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.data))
        x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
        return x, torch.tensor(digits.target[order[:1000]] % 2, dtype=torch.float32), 1000
    pixels = _idx(Path(folder) / "mnist" / "train-images-idx3-ubyte.gz", 16)
    labels = _idx(Path(folder) / "mnist" / "train-labels-idx1-ubyte.gz", 8)
    chosen = np.flatnonzero((labels == 3) | (labels == 5))[:2000]
    square = torch.tensor(pixels.reshape(-1, 1, 28, 28)[chosen], dtype=torch.float32) / 255
    x = functional.interpolate(square, size=(8, 8), mode="area").flatten(1)
    return x, torch.tensor(labels[chosen[:1000]] == 5, dtype=torch.float32), 1000


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)
