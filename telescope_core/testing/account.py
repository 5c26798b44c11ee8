"""The telescoping model once more, from rows, plain autograd and the real optimizer.

Shares no line with :mod:`~telescope_core.testing.oracle` or with the lens, so that what the three
agree on was derived three times.  Symbols: n training points, k outputs, p parameters; ``A`` and
``b`` (p, n·k + 1) are the derivative of the parameters with respect to the training labels and, in
the last column, the constant path; ``S`` and ``c`` (rows·k, n·k + 1) are the same of the
telescoped predictions; s is the last block end, t now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from telescope_core.testing.columns import (
    Loss,
    Rows,
    ShadowColumns,
    call,
    coordinates,
    count,
    held_parameters,
    jacobian,
    labels_of,
    loss_derivatives,
    take,
)

Quadrature = Literal["start", "trapezoid", "midpoint"]


class RowAccount:
    r"""The lens as someone would write it who has only the network, one row at a time.

    Use it like the lens, around real training steps::

        account = RowAccount(model, optimizer, loss, x, y, {"test": x_test})
        for index in batches:
            with account.step(index):
                optimizer.zero_grad()
                loss(model(x[index]), y[index]).backward()
                optimizer.step()
        account.smoother("test")

    Jacobians are those of the user's own model with respect to the parameters in the optimizer.
    Label derivatives are moved by the optimizer's own class, with its denominators held at their
    real values (:class:`~telescope_core.testing.columns.ShadowColumns`).  The gradient in the
    parameters must be :math:`J(X_B)^\top g` or a multiple of it, which the columns then share.

    Args:
        model: The network, in float64.
        optimizer: SGD, RMSprop, Adagrad or one of Adam's kin.
        loss: Scalar training loss of outputs and targets.
        train_inputs: n rows: a tensor, a tuple of tensors, or a mapping to keyword arguments.
        train_targets: (n,), (n, k), or class indices (n,).
        eval_sets: More named rows.
        quadrature: What stands for J̄ over a block: J at its start (first order), the mean of its
            two ends (second order), or J in the middle, for the smoother; f̃ is the trapezoid's
            then.
        stride: Steps in a block.

    Raises:
        ValueError: If an option is out of range, or rows depend on each other.
        TypeError: If the optimizer is another.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        train_inputs: Rows,
        train_targets: Tensor,
        eval_sets: Mapping[str, Rows] | None = None,
        *,
        quadrature: Quadrature = "trapezoid",
        stride: int = 1,
    ) -> None:
        if quadrature not in ("start", "trapezoid", "midpoint") or stride < 1:
            raise ValueError(
                f"got quadrature={quadrature!r} and stride={stride}; expected 'start', "
                "'trapezoid' or 'midpoint' and a stride of at least 1"
            )
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.targets, self.quadrature, self.stride = train_targets, quadrature, stride
        self.sets: dict[str, Rows] = {"train": train_inputs, **(eval_sets or {})}
        self.parameters = held_parameters(optimizer)
        self.step_count = 0

        outputs = {name: self._outputs(name) for name in self.sets}
        self.n, self.k = len(outputs["train"]), outputs["train"][0].numel()
        self._labels = labels_of(train_targets, outputs["train"])
        columns = self._labels.numel()
        theta = self._theta()
        start = torch.cat([theta.new_zeros(len(theta), columns), theta[:, None]], dim=1)
        self._shadow = ShadowColumns(optimizer, start, constant=columns)
        self._V = torch.eye(columns, columns + 1, dtype=torch.float64)
        self._quadratic = True
        self._largest_gradient = 0.0

        self._now: dict[str, Tensor] = {}
        self._f_0 = {name: f.reshape(-1).double() for name, f in outputs.items()}
        self._theta_0, self._J_0 = theta, {name: self._J_now(name) for name in self.sets}
        self._theta_s, self._A_s, self._J_s = self._theta_0, start, self._J_0
        self._f_s = dict(self._f_0)  # f̃_s
        self._S_s = {
            name: torch.cat([f.new_zeros(len(f), columns), f[:, None]], dim=1)
            for name, f in self._f_0.items()
        }

    # ------------------------------------------------------------------- step

    @contextmanager
    def step(self, index: Tensor) -> Iterator[None]:
        """Follow one training step on the training points at positions ``index``.

        Raises:
            ValueError: If the optimizer does not step exactly once, with a multiple of the
                gradient of the loss on these rows, over the parameters that it held at first.
        """
        batch = take(self.sets["train"], index)
        with torch.no_grad():
            outputs = call(self.model, batch)
        loss = loss_derivatives(self.loss, outputs, self.targets[index])
        self._note_quadratic(outputs, index, loss.g, loss.by_outputs, loss.by_labels)
        J = self._J_now("train", index)
        S_B = self._rows("train", index)
        V_B = self._V[self._positions(index, self._labels.shape[1])]
        dG = J.T @ (loss.by_outputs @ S_B + loss.by_labels @ V_B)

        seen: list[tuple[Any, float]] = []

        def before(*_: Any) -> None:
            seen.append((self._shadow.observe(), self._factor(J.T @ loss.g)))

        def after(*_: Any) -> None:
            observed, factor = seen[-1]
            self._shadow.step(observed, factor * dG)

        hooks = (
            self.optimizer.register_step_pre_hook(before),
            self.optimizer.register_step_post_hook(after),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if len(seen) != 1:
            raise ValueError(f"the optimizer stepped {len(seen)} times; expected exactly once")
        self.step_count += 1
        self._now = {}
        if self.step_count % self.stride == 0:
            self._close_block()

    def _factor(self, expected: Tensor) -> float:
        """The factor c with ``.grad`` = c · J(X_B)ᵀ g, exactly 1 up to rounding."""
        if not set(held_parameters(self.optimizer)) <= set(self.parameters):
            raise ValueError("the optimizer no longer holds the parameters that it held at first")
        reached = torch.cat(
            [torch.full_like(coordinates(p), p.grad is not None) for p in self.parameters]
        ).bool()
        if not bool(reached.any()):
            return 1.0
        actual = torch.cat([coordinates(p.grad) for p in self.parameters if p.grad is not None])
        expected = expected[reached]
        size = float(expected.norm())
        self._largest_gradient = max(self._largest_gradient, size)
        precision = max(torch.finfo(p.dtype).eps for p in self.parameters)
        allowed = 1e5 * precision * max(self._largest_gradient, 1e-3)
        if float((actual - expected).norm()) <= allowed:
            return 1.0
        factor = float(actual @ expected) / size**2 if size else 0.0
        if float((actual - factor * expected).norm()) > allowed * max(factor, 1.0) or factor <= 0:
            raise ValueError(
                f"the gradient in the parameters (norm {float(actual.norm()):.3g}) is no multiple "
                f"of the gradient of the loss on these rows (norm {size:.3g}); give the account "
                "the loss and the rows of the step"
            )
        return factor

    def _positions(self, index: Tensor, width: int) -> Tensor:
        return (index[:, None] * width + torch.arange(width)).reshape(-1)

    def _note_quadratic(
        self, outputs: Tensor, index: Tensor, g: Tensor, g_f: Tensor, g_y: Tensor
    ) -> None:
        linear = g_f @ outputs.reshape(-1).double() + g_y @ self._labels[index].reshape(-1)
        self._quadratic &= torch.allclose(linear, g, rtol=1e-9, atol=1e-12)

    # -------------------------------------------------------------- Jacobians

    def _theta(self) -> Tensor:
        return torch.cat([coordinates(p) for p in self.parameters])

    def _outputs(self, name: str) -> Tensor:
        """Outputs on a set at once; refuses a model whose rows come out differently alone."""
        rows = self.sets[name]
        with torch.no_grad():
            together = call(self.model, rows).clone()
            alone = [call(self.model, take(rows, slice(i, i + 1))) for i in range(count(rows))]
        if not torch.allclose(together, torch.cat(alone), rtol=1e-6, atol=1e-8):
            raise ValueError(
                f"rows of {name!r} have other outputs alone than together; expected a model whose "
                "rows do not depend on each other"
            )
        return together

    def _J_now(self, name: str, index: Tensor | None = None) -> Tensor:
        """J(θ_t) on a set, kept until the next step, or on some of its rows."""
        if index is None and name not in self._now:
            self._now[name] = jacobian(self.model, self.sets[name], self.parameters)
        if name in self._now:
            J = self._now[name]
            return J if index is None else J[self._positions(index, self.k)]
        assert index is not None
        return jacobian(self.model, take(self.sets[name], index), self.parameters)

    def _J_middle(self, name: str, index: Tensor | None = None) -> Tensor:
        """J(½ (θ_s + θ_t)); the parameters are put back bit for bit."""
        rows = self.sets[name] if index is None else take(self.sets[name], index)
        held = [p.detach().clone() for p in self.parameters]
        middle = torch.split((self._theta_s + self._theta()) / 2, self._shadow.sizes)
        try:
            with torch.no_grad():
                for p, values in zip(self.parameters, middle, strict=True):
                    real = torch.view_as_real(p) if p.is_complex() else p
                    real.copy_(values.reshape(real.shape))
            return jacobian(self.model, rows, self.parameters)
        finally:
            with torch.no_grad():
                for p, values in zip(self.parameters, held, strict=True):
                    p.copy_(values)

    def _J_mean(self, name: str, quadrature: Quadrature, index: Tensor | None = None) -> Tensor:
        """J̄ over the block from s to now."""
        if quadrature == "midpoint":
            return self._J_middle(name, index)
        J_s = self._J_s[name]
        J_s = J_s if index is None else J_s[self._positions(index, self.k)]
        return J_s if quadrature == "start" else (J_s + self._J_now(name, index)) / 2

    # ------------------------------------------------------------------ block

    def _rows(self, name: str, index: Tensor | None = None) -> Tensor:
        """S_t and c_t, on a set or on some of its rows."""
        S_s = self._S_s[name]
        S_s = S_s if index is None else S_s[self._positions(index, self.k)]
        moved = self._shadow.values - self._A_s
        return S_s + self._J_mean(name, self.quadrature, index) @ moved

    def _telescoped(self, name: str) -> Tensor:
        quadrature: Quadrature = "start" if self.quadrature == "start" else "trapezoid"
        return self._f_s[name] + self._J_mean(name, quadrature) @ (self._theta() - self._theta_s)

    def _close_block(self) -> None:
        f, S = (
            {name: value(name) for name in self.sets} for value in (self._telescoped, self._rows)
        )
        self._f_s, self._S_s = f, S
        self._theta_s, self._A_s = self._theta(), self._shadow.values
        self._J_s = {name: self._J_now(name) for name in self.sets}

    # ---------------------------------------------------------------- reading

    def predictions(self, name: str) -> Tensor:
        """Return f_{θ_t}, (rows, k)."""
        with torch.no_grad():
            return call(self.model, self.sets[name]).reshape(-1, self.k).double()

    def telescoped(self, name: str) -> Tensor:
        """Return f̃_t, (rows, k); inside a block the block so far is closed for the reading."""
        return self._telescoped(name).reshape(-1, self.k)

    def linearized(self, name: str) -> Tensor:
        """Return f_{θ_0} + J_0 (θ_t − θ_0), (rows, k)."""
        change = self._J_0[name] @ (self._theta() - self._theta_0)
        return (self._f_0[name] + change).reshape(-1, self.k)

    def smoother(self, name: str) -> Tensor:
        """Return S_t: (rows, n) for one output, (rows, k, n, labels of a point) otherwise."""
        S, width = self._rows(name)[:, :-1], self._labels.shape[1]
        return S if self.k == width == 1 else S.reshape(-1, self.k, self.n, width)

    def constant(self, name: str) -> Tensor:
        """Return c_t of f̃^S = S·Y + c: (rows,) for one output, (rows, k) otherwise.

        Raises:
            ValueError: If the loss gradient was not linear in outputs and targets.
        """
        if not self._quadratic:
            raise ValueError("c_t exists for a squared loss only; the loss in use is another")
        c = self._rows(name)[:, -1]
        return c if self.k == 1 else c.reshape(-1, self.k)

    def smoothed(self, name: str) -> Tensor:
        """Return S·Y + c, (rows, k), for a squared loss."""
        S = self._rows(name)[:, :-1]
        return (S @ self._labels.reshape(-1)).reshape(-1, self.k) + self.constant(name).reshape(
            -1, self.k
        )

    def effective_parameters(self, name: str) -> float:
        """Return p(I) = n/|I| · (1/k) Σ ‖s‖² over the rows of the set."""
        S = self._rows(name)[:, :-1]
        return self.n / count(self.sets[name]) * float((S**2).sum()) / self.k

    def degrees_of_freedom(self) -> float:
        """Return the trace of S_t on the training set."""
        return float(torch.trace(self._rows("train")[:, :-1]))
