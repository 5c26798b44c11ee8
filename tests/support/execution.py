"""A training run of a network with everything random in it, executed in one of many ways."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from telescope_core.lens import TelescopeLens

ROWS, WIDTH, OUTPUTS = 24, 5, 2


class Network(nn.Module):
    """Batch statistics, dropout and noise; on request recomputed, or under an autocast inside."""

    def __init__(self, recomputed: str | None = None, inside: torch.dtype | None = None) -> None:
        super().__init__()
        self.before, self.first = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.second, self.last = nn.Linear(8, 8), nn.Linear(8, OUTPUTS)
        self.recomputed, self.inside = recomputed, inside

    def body(self, x):
        x = self.drop(torch.tanh(self.norm(self.first(x))))
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return torch.tanh(self.second(x))

    def forward(self, x):
        with torch.autocast("cpu", self.inside) if self.inside else nullcontext():
            x = self.before(x)
            if self.recomputed and self.training and torch.is_grad_enabled():
                x = checkpoint(self.body, x, use_reentrant=self.recomputed == "reentrant")
            else:
                x = self.body(x)
            x = self.last(x)
        return x.float() if self.inside else x


def squared(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@dataclass
class Execution:
    """How training is run.

    Attributes:
        make: Makes the network.
        dtype: Of the network and its data.
        wrap: Makes of the network what training calls.
        autocast: Precision around the forward pass and the loss.
        scaler: Options of a ``GradScaler``.
        optimizer: Makes the optimizer.
        event: Called with the run and the number of the step, before each.
        sizes: Rows of the micro-batches of a step.
        clip: Largest norm of the gradient.
        infinite_at: The step whose gradient is spoilt.
        steps: How many.
    """

    make: Callable[[], nn.Module] = Network
    dtype: torch.dtype = torch.float64
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    autocast: torch.dtype | None = None
    scaler: dict[str, Any] | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd
    event: Callable[[Run, int], None] = field(default=lambda run, step: None)
    sizes: tuple[int, ...] = (8,)
    clip: float | None = None
    infinite_at: int | None = None
    steps: int = 4

    def but(self, **changes: Any) -> Execution:
        """The same with changes."""
        return replace(self, **changes)


class Run:
    """A training run; with a lens, followed."""

    def __init__(self, way: Execution, targets: torch.Tensor | None = None) -> None:
        self.way = way
        generator = torch.Generator().manual_seed(2)
        x, y, test = (
            torch.rand(*shape, generator=generator, dtype=torch.float64)
            for shape in ((ROWS, WIDTH), (ROWS, OUTPUTS), (7, WIDTH))
        )
        y = y if targets is None else targets
        self.x, self.y, self.test = (t.to(way.dtype) for t in (2 * x - 1, y, 2 * test - 1))
        torch.manual_seed(1)
        self.inner = way.make().to(way.dtype).train()
        self.model = way.wrap(self.inner)
        self.optimizer = way.optimizer(self.model)
        self.scaler = None if way.scaler is None else torch.amp.GradScaler("cpu", **way.scaler)
        self.lens: TelescopeLens | None = None

    def attach(self, probes="exact", **options):
        """Let a lens follow."""
        sets = {"test": self.test}
        if probes is None:
            self.lens = TelescopeLens(self.model, eval_sets=sets, stride=2, **options)
        else:
            options = {"stride": 1, "curvature": "full", **options}
            told = (self.model, self.optimizer, squared, self.x, self.y, sets)
            self.lens = TelescopeLens(*told, probes=probes, **options)
        return self

    def train(self):
        """Take all steps."""
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(3)
        for step in range(self.way.steps):
            self.way.event(self, step)
            index = torch.randperm(ROWS, generator=generator)[: sum(self.way.sizes)]
            with self.lens.step(index) if self.lens else nullcontext():
                self._step(index, step)
        return self

    def _step(self, index, step):
        way, scaler, optimizer = self.way, self.scaler, self.optimizer
        optimizer.zero_grad()
        for part in index.split(list(way.sizes)):
            with torch.autocast("cpu", way.autocast) if way.autocast else nullcontext():
                loss = squared(self.model(self.x[part]), self.y[part]) * (len(part) / len(index))
            (scaler.scale(loss) if scaler else loss).backward()
        if step == way.infinite_at:
            self.inner.last.weight.grad[0, 0] = torch.inf
        if way.clip is not None:
            if scaler:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), way.clip)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    def predictions(self):
        """The network's outputs on the test rows in evaluation mode."""
        self.inner.eval()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            outputs = self.inner(self.test)
        self.inner.train()
        return outputs

    def state(self):
        """Everything that training has: parameters, buffers, gradients, streams, scales."""
        held = [v for s in self.optimizer.state.values() for v in s.values() if v is not None]
        gradients = [p.grad for p in self.inner.parameters() if p.grad is not None]
        scales = {} if self.scaler is None else self.scaler.state_dict()
        tensors = [*self.inner.state_dict().values(), *gradients]
        return [*tensors, *map(torch.as_tensor, [*held, *scales.values()]), torch.get_rng_state()]


def assert_same_training(way: Execution, **options: Any) -> TelescopeLens:
    """Training has the same bits with and without the lens, which is given back."""
    plain = Run(way).train().state()
    followed = Run(way).attach(**options).train()
    assert followed.lens is not None
    followed.lens.snapshot()
    state = followed.state()
    assert len(plain) == len(state)
    assert all(torch.equal(a, b) for a, b in zip(plain, state, strict=True))
    outputs = followed.predictions()
    rounding = 8 * torch.finfo(outputs.dtype).eps
    gap = (followed.lens.predictions("test") - outputs).abs().max()
    assert gap <= rounding * (1 + outputs.abs().max())
    return followed.lens


def direction() -> torch.Tensor:
    """A direction of the labels."""
    generator = torch.Generator().manual_seed(8)
    return torch.randn(ROWS, OUTPUTS, generator=generator, dtype=torch.float64)


def retrained(way: Execution, step: float = 1e-5) -> torch.Tensor:
    """Differences of predictions after training with labels moved along the direction."""
    y = Run(way.but(dtype=torch.float64)).y
    ends = [Run(way, y + s * step * direction()).train().predictions() for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


def along(lens: TelescopeLens) -> torch.Tensor:
    """What the smoother says about the same."""
    S = lens.smoother("test", reading="end-to-end")
    return torch.einsum("xkny,ny->xk", S.double(), direction())
