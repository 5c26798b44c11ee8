r"""The smoother's recursion in parameter space: any optimizer with a rule, any batches.

In the symbols of MATH section 2, one step is

.. math::
    δg_t &= (∂g/∂f)\, S_{t-1}(X_B) + (∂g/∂Y)\, V_B \\
    δG_t &= J_{t-1}(X_B)^\top δg_t \\
    A_t  &= \mathrm{rule}(δG_t, A_{t-1})

and ``S_t(x)`` is the line integral of the Jacobian along A (:mod:`telescope_core.smoother.path`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from telescope_core.losses import LossGradient
from telescope_core.probes import LabelDirections
from telescope_core.smoother.base import Batch, Smoother, State
from telescope_core.smoother.path import Path
from telescope_core.update_rules import UpdateRule


class ParameterSpaceSmoother(Smoother):
    """Carries A, of shape ``(p, columns)``.

    Args:
        directions: The label directions V.
        labels: Stored labels Y, ``(n, label_width)``.
        loss: The loss gradient.
        initial: Per set, the outputs ``f_{θ_0}``.
        precision: Dtype of the model's parameters.
        order: 1 or 2.
        theta: ``θ_0``, shape ``(p,)``.
        make_rule: Builds the optimizer's rule for a number of columns, the last so many of which
            follow the parameters themselves.
    """

    name = "parameter-space"

    def __init__(
        self,
        directions: LabelDirections,
        labels: Tensor,
        loss: LossGradient,
        initial: Mapping[str, Tensor],
        precision: torch.dtype,
        order: int,
        theta: Tensor,
        make_rule: Callable[[int, int], UpdateRule],
    ) -> None:
        super().__init__(directions, labels, loss, initial, precision)
        start = theta.new_zeros(len(theta), self.columns)
        start[:, directions.count :] = theta[:, None]
        self._path = Path(order, start, self.initial_values())
        self.rule = make_rule(self.columns, self.affine_columns)
        self._gradient: Tensor | None = None
        self._expected = theta
        self._at_start: State = {}

    def open_block(self, at_start: State) -> None:  # noqa: D102
        self._at_start = at_start

    def before_step(self, batch: Batch) -> None:  # noqa: D102
        S_B = self._path.value("train", batch.at_start, batch.now, batch.index)
        V_B = self.label_columns(batch.index, batch.labels)
        f = batch.now.outputs
        scale = self.loss.scale(f, batch.targets)
        if scale is not None:
            dg = (S_B - V_B).mul_(scale)
        elif self.affine_columns:
            dg = self.loss.affine_derivative(f, batch.targets, S_B, V_B, self.directions.count)
        else:
            dg = self.loss.derivative(f, batch.targets, S_B, V_B)
        self._gradient = batch.now.vjp(dg)
        g = self.loss.gradient(f, batch.targets)
        self._expected = batch.now.vjp(g[..., None])[:, 0]

    def before_update(  # noqa: D102
        self, gradient: Tensor, recomputed: Callable[[], Tensor]
    ) -> None:
        assert self._gradient is not None
        factor = self._gradient_check.factor(gradient, self._expected, recomputed)
        if factor != 1:
            self._gradient *= factor
        self.rule.before_update()

    def after_update(self, skipped: frozenset[str]) -> None:  # noqa: D102
        assert self._gradient is not None
        self.rule.push(self._gradient, self._path.current, skipped)
        self._path.mark_moved()
        self._gradient = None

    def close_block(self, now: State) -> None:  # noqa: D102
        self._path.close_block(self._at_start)

    def values(self, name: str, now: State) -> Tensor:  # noqa: D102
        return self._path.value(name, self._at_start[name], now[name])

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        buffers = {f"rule/{name}": value for name, value in self.rule.buffers().items()}
        return {**self._path.tensors("A"), **buffers}

    def load(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        self._path.load("A", tensors)
        self.rule.load_buffers(
            {
                name.removeprefix("rule/"): value
                for name, value in tensors.items()
                if name.startswith("rule/")
            }
        )
