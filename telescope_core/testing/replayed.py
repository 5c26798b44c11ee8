"""The smoother through training as it is run, by differences of the passes themselves.

Everything is a dense matrix in float64.  What a pass makes of parameters and buffers (outputs, and
buffers afterwards) is differentiated by running training's own module again at shifted values, with
the random stream set back; nothing is differentiated by automatic means but the gradient that
training itself takes.  So it holds for whatever a module computes, as long as that is smooth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from telescope_core.testing.columns import Loss, ShadowColumns, held_parameters, loss_derivatives
from telescope_core.testing.exact_columns import DifferentiatedColumns

# Central differences of eighth order.  Their errors grow as h⁸ and, by rounding, as 1/h.
_WEIGHTS = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
_STEP = 0.002


def differences(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The derivative of a smooth function by central differences.

    Args:
        f: From a vector (q,) to another.
        z: Where.

    Returns:
        Shape (len(f), q), right to about 1e-12 where derivatives of all orders are of size one.
    """
    lines = []
    for entry in range(len(z)):
        line = torch.zeros_like(f(z))
        for k, weight in enumerate(_WEIGHTS, start=1):
            for sign in (1, -1):
                shifted = z.clone()
                shifted[entry] += sign * k * _STEP
                line += sign * weight / _STEP * f(shifted)
        lines.append(line)
    return torch.stack(lines, dim=1)


@dataclass(frozen=True)
class _Pass:
    """A pass of training at its beginning: what it was given, all tensors, the random stream."""

    args: tuple[Any, ...]
    held: dict[str, Tensor]
    stream: Tensor


class ReplayedOracle:
    r"""Columns A of the parameters and D of the buffers, and S read off them in both ways.

    ``(δo, D_t) = ∂(o, b⁺)/∂(θ, b) · (A, D)``; ``δG = (∂o/∂θ)ᵀ [(∂g/∂o) δo + (∂g/∂Y) V]``, with
    curvature ``+ ∂[(∂o/∂θ)ᵀ g]/∂(θ, b) · (A, D)`` (docs/mathematics.md, section 13).  The optimizer
    moves A: its own class, denominators held fixed, or differentiated as a whole with curvature.
    One column for every label; blocks by the midpoint rule.

    Args:
        model: The model, in train mode, without hooks (so before a lens); in float64.
        optimizer: The optimizer, before its first step.
        loss: The loss of one pass.
        targets: Labels of all training points, (n, labels), float64.
        sets: Inputs of the sets to read S on, by name.
        curvature: Whether the curvature of the network is followed.
        stride: Steps of a block.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        targets: Tensor,
        sets: Mapping[str, Tensor],
        *,
        curvature: bool = False,
        stride: int = 1,
    ) -> None:
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._targets, self._sets = targets, sets
        self._curvature, self._stride, self._steps = curvature, stride, 0
        self._passes: list[_Pass] = []
        self._twin = copy.deepcopy(model)
        names = {id(p): name for name, p in model.named_parameters()}
        self._trained = [names[id(p)] for p in held_parameters(optimizer)]
        floating = {n: b for n, b in model.named_buffers() if b.is_floating_point()}
        self._names = [*self._trained, *floating]
        columns = targets.numel()
        self._p = sum(p.numel() for p in held_parameters(optimizer))
        q = sum(b.numel() for b in floating.values())
        self._A: ShadowColumns | DifferentiatedColumns
        # The step of SGD is linear, and its code detaches gradients.
        if curvature and not isinstance(optimizer, SGD):
            self._A = DifferentiatedColumns(optimizer, columns)
        else:
            self._A = ShadowColumns(optimizer, targets.new_zeros(self._p, columns), 0)
        self._D = targets.new_zeros(q, columns)
        self._z_start, self._Z_start = self._z(), self._Z()
        self._settled = {
            name: targets.new_zeros(self._evaluated(self._z(), rows).numel(), columns)
            for name, rows in sets.items()
        }

    def see(self, *args: Any) -> None:
        """Take down the pass that the model is about to run on these arguments."""
        held = {name: tensor.detach().clone() for name, tensor in _tensors(self._model).items()}
        self._passes.append(_Pass(args, held, torch.get_rng_state()))

    @contextmanager
    def step(self, index: Tensor, shares: Sequence[float] = (1.0,)) -> Iterator[None]:
        """Follow one step of training.

        Args:
            index: Positions of the points in all passes of the step, in their order.
            shares: What the loss of each pass is multiplied by.
        """
        self._passes = []
        before: list[Any] = []
        look = lambda *_: before.append(self._A.observe())  # noqa: E731
        handle = self._optimizer.register_step_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()
        gradient = torch.zeros_like(self._Z()[: self._p])
        parts = index.chunk(len(shares))
        for each, share, part in zip(self._passes, shares, parts, strict=True):
            gradient += share * self._through(each, part)
        self._A.step(before[0], gradient)
        self._steps += 1
        if self._steps % self._stride == 0:
            self._settled = {name: self._telescoped(name) for name in self._sets}
            self._z_start, self._Z_start = self._z(), self._Z()

    def columns(self) -> dict[str, Tensor]:
        """The columns of every parameter and floating buffer, (size, columns), by name."""
        held = _tensors(self._model)
        sizes = [held[name].numel() for name in self._names]
        return dict(zip(self._names, torch.split(self._Z(), sizes), strict=True))

    def telescoped(self, name: str) -> Tensor:
        """``Σ J̄ ΔA + J̄_b ΔD`` on a set, (rows, k, n, labels)."""
        return self._shaped(name, self._telescoped(name))

    def end_to_end(self, name: str) -> Tensor:
        """``J A + J_b D`` at the parameters and buffers as they are now, (rows, k, n, labels)."""
        return self._shaped(name, self._jacobian(self._z(), name) @ self._Z())

    def _through(self, each: _Pass, index: Tensor) -> Tensor:
        """The columns of the gradient of one pass; D moves on."""
        z, Z = torch.cat([each.held[name].reshape(-1) for name in self._names]), self._Z()
        outputs = self._run(each, z)
        size = outputs.numel()
        loss = loss_derivatives(self._loss, outputs, self._targets[index])
        width = self._targets.shape[1]
        V = torch.eye(self._targets.numel()).reshape(len(self._targets), width, -1)[index]
        along = differences(lambda at: self._passed(each, at, loss.g), z) @ Z
        do, self._D, bent = torch.split(
            along, [size, len(self._D), len(along) - size - len(self._D)]
        )
        outputs = self._run(each, z)
        dg = loss.by_outputs @ do + loss.by_labels @ V.reshape(-1, V.shape[-1])
        gradient = torch.stack([self._gradient(outputs, column) for column in dg.T], dim=1)
        return gradient + bent if self._curvature else gradient

    def _passed(self, each: _Pass, z: Tensor, g: Tensor) -> Tensor:
        """Outputs, buffers afterwards and, with curvature, the gradient of a pass begun at z."""
        outputs = self._run(each, z)
        after = self._z(self._twin)[self._p :]
        gradient = [self._gradient(outputs, g)] if self._curvature else []
        return torch.cat([outputs.detach().reshape(-1), after, *gradient])

    def _run(self, each: _Pass, z: Tensor) -> Tensor:
        """The outputs of a pass begun at z, by training's own code."""
        for name, tensor in _tensors(self._twin).items():
            tensor.data.copy_(each.held[name])
        self._put(z)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(each.stream)
            outputs: Tensor = self._twin.train()(*each.args)
        return outputs

    def _gradient(self, outputs: Tensor, cotangent: Tensor) -> Tensor:
        """What backpropagation makes of a cotangent, as training does it, (p,)."""
        parameters = [self._twin.get_parameter(name) for name in self._trained]
        gradients = torch.autograd.grad(
            outputs, parameters, cotangent.reshape(outputs.shape), retain_graph=True
        )
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def _evaluated(self, z: Tensor, rows: Tensor) -> Tensor:
        self._put(z)
        with torch.no_grad():
            outputs: Tensor = self._twin.eval()(rows)
        return outputs.reshape(-1)

    def _jacobian(self, z: Tensor, name: str) -> Tensor:
        return differences(lambda at: self._evaluated(at, self._sets[name]), z)

    def _telescoped(self, name: str) -> Tensor:
        middle = (self._z_start + self._z()) / 2
        return self._settled[name] + self._jacobian(middle, name) @ (self._Z() - self._Z_start)

    def _shaped(self, name: str, columns: Tensor) -> Tensor:
        n, labels = self._targets.shape
        return columns.reshape(len(self._sets[name]), -1, n, labels)

    def _z(self, model: nn.Module | None = None) -> Tensor:
        held = _tensors(self._model if model is None else model)
        return torch.cat([held[name].detach().reshape(-1) for name in self._names])

    def _Z(self) -> Tensor:
        return torch.cat([self._A.values, self._D])

    def _put(self, z: Tensor) -> None:
        held = _tensors(self._twin)
        sizes = [held[name].numel() for name in self._names]
        for name, part in zip(self._names, torch.split(z, sizes), strict=True):
            held[name].data.copy_(part.reshape(held[name].shape))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
