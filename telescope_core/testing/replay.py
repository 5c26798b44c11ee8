"""Finite differences of a replayed training: an account of S·V that contains no recursion for S.

Training runs once for real.  It is then replayed twice with targets Y ± εV: parameters, momentum
buffers and residuals deviate, the real ``torch.optim`` optimizer moves the deviating parameters,
and only what the model says is frozen is frozen: the Jacobians, and Adam's second moment.  The
difference of the two replays over 2ε is S·V.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from telescope_core.testing.dense import (
    Loss,
    dense_jacobian,
    label_directions,
    mean,
    outputs_of,
    product,
    trained_parameters,
)

Blocks = dict[str, Tensor]
BeforeStep = Callable[[Optimizer, int], None]


@dataclass
class _Recording:
    """A real run: entry t of each list belongs to the parameters θ_t, t = 0 … T."""

    thetas: list[Blocks] = field(default_factory=list)
    jacobians: list[dict[str, Blocks]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    second_moments: list[Blocks] = field(default_factory=list)


def sensitivity_by_replay(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    train_inputs: Tensor,
    train_targets: Tensor,
    eval_sets: Mapping[str, Tensor] | None,
    batches: Sequence[Tensor],
    direction: Tensor,
    *,
    order: int = 2,
    stride: int = 1,
    epsilon: float = 1e-5,
    before_step: BeforeStep | None = None,
) -> dict[str, Tensor]:
    """Differentiate the telescoped predictions along one change of the training labels.

    The model and the optimizer are copied; the originals do not move.

    Args:
        model: The network before training, in float64.
        optimizer: SGD, Adam or AdamW over the model's parameters, with all its options.
        loss: Scalar training loss.
        train_inputs: (n, ...).
        train_targets: (n,), (n, k) or class indices (n,).
        eval_sets: More named inputs.
        batches: The positions of each step.
        direction: V, the change of the labels, (n, k).
        order: 1 or 2, as for the oracle.
        stride: Steps in a block, as for the oracle.
        epsilon: Size of the change of the labels.
        before_step: Called with the optimizer and the step's number, from 0, before each step;
            a learning-rate schedule.

    Returns:
        S·V by set, each (rows, k).
    """
    sets = {"train": train_inputs, **(eval_sets or {})}
    recording = _record(model, optimizer, loss, sets, train_targets, batches, before_step)
    k = recording.outputs[0].reshape(len(train_inputs), -1).shape[1]
    labels = train_targets
    if not labels.dtype.is_floating_point:
        labels = label_directions(labels, k).to(direction.dtype)
    change = direction.reshape(labels.shape) * epsilon
    up, down = (
        _replay(
            model, optimizer, loss, recording, sets, shifted, batches, order, stride, before_step
        )
        for shifted in (labels + change, labels - change)
    )
    return {name: (up[name] - down[name]).reshape(-1, k) / (2 * epsilon) for name in sets}


def _record(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    sets: dict[str, Tensor],
    targets: Tensor,
    batches: Sequence[Tensor],
    before_step: BeforeStep | None,
) -> _Recording:
    model, optimizer = copy.deepcopy((model, optimizer))
    parameters = trained_parameters(model)
    recording = _Recording()

    def write() -> None:
        recording.thetas.append({name: p.detach().clone() for name, p in parameters.items()})
        recording.jacobians.append({name: dense_jacobian(model, x) for name, x in sets.items()})
        outputs = outputs_of(model, sets["train"])
        shape = model(sets["train"]).shape
        recording.outputs.append(outputs.reshape(shape))
        recording.second_moments.append(
            {
                name: optimizer.state[p]["exp_avg_sq"].clone()
                for name, p in parameters.items()
                if "exp_avg_sq" in optimizer.state.get(p, {})
            }
        )

    write()
    for number, index in enumerate(batches):
        if before_step is not None:
            before_step(optimizer, number)
        optimizer.zero_grad()
        value = loss(model(sets["train"][index]), targets[index])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        write()
    return recording


def _replay(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    recording: _Recording,
    sets: dict[str, Tensor],
    labels: Tensor,
    batches: Sequence[Tensor],
    order: int,
    stride: int,
    before_step: BeforeStep | None,
) -> dict[str, Tensor]:
    """Return the deviation of the telescoped predictions from the recorded run, (rows·k, 1)."""
    model, optimizer = copy.deepcopy((model, optimizer))
    parameters = trained_parameters(model)  # these deviate
    rows = {name: next(iter(J.values())).shape[0] for name, J in recording.jacobians[0].items()}
    dtype = recording.outputs[0].dtype
    start = 0
    at_start = {name: torch.zeros(count, 1, dtype=dtype) for name, count in rows.items()}
    theta_at_start = {
        name: torch.zeros(p.numel(), 1, dtype=dtype) for name, p in parameters.items()
    }

    def weights_moved(moment: int) -> Blocks:
        return {
            name: (p.detach() - recording.thetas[moment][name]).reshape(-1, 1)
            for name, p in parameters.items()
        }

    def deviation(name: str, moment: int) -> Tensor:
        """Deviation at ``moment``, over Jacobians at the block's start and at ``moment``."""
        J = recording.jacobians[start][name]
        if order == 2:
            J = mean(J, recording.jacobians[moment][name])
        now = weights_moved(moment)
        return at_start[name] + product(J, {key: now[key] - theta_at_start[key] for key in now})

    for t, index in enumerate(batches):
        if before_step is not None:
            before_step(optimizer, t)
        real = recording.outputs[t]
        f = (real + deviation("train", t).reshape(real.shape))[index].requires_grad_()
        (g,) = torch.autograd.grad(loss(f, labels[index]), f)
        k = rows["train"] // len(sets["train"])
        positions = (index[:, None] * k + torch.arange(k)).reshape(-1)
        for name, parameter in parameters.items():
            J = recording.jacobians[t]["train"][name][positions]
            parameter.grad = (J.T @ g.reshape(-1)).reshape(parameter.shape)
        _freeze_second_moments(optimizer, parameters, recording, t)
        optimizer.step()
        if (t + 1) % stride == 0:
            at_start = {name: deviation(name, t + 1) for name in sets}
            start, theta_at_start = t + 1, weights_moved(t + 1)
    return {name: deviation(name, len(batches)) for name in sets}


def _freeze_second_moments(
    optimizer: Optimizer, parameters: dict[str, nn.Parameter], recording: _Recording, t: int
) -> None:
    """Set Adam's second moment so that the coming step leaves it at the recorded one.

    v ← β2·v + (1 − β2)·g² is solved for the v to start from, g being the gradient as Adam sees it.
    """
    if not isinstance(optimizer, Adam):
        return
    names = {parameter: name for name, parameter in parameters.items()}
    for group in optimizer.param_groups:
        beta2 = group["betas"][1]
        for parameter in group["params"]:
            if parameter not in names:
                continue
            g = -parameter.grad if group["maximize"] else parameter.grad
            if not group["decoupled_weight_decay"]:
                g = g + group["weight_decay"] * parameter.detach()
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
            wanted = recording.second_moments[t + 1][names[parameter]]
            state["exp_avg_sq"] = (wanted - (1 - beta2) * g**2) / beta2
