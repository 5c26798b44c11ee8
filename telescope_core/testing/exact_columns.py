"""Columns that the derivative of the optimizer's own step moves, nothing held fixed.

Where :class:`~telescope_core.testing.columns.ShadowColumns` keeps the denominators as they are,
forward mode goes through torch's code here, with all of the state: parameters, gradients, first and
second moments are dual numbers, one column at a time.  To be used under a default dtype of float64,
in which torch then counts steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim import Optimizer

from telescope_core.testing.columns import held_parameters

_PLAIN = {"foreach": False, "fused": False, "capturable": False, "differentiable": True}


@dataclass(frozen=True)
class _Before:
    """What a step starts from: options, parameters, gradients and state, copied."""

    groups: list[dict[str, Any]]
    values: dict[nn.Parameter, Tensor]
    gradients: dict[nn.Parameter, Tensor]
    state: dict[nn.Parameter, dict[str, Any]]


class DifferentiatedColumns:
    """Columns of parameters and of every floating buffer of the optimizer.

    Args:
        optimizer: The real one, none whose code detaches gradients (SGD with momentum, which is
            linear, so that shadow columns do).
        columns: How many; all start at zero.

    Attributes:
        parameters: The parameters that columns are followed for.
        sizes: Their numbers of entries.
    """

    def __init__(self, optimizer: Optimizer, columns: int) -> None:
        self.optimizer = optimizer
        self.parameters = held_parameters(optimizer)
        self.sizes = [p.numel() for p in self.parameters]
        self._count = columns
        self._columns = {p: p.new_zeros(*p.shape, columns) for p in self.parameters}
        self._buffers: dict[nn.Parameter, dict[str, Tensor]] = {p: {} for p in self.parameters}

    @property
    def values(self) -> Tensor:
        """The columns now, (p, columns)."""
        return torch.cat([self._columns[p].reshape(-1, self._count) for p in self.parameters])

    def observe(self) -> _Before:
        """Copy what the optimizer is about to use; call right before its step."""
        return _Before(
            [dict(group) for group in self.optimizer.param_groups],
            {p: p.detach().clone() for p in self.parameters},
            {p: p.grad.clone() for p in self.parameters if p.grad is not None},
            {
                p: {k: _copy(v) for k, v in self.optimizer.state.get(p, {}).items()}
                for p in self.parameters
            },
        )

    def step(self, before: _Before, gradients: Tensor) -> None:
        """Move the columns.

        Args:
            before: What :meth:`observe` gave.
            gradients: Derivative of the parameters' gradient, (p, columns).
        """
        parts = dict(zip(self.parameters, torch.split(gradients, self.sizes), strict=True))
        moved: dict[nn.Parameter, list[Tensor]] = {p: [] for p in before.gradients}
        buffers: dict[nn.Parameter, list[dict[str, Tensor]]] = {p: [] for p in before.gradients}
        for column in range(self._count):
            with forward_ad.dual_level():
                twin, twins = self._twin(before, parts, column)
                twin.step()
                for p, own in twins.items():
                    moved[p].append(_tangent(own))
                    state = twin.state[own].items()
                    buffers[p].append({k: _tangent(v) for k, v in state if _moves(k, v)})
        for p in before.gradients:
            self._columns[p] = torch.stack(moved[p], dim=-1)
            names = buffers[p][0]
            self._buffers[p] = {
                k: torch.stack([each[k] for each in buffers[p]], dim=-1) for k in names
            }

    def _twin(
        self, before: _Before, parts: dict[nn.Parameter, Tensor], column: int
    ) -> tuple[Optimizer, dict[nn.Parameter, Tensor]]:
        """An optimizer of the same class at dual numbers, and what stands for each parameter."""
        twins: dict[nn.Parameter, Tensor] = {}
        groups = []
        for group in before.groups:
            used = [p for p in group["params"] if p in before.gradients]
            for p in used:
                value, gradient = before.values[p].clone(), before.gradients[p].clone()
                twins[p] = own = _dual(value, self._columns[p][..., column].clone())
                along = parts[p][:, column].reshape(p.shape)
                own.grad = _dual(gradient, along.clone())
            options = {k: _PLAIN.get(k, v) for k, v in group.items() if k != "param_names"}
            groups.append({**options, "params": [twins[p] for p in used]})
        kind: Callable[..., Optimizer] = type(self.optimizer)
        twin = kind(groups, differentiable=True)
        for p, own in twins.items():
            for key, value in before.state[p].items():
                if _moves(key, value):
                    held = self._buffers[p].get(key)
                    along = torch.zeros_like(value) if held is None else held[..., column]
                    twin.state[own][key] = _dual(value.clone(), along.clone())
                else:
                    twin.state[own][key] = _copy(value)
        return twin, twins


def _moves(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point()


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _tangent(value: Tensor) -> Tensor:
    tangent = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(value) if tangent is None else tangent.detach().clone()
