"""How far are the smoother's readings from retraining, with the network's curvature and without?

A convolutional network with batch statistics, dropout and shifted images on 100 digits, trained by
SGD with momentum (at two rates) and by AdamW in float64.  Labels are moved along random directions,
by a little to either side, and the network is trained again at the same masks, order and shifts.
Prints, per optimizer and reading, the relative error of the derivatives of predictions on other
digits, and their correlation with those of retraining; see docs/mathematics.md, section 13.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from telescope_core import TelescopeLens
from telescope_core.network.layout import ParameterLayout
from telescope_core.smoother import Curvature

ROWS, OTHERS, BATCH, STEPS, DIRECTIONS, SHIFT = 100, 50, 25, 60, 8, 1e-5
OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "SGD, momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "SGD, slowly": (torch.optim.SGD, {"lr": 0.005, "momentum": 0.9}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.003, "weight_decay": 0.01}),
}


class Digits(nn.Module):
    """Two convolutions with batch statistics, pooled, and dropout before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.MaxPool2d(2),
        )
        self.last = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Ten numbers for each image."""
        outputs: Tensor = self.last(self.features(x))
        return outputs


def loss(f: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of a row."""
    return 0.5 * (f - y).square().sum() / len(f)


class Training:
    """One training run, always with the same network, order, masks and shifts."""

    def __init__(self, name: str, moved_by: Tensor | None = None) -> None:
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.data))[: ROWS + OTHERS]
        images = torch.tensor(data.images[order] / 16)[:, None]
        self.x, self.others = images[:ROWS], images[ROWS:]
        self.y = nn.functional.one_hot(torch.tensor(data.target[order[:ROWS]]), 10).double()
        self.y = self.y if moved_by is None else self.y + moved_by
        torch.manual_seed(1)
        self.model = Digits().double()
        make, options = OPTIMIZERS[name]
        self.optimizer = make(self.model.parameters(), **options)

    def run(self, lens: TelescopeLens | None = None) -> Tensor:
        """Train, and predict the other images."""
        generator = torch.Generator().manual_seed(2)
        torch.manual_seed(3)
        for step in range(STEPS):
            if step % (ROWS // BATCH) == 0:
                order = torch.randperm(ROWS, generator=generator)
            index = order[(step * BATCH) % ROWS :][:BATCH]
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            rows = self.x[index].roll(shift, dims=(2, 3))
            if lens is None:
                self._step(rows, index)
            else:
                with lens.step(index):
                    self._step(rows, index)
        self.model.eval()
        with torch.no_grad():
            outputs: Tensor = self.model(self.others)
        self.model.train()
        return outputs

    def _step(self, rows: Tensor, index: Tensor) -> None:
        self.optimizer.zero_grad()
        loss(self.model(rows), self.y[index]).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def columns(name: str, curvature: Curvature) -> tuple[Tensor, dict[str, Tensor]]:
    """Label directions (ROWS, 10, DIRECTIONS), and S along them by reading."""
    training = Training(name)
    lens = TelescopeLens(
        *(training.model, training.optimizer, loss, training.x, training.y),
        {"others": training.others},
        curvature=curvature,
        probes=DIRECTIONS,
        deflate=0,
        stride=1,
    )
    training.run(lens)
    held = lens.state_dict()["tensors"]
    model = training.model.eval()
    statistics = {n: b for n, b in model.named_buffers() if b.is_floating_point()}
    layout = ParameterLayout({**dict(model.named_parameters()), **statistics})
    Z = held["engine/Z/current"]
    without_D = Z.clone()
    without_D[sum(p.numel() for p in model.parameters()) :] = 0
    S = {
        "end-to-end": tangent(model, layout, Z, training.others),
        "end-to-end, without D": tangent(model, layout, without_D, training.others),
        "telescoped": held["engine/Z/settled/others"],
    }
    return held["directions/basis"], S


def tangent(model: nn.Module, layout: ParameterLayout, Z: Tensor, rows: Tensor) -> Tensor:
    """How predictions move with parameters and statistics along Z, (rows, 10, columns)."""
    z = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lines = []
    with torch.no_grad():
        for column in Z.T:
            along = layout.unflatten(column)
            ahead, behind = (
                functional_call(
                    model, z | {n: z[n] + s * SHIFT * v for n, v in along.items()}, rows
                )
                for s in (1, -1)
            )
            lines.append((ahead - behind) / (2 * SHIFT))
    return torch.stack(lines, dim=-1)


def retrained(name: str, V: Tensor) -> Tensor:
    """The derivative of predictions along each direction of labels, (OTHERS, 10, DIRECTIONS)."""
    lines = []
    for v in V.movedim(-1, 0):
        ahead, behind = (Training(name, s * SHIFT * v).run() for s in (1, -1))
        lines.append((ahead - behind) / (2 * SHIFT))
    return torch.stack(lines, dim=-1)


def show(name: str) -> None:
    """Print the rows of one optimizer."""
    expected: Tensor | None = None
    for curvature in get_args(Curvature):
        V, S = columns(name, curvature)
        expected = retrained(name, V) if expected is None else expected
        for reading, found in S.items():
            error = float((found - expected).norm() / expected.norm())
            pair = torch.stack([found.flatten(), expected.flatten()])
            print(
                f"{name:14} {curvature:12} {reading:22} relative error {error:.2g} "
                f"correlation {float(torch.corrcoef(pair)[0, 1]):.4f}",
                flush=True,
            )


if __name__ == "__main__":
    for each in OPTIMIZERS:
        show(each)
