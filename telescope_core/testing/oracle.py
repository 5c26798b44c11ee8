"""The telescoping model and its smoother, dense and explicit.

Symbols: n training points, k outputs, p parameters.  ``A`` (p, n·k) is the derivative of the
parameters with respect to the training labels, ``S`` (rows·k, n·k) that of the telescoped
predictions, ``M`` that of the optimizer's momentum buffer; s is the last block end, t now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from telescope_core.testing.dense import (
    Loss,
    dense_jacobian,
    label_directions,
    loss_derivatives,
    mean,
    outputs_of,
    product,
    trained_parameters,
)
from telescope_core.testing.rules import ObservedUpdate, actual_buffer, observe

Blocks = dict[str, Tensor]


@dataclass
class Path:
    """One solution of the recursion: the derivative with respect to the labels, or the constant.

    Attributes:
        labels: V, the change of the training labels, (n·k, columns).
        weights: A_t by parameter, each (size, columns).
        buffers: M_t by parameter, each (size, columns).
        weights_at_block: A_s by parameter.
        rows_at_block: S_s by set, each (rows·k, columns).
    """

    labels: Tensor
    weights: Blocks
    buffers: Blocks
    weights_at_block: Blocks
    rows_at_block: Blocks


class DenseOracle:
    """The lens as a careful reader of the equations would write it.

    Use it like the lens, around real training steps::

        oracle = DenseOracle(model, optimizer, loss, x, y, {"test": x_test})
        for index in batches:
            with oracle.step(index):
                optimizer.zero_grad()
                loss(model(x[index]), y[index]).backward()
                optimizer.step()
        oracle.smoother("test")

    Args:
        model: The network, in float64.
        optimizer: SGD, Adam or AdamW over the model's parameters.
        loss: Scalar training loss of outputs and targets.
        train_inputs: (n, ...).
        train_targets: (n,), (n, k), or class indices (n,).
        eval_sets: More named inputs.
        order: 1 or 2.
        stride: Steps in a block.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        train_inputs: Tensor,
        train_targets: Tensor,
        eval_sets: Mapping[str, Tensor] | None = None,
        *,
        order: int = 2,
        stride: int = 1,
    ) -> None:
        if order not in (1, 2) or stride < 1:
            raise ValueError("order is 1 or 2, stride at least 1")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.targets = train_targets
        self.sets = {"train": train_inputs, **(eval_sets or {})}
        self.order, self.stride = order, stride
        self.step_count = 0
        self.parameters = trained_parameters(model)
        self._first_theta = self._theta()
        self._theta_at_block = self._theta()
        self._first_outputs = {name: outputs_of(model, x) for name, x in self.sets.items()}
        self._telescoped_at_block = dict(self._first_outputs)
        self._first_jacobians = {name: dense_jacobian(model, x) for name, x in self.sets.items()}
        self._jacobians_at_block = self._first_jacobians
        self._now = dict(self._first_jacobians)
        self.n, self.k = self._first_outputs["train"].shape
        self._labels = self._label_path()
        self._constant = self._constant_path()
        self._quadratic = True

    # ------------------------------------------------------------------ start

    def _theta(self) -> Blocks:
        return {name: p.detach().clone().reshape(-1, 1) for name, p in self.parameters.items()}

    def _label_path(self) -> Path:
        columns = self.n * self.k
        zeros = {name: p.new_zeros(p.numel(), columns) for name, p in self.parameters.items()}
        rows = {name: f.new_zeros(f.numel(), columns) for name, f in self._first_outputs.items()}
        identity = torch.eye(columns, dtype=self._first_outputs["train"].dtype)
        return Path(identity, zeros, dict(zeros), dict(zeros), rows)

    def _constant_path(self) -> Path:
        labels = self._first_outputs["train"].new_zeros(self.n * self.k, 1)
        buffers = {}
        for name, parameter in self.parameters.items():
            buffer = actual_buffer(self.optimizer, parameter)
            buffer = torch.zeros_like(parameter) if buffer is None else buffer
            buffers[name] = buffer.detach().clone().reshape(-1, 1)
        rows = {name: f.reshape(-1, 1) for name, f in self._first_outputs.items()}
        return Path(labels, self._theta(), buffers, self._theta(), rows)

    # ------------------------------------------------------------------- step

    @contextmanager
    def step(self, index: Tensor) -> Iterator[None]:
        """Follow one training step on the training points at positions ``index``."""
        updates: list[dict[nn.Parameter, ObservedUpdate]] = []
        hook = self.optimizer.register_step_pre_hook(
            lambda optimizer, *_: updates.append(observe(optimizer))
        )
        batch = self.sets["train"][index]
        with torch.no_grad():
            outputs = self.model(batch)  # f_{t−1}(X_B), as the loss will see it
        J_now = dense_jacobian(self.model, batch)  # J_{t−1}(X_B)
        try:
            yield
        finally:
            hook.remove()
        (update,) = updates  # exactly one optimizer step

        g, g_f, g_y = loss_derivatives(self.loss, outputs, self.targets[index])
        self._check_quadratic(index, outputs, g, g_f, g_y)
        self._follow(index, g_f, g_y, J_now, update)
        self.step_count += 1
        self._now = {}  # Jacobians at θ_t, by set, once they were needed
        if self.step_count % self.stride == 0:
            self._close_block()

    def _follow(
        self,
        index: Tensor,
        g_f: Tensor,
        g_y: Tensor,
        J_now: Blocks,
        update: dict[nn.Parameter, ObservedUpdate],
    ) -> None:
        for path in (self._labels, self._constant):
            S_batch = self._batch_rows(path, index, J_now)  # S_{t−1}(X_B)
            V_batch = path.labels[self._positions(index)]
            dg = g_f @ S_batch + g_y @ V_batch
            self._move(path, dg, J_now, update)

    def _positions(self, index: Tensor) -> Tensor:
        return (index[:, None] * self.k + torch.arange(self.k)).reshape(-1)

    def _batch_rows(self, path: Path, index: Tensor, J_now: Blocks) -> Tensor:
        rows = self._positions(index)
        J = {name: J_s[rows] for name, J_s in self._jacobians_at_block["train"].items()}
        if self.order == 2:
            J = mean(J, J_now)
        moved = {name: A - path.weights_at_block[name] for name, A in path.weights.items()}
        return path.rows_at_block["train"][rows] + product(J, moved)

    def _move(
        self, path: Path, dg: Tensor, J: Blocks, update: dict[nn.Parameter, ObservedUpdate]
    ) -> None:
        for name, parameter in self.parameters.items():
            if parameter not in update:  # not trained by this optimizer, or without a gradient
                continue
            dG = J[name].T @ dg
            A, M = path.weights[name], path.buffers[name]
            dA, path.buffers[name] = update[parameter].push(dG, A, M)
            path.weights[name] = A + dA

    def _check_quadratic(
        self, index: Tensor, outputs: Tensor, g: Tensor, g_f: Tensor, g_y: Tensor
    ) -> None:
        y = label_directions(self.targets[index], self.k).to(outputs.dtype).reshape(-1)
        linear = g_f @ outputs.reshape(-1) + g_y @ y
        self._quadratic &= torch.allclose(linear, g, rtol=1e-9, atol=1e-12)

    # ------------------------------------------------------------------ block

    def _jacobians_now(self, name: str) -> Blocks:
        if name not in self._now:
            self._now[name] = dense_jacobian(self.model, self.sets[name])
        return self._now[name]

    def _average_jacobian(self, name: str) -> Blocks:
        """Return J̄ over the block from s to now."""
        J_start = self._jacobians_at_block[name]
        if self.order == 1:
            return J_start
        return mean(J_start, self._jacobians_now(name))

    def _telescoped_now(self, name: str) -> Tensor:
        theta = self._theta()
        moved = {key: theta[key] - self._theta_at_block[key] for key in theta}
        change = product(self._average_jacobian(name), moved)
        return self._telescoped_at_block[name] + change.reshape(-1, self.k)

    def _rows_now(self, path: Path, name: str) -> Tensor:
        moved = {key: A - path.weights_at_block[key] for key, A in path.weights.items()}
        return path.rows_at_block[name] + product(self._average_jacobian(name), moved)

    def _close_block(self) -> None:
        telescoped = {name: self._telescoped_now(name) for name in self.sets}
        paths = (self._labels, self._constant)
        rows = [{name: self._rows_now(path, name) for name in self.sets} for path in paths]
        for path, closed in zip(paths, rows, strict=True):
            path.rows_at_block = closed
            path.weights_at_block = dict(path.weights)
        self._telescoped_at_block = telescoped
        self._theta_at_block = self._theta()
        self._jacobians_at_block = {name: self._jacobians_now(name) for name in self.sets}

    # ---------------------------------------------------------------- reading

    def predictions(self, name: str) -> Tensor:
        """Return f_{θ_t}, (rows, k)."""
        return outputs_of(self.model, self.sets[name])

    def telescoped(self, name: str) -> Tensor:
        """Return f̃_t, (rows, k); inside a block the block so far is closed for the reading."""
        return self._telescoped_now(name)

    def linearized(self, name: str) -> Tensor:
        """Return f_{θ_0} + J_0 (θ_t − θ_0), (rows, k)."""
        theta = self._theta()
        moved = {key: theta[key] - self._first_theta[key] for key in theta}
        change = product(self._first_jacobians[name], moved)
        return self._first_outputs[name] + change.reshape(-1, self.k)

    def _smoother_matrix(self, name: str) -> Tensor:
        return self._rows_now(self._labels, name)

    def smoother(self, name: str) -> Tensor:
        """Return S_t: (rows, n) for one output, (rows, k, n, k) otherwise."""
        S = self._smoother_matrix(name)
        return S if self.k == 1 else S.reshape(-1, self.k, self.n, self.k)

    def constant(self, name: str) -> Tensor:
        """Return c_t of f̃^S = S·Y + c: (rows,) for one output, (rows, k) otherwise.

        Raises:
            ValueError: If the loss gradient is not linear in outputs and targets.
        """
        if not self._quadratic:
            raise ValueError("only a squared loss has a constant path")
        c = self._rows_now(self._constant, name)
        return c[:, 0] if self.k == 1 else c.reshape(-1, self.k)

    def smoothed(self, name: str) -> Tensor:
        """Return S·Y + c, (rows, k), for a squared loss."""
        y = label_directions(self.targets, self.k).reshape(-1, 1)
        return (self._smoother_matrix(name) @ y).reshape(-1, self.k) + self.constant(name).reshape(
            -1, self.k
        )

    def effective_parameters(self, name: str) -> float:
        """Return p(I) = n/|I| · (1/k) Σ ‖s‖² over the rows of the set."""
        S = self._smoother_matrix(name)
        return self.n / len(self.sets[name]) * float((S**2).sum()) / self.k

    def degrees_of_freedom(self) -> float:
        """Return the trace of S_t on the training set."""
        return float(torch.trace(self._smoother_matrix("train")))
