"""The cost of a run is estimated before it, from copies: nothing changes to the bit."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from telescope_core import TelescopeLens
from telescope_core.errors import ConfigurationError, ModelError
from telescope_core.lens.cost import Cost

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
Y = X[:, 0] * X[:, 1]


class _Network(nn.Module):
    """A buffer, and a counter that every pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
        self.register_buffer("shift", torch.tensor(0.5))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(x) + self.shift


def _run(estimate: bool, **options: Any) -> tuple[Any, ...]:
    """Parameters, optimizer, streams and record of a run; with an estimate before and within."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model = _Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss = nn.MSELoss()
    lens = TelescopeLens(model, optimizer, loss, X[:30], Y[:30], {"test": X[30:]}, **options)
    for step in range(7):
        if estimate and step in (0, 4):
            before = model.calls
            lens.estimate_cost(10)
            assert model.calls == before
        index = torch.randperm(30)[:10]
        with lens.step(index):
            optimizer.zero_grad()
            loss(model(X[index]), Y[index]).backward()
            optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters()]
    streams = torch.rand(3), random.random(), np.random.rand()
    state = optimizer.state_dict()["state"]
    moments = [value for each in state.values() for value in each.values()]
    return (
        [*model.state_dict().values(), *gradients, *moments, streams[0]],
        [*streams[1:], model.calls, lens.snapshot().to_record()],
        lens.state_dict()["tensors"],
    )


@pytest.mark.parametrize("options", [{"probes": 6, "stride": 3}, {"probes": None, "stride": 2}])
def test_nothing_changes_to_the_bit(options: dict[str, Any]) -> None:
    tensors, values, state = _run(False, **options)
    after, values_after, state_after = _run(True, **options)
    assert all(torch.equal(a, b) for a, b in zip(tensors, after, strict=True))
    assert values == values_after
    assert all(torch.equal(state[name], state_after[name]) for name in state)


@pytest.mark.parametrize(
    ("optimizer", "options", "strategy"),
    [
        (torch.optim.AdamW, {"probes": 8, "stride": 50}, "midpoint"),
        (torch.optim.AdamW, {"probes": "exact", "stride": 1}, "parameter-space"),
        (torch.optim.SGD, {"probes": "exact", "stride": 2}, "function-space"),
        (torch.optim.SGD, {"probes": None}, None),
    ],
)
def test_the_engine_is_the_one_that_the_run_will_have(
    optimizer: Any, options: dict[str, Any], strategy: str | None
) -> None:
    model = _Network()
    its = optimizer(model.parameters(), lr=0.01)
    lens = TelescopeLens(model, its, nn.MSELoss(), X, Y, **options)
    cost = lens.estimate_cost()
    assert (cost.strategy, cost.batch_size) == (strategy, 40)
    assert cost.stride == options.get("stride", 10)
    assert lens.strategy is None
    assert (cost.smoother_bytes > 0) == (strategy is not None)
    assert min(cost.plain_seconds, cost.lens_seconds, cost.record_seconds) > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_training_that_is_run_again_can_be_rehearsed(streamed: bool) -> None:
    model = nn.Sequential(_Network(), nn.Unflatten(0, (-1, 1)), nn.BatchNorm1d(1), nn.Dropout(0.1))
    its = torch.optim.SGD(model.parameters(), lr=0.01)
    rows = TensorDataset(X, Y[:, None])
    source = (DataLoader(rows, batch_size=8),) if streamed else rows.tensors
    lens = TelescopeLens(model, its, nn.MSELoss(), *source, probes=2, stride=3)
    before = [*(t.clone() for t in model.state_dict().values()), torch.get_rng_state()]
    cost = lens.estimate_cost(8)
    assert (cost.strategy, cost.batch_size) == ("replayed", 8)
    after = [*model.state_dict().values(), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


_PEAK = """
import torch
from pathlib import Path
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from telescope_core import TelescopeLens

def peak():
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(),
                      nn.Linear(300, 1), nn.Flatten(0))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loss = nn.MSELoss()
x, y = torch.randn(300, 64), torch.randn(300)

def step():
    optimizer.zero_grad()
    loss(model(x[:50]), y[:50]).backward()
    optimizer.step()

for _ in range(3):
    step()
lens = TelescopeLens(model, optimizer, loss, x, y, {"test": x[:50]}, probes=64, stride=3)
before = peak()
for _ in range(6):
    with lens.step(torch.arange(50)):
        step()
lens.snapshot()
measured = peak() - before
print(measured, lens.estimate_cost(50).smoother_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_bytes_are_those_of_the_peak_within_a_factor_of_three() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured, stated = map(int, done.stdout.split())
    assert stated > 30e6
    assert 1 / 1.5 < measured / stated < 3


def test_it_reads_as_a_sentence() -> None:
    cost = Cost(50, 10, "midpoint", 0.001, 0.0183, 1.25, 0.0124, 71_000_000)
    assert cost.ratio == pytest.approx(18.3)
    assert str(cost) == (
        "18.3 times plain training: 18.3 ms a step instead of 1.0 ms (batches of 50, blocks of 10, "
        "midpoint); once 1.2 s, a record 12.4 ms; the smoother holds 71.0 MB"
    )


def test_what_a_refusal_has_given_up_costs_nothing() -> None:
    model = _Network()
    optimizer = torch.optim.Rprop(model.parameters())
    with pytest.warns(UserWarning, match="Rprop"):
        lens = TelescopeLens(model, optimizer, nn.MSELoss(), X, Y, on_refusal="warn")
    assert lens.estimate_cost(10).strategy is None


@pytest.mark.parametrize("size", [0, 41, 2.5])
def test_refuses_batches_that_there_are_not(size: Any) -> None:
    model = _Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lens = TelescopeLens(model, optimizer, nn.MSELoss(), X, Y, probes=2)
    with pytest.raises(ConfigurationError, match="batch_size"):
        lens.estimate_cost(size)


def test_says_so_if_the_model_cannot_be_copied() -> None:
    model = _Network()
    model.kept = model.layers(X)  # No leaf, so no deepcopy.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lens = TelescopeLens(model, optimizer, nn.MSELoss(), X, Y, probes=2)
    with pytest.raises(ModelError, match="cannot be copied"):
        lens.estimate_cost(10)
