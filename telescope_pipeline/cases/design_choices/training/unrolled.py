r"""A member's run once more in float64, written out in closed form and compared with the lens.

The closed forms of :mod:`telescope_core.closed_forms` give every θ as a sum over the initial
parameters and all past gradients; ``Δf̃_t = J_{t−1} Δθ_t`` then gives first-order predictions at
every step.  This is done for two paths:

* the network's own, with the gradients of its real residuals: its telescoped predictions f̃;
* the smoother's, with the gradients of its own residuals ``f̃^S − Y``: S·Y + c
  (docs/mathematics.md, section 3.3).

The lens gets there through its update rules, step by step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from telescope_core.closed_forms import (
    averaging_weights,
    momentum_weights,
    unroll,
    unroll_adaptive,
)
from telescope_pipeline.cases.design_choices.schema import Choice
from telescope_pipeline.study.training.loop import Batches, attach_lens
from telescope_pipeline.study.training.measures import half_squared_error
from telescope_pipeline.study.training.optimizers import optimizer_of

_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Unrolled:
    """What the closed form of a run of T steps says, float64.

    Attributes:
        prediction_error: Largest |f̃ closed form − f̃ of the lens| on test points at the compared
            steps so far, over the largest prediction, ``(T + 1,)``.
        smoother_error: The same for S·Y + c.
        weights: Weight of every step's gradient in θ_T, over γ, the mean over parameters; in front
            that of θ_0 in θ_T, ``(T + 1,)``.
        shares: Norms of the contributions of steps 1 to t to θ_T, as a part of those of all steps,
            ``(T + 1,)``.
        rates: 10th, 50th and 90th percentile of ``γ P_t`` over the parameters that had a gradient
            other than zero by then, ``(T + 1, 3)``; before the first step P is the identity. The
            weights of pixels that are always blank have a rate of γ/ε, which moves nothing.
        cosines: Mean cosine between consecutive updates up to each step, 0 before the second,
            ``(T + 1,)``.
    """

    prediction_error: Tensor
    smoother_error: Tensor
    weights: Tensor
    shares: Tensor
    rates: Tensor
    cosines: Tensor


class _ClosedForm:
    """θ_t of one path from its past gradients, for one choice."""

    def __init__(self, choice: Choice, steps: int, theta_0: Tensor) -> None:
        optimizer = choice.optimizer
        self.rate = optimizer.learning_rate
        self.theta_0 = theta_0
        self.adaptive = optimizer.name != "sgd"
        if optimizer.name == "sgd":
            self.direction = momentum_weights(
                steps,
                optimizer.momentum,
                dampening=optimizer.dampening,
                nesterov=optimizer.nesterov,
            )
            self.decay = 0.0
            self.initial, self.weights = unroll(
                self.direction, self.rate, coupled=optimizer.weight_decay
            )
        else:
            self.direction = averaging_weights(steps, optimizer.betas[0])
            self.decay = optimizer.weight_decay
            self.second = averaging_weights(steps, optimizer.betas[1])
            self.eps = optimizer.eps

    def diagonal(self, gradients: Tensor) -> Tensor:
        """``P_t`` from the network's gradients of steps 1 to t, ``(p,)``."""
        if not self.adaptive:
            return torch.ones_like(self.theta_0)
        step = len(gradients)
        mean_square = self.second[step - 1, :step] @ gradients.square()
        return 1 / (mean_square.sqrt() + self.eps)

    def update(self, gradients: Tensor, diagonal: Tensor) -> Tensor:
        """``P_t M_t`` from the gradients of steps 1 to t, for adaptive rates."""
        step = len(gradients)
        return diagonal * (self.direction[step - 1, :step] @ gradients)

    def at(self, gradients: Tensor, updates: Tensor) -> Tensor:
        """θ_t, given gradients and, for adaptive rates, updates of steps 1 to t, ``(t, p)``."""
        step = len(gradients)
        if not self.adaptive:
            return self.initial[step] * self.theta_0 - self.weights[step, :step] @ gradients
        keep = 1 - self.rate * self.decay
        left = keep ** torch.arange(step - 1, -1, -1, dtype=torch.float64)
        return keep**step * self.theta_0 - self.rate * left @ updates

    def last(self, diagonals: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of θ_0 in θ_T, and of every gradient for every parameter, ``(T, p)`` or (T, 1)."""
        if self.adaptive:
            return unroll_adaptive(self.direction, diagonals, self.rate, decoupled=self.decay)
        return self.initial[-1], self.weights[-1][:, None]


def unroll_run(
    model: nn.Module,
    choice: Choice,
    steps: int,
    data: Mapping[str, Tensor],
    batches: Batches,
    compared: Collection[int],
) -> Unrolled:
    """Train a copy in float64, follow it with the lens and in closed form, and compare the two.

    Args:
        model: At its initial weights, float64, on the CPU; it is trained. Outputs (rows, 1).
        choice: How it is trained.
        steps: Number of updates T.
        data: ``train_inputs`` (n, d), ``train_targets`` (n,) and ``test_inputs`` (n_test, d),
            float64.
        batches: Which rows each update uses.
        compared: Steps at which the lens is read; both go on at every step.

    Returns:
        Differences and what the closed form says about the run.
    """
    inputs, targets = data["train_inputs"], data["train_targets"]
    optimizer = optimizer_of(choice.optimizer, model)
    # One direction: S·Y + c rides along whatever the number, and nothing else is read.
    lens = attach_lens(
        model,
        optimizer,
        data,
        order=1,
        stride=1,
        probes=1,
        deflate=0,
        strategy="parameter-space",
    )
    shapes = {name: p.detach() for name, p in model.named_parameters()}
    rows = torch.cat([inputs, data["test_inputs"]])
    theta_0 = _flat(shapes)
    closed = _ClosedForm(choice, steps, theta_0)
    size = len(theta_0)
    # Gradients and updates of the network's own path and of the smoother's.
    gradients, updates = (torch.zeros(2, steps, size, dtype=torch.float64) for _ in range(2))
    diagonals, moves = (torch.zeros(steps, size, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        telescoped = model(rows)[:, 0]
    smoothed = telescoped.clone()
    before = [theta_0, theta_0]
    gaps, largest = torch.zeros(steps + 1, 2, dtype=torch.float64), 0.0
    for step in range(1, steps + 1):
        index = batches.at(step - 1)
        at = {name: p.detach().clone() for name, p in model.named_parameters()}
        residual = smoothed[index] - targets[index]
        gradients[1, step - 1] = _gradient(model, at, inputs[index], residual)
        with lens.step(index):
            optimizer.zero_grad()
            half_squared_error(model(inputs[index]), targets[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for_network = {name: _gradient_of(p) for name, p in model.named_parameters()}
        gradients[0, step - 1] = _flat(for_network)
        diagonals[step - 1] = closed.diagonal(gradients[0, :step])
        now = []
        for path in (0, 1):
            known = gradients[path, :step]
            if closed.adaptive:
                updates[path, step - 1] = closed.update(known, diagonals[step - 1])
            now.append(closed.at(known, updates[path, :step]))
        changes = [after - then for after, then in zip(now, before, strict=True)]
        telescoped = telescoped + _directional(model, at, rows, changes[0])
        smoothed = smoothed + _directional(model, at, rows, changes[1])
        before, moves[step - 1] = now, changes[0]
        gaps[step] = gaps[step - 1]
        if step in compared:
            pairs = ((telescoped, lens.telescoped("test")[:, 0]), (smoothed, lens.smoothed("test")))
            for place, (mine, followed) in enumerate(pairs):
                on_test = mine[len(inputs) :]
                largest = max(largest, float(on_test.abs().max()))
                gap = (on_test - followed).abs().max()
                gaps[step, place] = torch.maximum(gaps[step, place], gap)
    initial, weights = closed.last(diagonals)
    contributions = (weights * gradients[0]).norm(dim=1)
    start = torch.zeros(1, dtype=torch.float64)
    cosines = torch.nn.functional.cosine_similarity(moves[1:], moves[:-1], dim=1)
    counts = torch.arange(1, steps, dtype=torch.float64)
    quantiles = torch.tensor(_QUANTILES, dtype=torch.float64)
    moved = gradients[0].ne(0).cumsum(0) > 0
    percentiles = [
        torch.quantile(diagonal[had], quantiles)
        for diagonal, had in zip(diagonals, moved, strict=True)
    ]
    return Unrolled(
        prediction_error=gaps[:, 0] / largest,
        smoother_error=gaps[:, 1] / largest,
        weights=torch.cat([initial.reshape(1), weights.mean(dim=1) / closed.rate]),
        shares=torch.cat([start, contributions.cumsum(0) / contributions.sum()]),
        rates=closed.rate * torch.stack([torch.ones(3, dtype=torch.float64), *percentiles]),
        cosines=torch.cat([start, start, cosines.cumsum(0) / counts]),
    )


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()]).clone()


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _gradient(model: nn.Module, at: dict[str, Tensor], inputs: Tensor, residual: Tensor) -> Tensor:
    """``J(X_B)ᵀ r / |B|``, ``(p,)``."""

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(model, parameters, (inputs,))
        return result[:, 0]

    pull_back = vjp(outputs, at)[1]
    (gradient,) = pull_back(residual / len(residual))
    return _flat(gradient)


def _directional(model: nn.Module, at: dict[str, Tensor], rows: Tensor, change: Tensor) -> Tensor:
    """``J(X) Δθ`` at the parameters ``at``, ``(rows,)``."""

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(model, parameters, (rows,))
        return result[:, 0]

    sizes = [tensor.numel() for tensor in at.values()]
    pieces = zip(at.items(), torch.split(change, sizes), strict=True)
    direction = {name: piece.view_as(tensor) for (name, tensor), piece in pieces}
    along: Tensor = jvp(outputs, (at,), (direction,))[1]
    return along
