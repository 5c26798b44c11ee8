"""Inputs other than the stored ones enter the open block alone (the closed ones had the stored)."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from telescope_core.lens import TelescopeLens
from telescope_core.testing import assert_agrees

D = torch.float64
STEPS, STRIDE = 8, 3


class Features(nn.Module):
    """Linear in its parameters, not in its inputs."""

    def __init__(self):
        super().__init__()
        self.projection: torch.Tensor
        self.register_buffer("projection", torch.randn(4, 6))
        self.readout = nn.Linear(6, 1, bias=False)

    def features(self, x):
        return torch.tanh(x @ self.projection)

    def forward(self, x):
        return self.readout(self.features(x))[:, 0]


def mean_square(f, y):
    return ((f - y) ** 2).mean()


@pytest.mark.parametrize(
    "options",
    [{"order": 1}, {"order": 2}, {"order": 2, "strategy": "midpoint"}],
    ids=["first", "trapezoid", "midpoint"],
)
@pytest.mark.parametrize("told", [True, False], ids=["told", "seen"])
def test_the_smoother_of_augmented_training(options, told):
    torch.manual_seed(0)
    model = Features().double()
    x, y = torch.randn(7, 4, dtype=D), torch.randn(7, dtype=D)
    optimizer = SGD(model.parameters(), lr=0.2)
    lens = TelescopeLens(
        model, optimizer, mean_square, x, y, stride=STRIDE, probes="exact", **options
    )
    stored, A, A_start = model.features(x), torch.zeros(6, 7, dtype=D), torch.zeros(6, 7, dtype=D)
    for step in range(STEPS):
        index = torch.randperm(7)[:3]
        seen = x[index] + 0.4 * torch.randn(3, 4, dtype=D)
        J = model.features(seen)
        # S_B = J(x_B) A_s of the closed blocks, and what has moved since on the rows seen now.
        S_B = stored[index] @ A_start + J @ (A - A_start)
        with lens.step(index, inputs=seen if told else None):
            optimizer.zero_grad()
            mean_square(model(seen), y[index]).backward()
            optimizer.step()
        V_B = torch.eye(7, dtype=D)[index]
        A = A - 0.2 * J.T @ ((S_B - V_B) * 2 / 3)
        if (step + 1) % STRIDE == 0:
            A_start = A
        assert_agrees(lens.smoother("train"), stored @ A, tolerance=1e-10, what=f"S after {step}")
