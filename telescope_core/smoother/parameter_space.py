r"""The smoother's recursion in parameter space: any optimizer with a rule, any batches.

In the symbols of docs/mathematics.md, section 3, one step is

.. math::
    δg_t &= (∂g/∂f)\, S_{t-1}(X_B) + (∂g/∂Y)\, V_B \\
    δG_t &= J_{t-1}(X_B)^\top δg_t \\
    A_t  &= \mathrm{rule}(δG_t, A_{t-1})

and ``S_t(x)`` is the line integral of the Jacobian along A (:mod:`telescope_core.smoother.path`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.probes import LabelDirections
from telescope_core.smoother.base import Smoother, Spans, State, below
from telescope_core.smoother.blocks import Batch
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.smoother.path import make_path
from telescope_core.smoother.problem import Problem
from telescope_core.smoother.stiff_modes import StiffModes
from telescope_core.update_rules import UpdateRule


class ParameterSpaceSmoother(Smoother):
    """Carries A, of shape ``(p, columns)``.

    Of the two quadratures of second order the midpoint has half the error of the trapezoid and
    takes one product instead of two; the rows cost one more linearisation, which is little beside
    a product with many columns.
    """

    def __init__(self, problem: Problem, directions: LabelDirections) -> None:
        super().__init__(problem, directions)
        theta = problem.theta
        start = theta.new_zeros(len(theta), self.columns)
        start[:, directions.count :] = theta[:, None]
        self._quadrature = problem.quadrature
        self._path = make_path(self._quadrature, start, self.initial_values(), problem.layers)
        self.rule = problem.make_rule(self.columns, self.affine_columns)
        self._gradient = torch.empty_like(start)
        self._pulled = theta[:, None]
        self._stiff = self._begin_stiff_modes()
        self._batch: Batch | None = None
        self._scale: float | None = None
        self._at_start: State = {}

    @classmethod
    @override
    def entries(cls, problem: Problem, directions: int) -> int:
        # A, its block start, a difference, the gradient, a momentum buffer and, for the trapezoid,
        # the start of the block before.
        arrays = 6 if problem.quadrature == "trapezoid" else 5
        split = 0 if problem.layers is None else problem.layers.count
        each = arrays * problem.layout.size + (2 + split) * problem.outputs
        return problem.labels.numel() * directions + (directions + problem.affine_columns) * each

    @property
    @override
    def name(self) -> str:
        return "midpoint" if self._quadrature == "midpoint" else "parameter-space"

    @override
    def open_block(self, at_start: State) -> None:
        self._at_start = at_start

    @override
    def before_step(self, batch: Batch) -> None:
        S_B = self._path.value("train", batch, batch.index)
        V_B = self.label_columns(batch.index, batch.labels)
        f = batch.now.outputs
        self.loss.check(f, batch.targets)
        scale = self.loss.scale(batch.targets)
        if scale is not None:
            dg = (S_B - V_B).mul_(scale)
        elif self.affine_columns:
            dg = self.loss.affine_derivative(f, batch.targets, S_B, V_B, self.directions.count)
        else:
            dg = self.loss.derivative(f, batch.targets, S_B, V_B)
        batch.now.vjp(dg, out=self._gradient)
        self._batch, self._scale = batch, scale
        # What the optimizer's gradient is checked against, and what the stiff modes need of J.
        if scale is not None:
            g = ((f - batch.labels) * scale)[..., None]
        else:
            g = self.loss.gradient(f, batch.targets)[..., None]
        if self._stiff is not None:
            g = torch.cat([g, self._stiff.cotangents(batch.index, f.shape[1])], dim=-1)
        self._pulled = batch.now.vjp(g)

    @override
    def before_update(self, seen: SeenGradient) -> None:
        for rows in seen.frozen:
            self._pulled[rows] = 0
            self._gradient[rows] = 0
        factor = self.gradient_check.factor(seen, self._pulled[:, 0])
        if factor != 1:
            self._gradient *= factor
            self._scale = None if self._scale is None else self._scale * factor
        self.rule.before_update()

    @override
    def after_update(self, skipped: frozenset[str]) -> None:
        path = self._path.to_push(self.rule.reads_position)
        self.rule.push(self._gradient, path, skipped)
        self._path.mark_moved()
        if self._stiff is not None:
            self._follow_stiff_modes(self._stiff)
        self._batch = None

    @override
    def close_block(self, spans: Spans) -> None:
        self._path.close_block(spans)

    @override
    def values(self, name: str, spans: Spans) -> Tensor:
        return self._path.value(name, spans[name])

    @override
    def values_end_to_end(self, name: str, spans: Spans) -> Tensor:
        return spans[name].now.jvp(self._path.current[:, : self.directions.count])

    @override
    def values_by_layer(self, name: str, spans: Spans) -> Tensor:
        return self._path.value_by_layer(name, spans[name])

    @override
    def tensors(self) -> dict[str, Tensor]:
        buffers = {f"rule/{name}": value for name, value in self.rule.buffers().items()}
        modes = {} if self._stiff is None else self._stiff.tensors()
        stiff = {f"stiff/{name}": value for name, value in modes.items()}
        return {**self._path.tensors("A"), **buffers, **stiff}

    @override
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._path.load("A", tensors)
        self.rule.load_buffers(below("rule/", tensors))
        modes = below("stiff/", tensors)
        self._stiff = StiffModes.restore(modes) if modes else None

    @override
    def rule_in_use(self) -> UpdateRule:
        return self.rule

    @override
    def model(self, name: str) -> LowRankSmoother | None:
        return None if self._stiff is None else self._stiff.model(name, self._at_start)

    def _begin_stiff_modes(self) -> StiffModes | None:
        directions = self.directions
        assert isinstance(directions, LabelDirections)
        deflated = 0 if directions.is_exact else directions.deflated
        if not deflated or not self.loss.is_quadratic:
            return None
        return StiffModes.begin(directions.basis.flatten(0, 1)[:, :deflated])

    def _follow_stiff_modes(self, stiff: StiffModes) -> None:
        """Take the step in, or stop for good where the step does not fit the model."""
        assert self._batch is not None
        index, now = self._batch.index, self._batch.now
        if self._scale is None or self.rule.recursion() is None:
            self._stiff = None
        else:
            stiff.step(index, self._scale, now, self._pulled[:, 1:], self.rule)
