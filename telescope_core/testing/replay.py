"""Finite differences of a replayed training: an account of S·V that contains no recursion for S.

Training runs once for real.  It is then replayed twice with targets Y ± εV: parameters, momentum
buffers and residuals deviate, the real ``torch.optim`` optimizer moves the deviating parameters,
and only what the model says is frozen is frozen: the Jacobians, and Adam's second moment.  The
difference of the two replays over 2ε is S·V.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from telescope_core.testing.dense import (
    dense_jacobian,
    label_directions,
    mean,
    product,
    trained_parameters,
)
from telescope_core.testing.scenario import Training

Blocks = dict[str, Tensor]


@dataclass(frozen=True)
class _Moment:
    """The real run at θ_t: parameters, Jacobians by set, outputs (n, …), second moments."""

    theta: Blocks
    jacobians: dict[str, Blocks]
    outputs: Tensor
    second: Blocks


def sensitivity_by_replay(
    training: Training, direction: Tensor, *, order: int = 2, stride: int = 1
) -> dict[str, Tensor]:
    """Differentiate the telescoped predictions along one change of the training labels.

    Args:
        training: A run before its first step, of SGD, Adam or AdamW over tensors in float64; it
            is copied and does not move.
        direction: V, the change of the labels, (n, k).
        order: 1 or 2, as for the oracle.
        stride: Steps in a block, as for the oracle.

    Returns:
        S·V by set, each (rows, k).
    """
    epsilon = 1e-5
    k = direction.shape[1]
    labels = training.train_targets
    if not labels.dtype.is_floating_point:
        labels = label_directions(labels, k).to(direction.dtype)
    change = direction.reshape(labels.shape) * epsilon
    moments = _record(training)
    up, down = (
        _replay(replace(training, train_targets=shifted), moments, order, stride)
        for shifted in (labels + change, labels - change)
    )
    return {name: (up[name] - down[name]).reshape(-1, k) / (2 * epsilon) for name in up}


def _sets(training: Training) -> dict[str, Tensor]:
    sets = {"train": training.train_inputs, **training.eval_sets}
    return {name: rows for name, rows in sets.items() if isinstance(rows, Tensor)}


def _record(training: Training) -> list[_Moment]:
    training = copy.deepcopy(training)
    parameters, state = trained_parameters(training.model), training.optimizer.state
    moments = []
    for moment in range(len(training.batches) + 1):
        if moment:
            training.run(steps=1)
        second = {name: state.get(p, {}).get("exp_avg_sq") for name, p in parameters.items()}
        with torch.no_grad():
            outputs = training.model(training.train_inputs).clone()
        moments.append(
            _Moment(
                {name: p.detach().clone() for name, p in parameters.items()},
                {name: dense_jacobian(training.model, x) for name, x in _sets(training).items()},
                outputs,
                {name: v.clone() for name, v in second.items() if v is not None},
            )
        )
    return moments


def _replay(
    training: Training, moments: list[_Moment], order: int, stride: int
) -> dict[str, Tensor]:
    """Return the deviation of the telescoped predictions from the recorded run, (rows·k, 1)."""
    training = copy.deepcopy(training)
    optimizer, labels = training.optimizer, training.train_targets
    parameters = trained_parameters(training.model)  # these deviate
    start = 0
    at_start = {name: x.new_zeros(1, dtype=labels.dtype) for name, x in _sets(training).items()}
    theta_at_start = {name: torch.zeros_like(p).reshape(-1, 1) for name, p in parameters.items()}

    def weights_moved(moment: int) -> Blocks:
        return {
            name: (p.detach() - moments[moment].theta[name]).reshape(-1, 1)
            for name, p in parameters.items()
        }

    def deviation(name: str, moment: int) -> Tensor:
        """Deviation at ``moment``, over Jacobians at the block's start and at ``moment``."""
        J = moments[start].jacobians[name]
        if order == 2:
            J = mean(J, moments[moment].jacobians[name])
        now = weights_moved(moment)
        return at_start[name] + product(J, {key: now[key] - theta_at_start[key] for key in now})

    for t, index in enumerate(training.batches):
        if training.schedule == "before":
            training.change_learning_rates(t)
        real = moments[t].outputs
        f = (real + deviation("train", t).reshape(real.shape))[index].requires_grad_()
        (g,) = torch.autograd.grad(training.loss(f, labels[index]), f)
        k = real[0].numel()
        positions = (index[:, None] * k + torch.arange(k)).reshape(-1)
        for name, parameter in parameters.items():
            J = moments[t].jacobians["train"][name][positions]
            parameter.grad = (J.T @ g.reshape(-1)).reshape(parameter.shape)
        if isinstance(optimizer, Adam):
            _freeze_second_moments(
                optimizer, {p: moments[t + 1].second[name] for name, p in parameters.items()}
            )
        optimizer.step()
        if training.schedule == "after":
            training.change_learning_rates(t)
        if (t + 1) % stride == 0:
            at_start = {name: deviation(name, t + 1) for name in at_start}
            start, theta_at_start = t + 1, weights_moved(t + 1)
    return {name: deviation(name, len(training.batches)) for name in at_start}


def _freeze_second_moments(optimizer: Optimizer, wanted: dict[torch.nn.Parameter, Tensor]) -> None:
    """Set Adam's second moments so that the coming step leaves them at the recorded ones.

    v ← β2·v + (1 − β2)·g² is solved for the v to start from, g being the gradient as Adam sees it.
    """
    for group in optimizer.param_groups:
        beta2 = group["betas"][1]
        for parameter in (p for p in group["params"] if p in wanted):
            g = -parameter.grad if group["maximize"] else parameter.grad
            if not group["decoupled_weight_decay"]:
                g = g + group["weight_decay"] * parameter.detach()
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = (wanted[parameter] - (1 - beta2) * g**2) / beta2
