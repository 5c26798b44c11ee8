r"""The smoother in function space, for plain descent on a squared loss (docs/mathematics.md, 7).

Under gradient descent a step of size γ moves every telescoped prediction through the kernel
alone, ``ΔS(x) = −γ c K(x, B) (S(X_B) − V_B)`` with c the loss's scale (1/|B| for a mean of
½(f − y)²), so neither A nor anything else of size p is needed.  The kernel is held fixed over a
block, at its mean over the block's ends:

.. math:: S_e(x) = S_s(x) + \bar K(x, X)\, R, \qquad \bar K = ½ (K_s + K_e),

where R, of shape ``(n·k, columns)``, sums what each training point contributed,
``R[B] ← R[B] − γ c (S_s + K̄ R − V)[B]`` from ``R = 0``.  First order takes ``K_s`` for ``K̄``.
Nothing is computed before the end of a block, and runs of equal full-batch steps are summed in
closed form, ``Σ_{i<j} (I − γ c K̄)^i`` (:mod:`telescope_core.smoother._geometric_sum`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import ConfigurationError, LossError, TrainingMismatchError
from telescope_core.probes import LabelDirections
from telescope_core.smoother._geometric_sum import geometric_sum
from telescope_core.smoother.base import Smoother, Spans, State
from telescope_core.smoother.blocks import Batch
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.problem import Problem


@dataclass(frozen=True)
class _Run:
    """Equal consecutive steps: their rows (``None`` for the full batch), size γc and number."""

    index: Tensor | None
    eta: float
    length: int


class FunctionSpaceSmoother(Smoother):
    """Carries S alone; the cost of a step does not depend on the number of parameters."""

    name = "function-space"
    marks_gradients = True

    def __init__(self, problem: Problem, directions: LabelDirections) -> None:
        super().__init__(problem, directions)
        self._is_first_order = problem.quadrature == "start"
        self._rule = problem.make_rule(0, 0)
        self._S = self.initial_values()
        self._k = self._S["train"].shape[1]
        everything = torch.arange(len(self.labels), device=self.labels.device)
        self._V = self.label_columns(everything, self.labels).reshape(-1, self.columns)
        self._kernels: dict[str, Tensor] = {}
        self._runs: list[_Run] = []
        self._pending: tuple[Batch, float] | None = None
        self._full_batch: Tensor | None = None

    @classmethod
    @override
    def entries(cls, problem: Problem, directions: int) -> int:
        labels, outputs = problem.labels.numel(), problem.outputs
        each = 2 * outputs + 4 * labels
        kernels = 3 * outputs * labels
        return labels * directions + kernels + (directions + problem.affine_columns) * each

    @classmethod
    @override
    def reason_against(cls, problem: Problem) -> str | None:
        if problem.layers is not None:
            return (
                "layer_shares=True needs the parameters, which strategy='function-space' does not "
                "follow; use strategy='auto' or 'parameter-space'"
            )
        if not (problem.loss.is_quadratic and problem.make_rule(0, 0).is_plain):
            return (
                "strategy='function-space' is for plain SGD (no momentum, no weight decay, one "
                "learning rate) on a squared loss; use strategy='auto' or 'parameter-space'"
            )
        return None

    @classmethod
    @override
    def suits(cls, problem: Problem, first: Batch) -> bool:
        whole = first.stored and _holds_every_point(first.index, len(problem.labels))
        return whole and problem.loss.scale(first.targets) is not None

    @property
    def is_in_block(self) -> bool:
        """Whether a step was taken since the block started."""
        return bool(self._runs)

    @override
    def open_block(self, at_start: State) -> None:
        if not self._kernels:
            self._kernels = self._kernels_at(at_start)

    @override
    def before_step(self, batch: Batch) -> None:
        if not batch.stored:
            raise ConfigurationError(
                "training saw other inputs or targets than the stored ones (augmentation?), which "
                "strategy='function-space' cannot follow; use strategy='parameter-space'"
            )
        scale = self.loss.scale(batch.targets)
        if scale is None:
            raise LossError(
                f"the gradient of the loss is not c·(f − y) on a batch of {len(batch.index)} "
                "rows, as strategy='function-space' needs; use strategy='parameter-space'"
            )
        self._pending = (batch, scale)

    @override
    def before_update(self, seen: SeenGradient) -> None:
        # The kernel is frozen so that steps need no Jacobian of their own: one look a block, and
        # whenever something else than backpropagation has written to the gradients.
        if (self.is_in_block and not seen.touched) or self._pending is None:
            return
        batch, scale = self._pending
        if seen.frozen:
            raise TrainingMismatchError(
                "parameters were frozen during training, which strategy='function-space' does not "
                "follow; use strategy='parameter-space'"
            )
        f = batch.now.outputs
        self.loss.check(f, batch.targets)
        g = self.loss.gradient(f, batch.targets)
        residual = scale * (f - batch.labels)
        rounding = torch.finfo(f.dtype).eps ** 0.75 * abs(scale)
        if not float((g - residual).abs().max()) <= rounding * float((f.abs() + 1).max()):
            raise LossError(
                f"the gradient of the loss is not {scale:.4g}·(f − y) on this batch, as "
                "strategy='function-space' needs; use strategy='parameter-space'"
            )
        factor = self.gradient_check.factor(seen, batch.now.vjp(g[..., None])[:, 0])
        if factor != 1:
            raise TrainingMismatchError(
                f"the gradient was scaled by {factor:.4g} before the step (clipping, loss "
                "scaling), which strategy='function-space' does not follow; use "
                "strategy='parameter-space'"
            )

    @override
    def after_update(self, skipped: frozenset[str]) -> None:
        assert self._pending is not None
        batch, scale = self._pending
        index = batch.index
        self._pending = None
        self._rule.require_plain()
        eta = scale * self._rule.learning_rate
        full = self._is_full(index)
        last = self._runs[-1] if self._runs else None
        if full and last is not None and last.index is None and last.eta == eta:
            self._runs[-1] = _Run(None, eta, last.length + 1)
        else:
            self._runs.append(_Run(None if full else index.clone(), eta, 1))

    @override
    def close_block(self, spans: Spans) -> None:
        kernels = self._kernels_at({name: span.now for name, span in spans.items()})
        R = self._contributions(kernels["train"])
        for name, S in self._S.items():
            self._S[name] = self._moved(S, self._mean(name, kernels[name]), R)
        self._kernels = kernels
        self._runs = []

    @override
    def values(self, name: str, spans: Spans) -> Tensor:
        if not self.is_in_block:
            return self._S[name].clone()
        now = {each: span.now for each, span in spans.items()}
        train = self._kernel_at("train", now)
        R = self._contributions(train)
        kernel = train if name == "train" else self._kernel_at(name, now)
        return self._moved(self._S[name], self._mean(name, kernel), R)

    @override
    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"S/{name}": S for name, S in self._S.items()}
        for position, run in enumerate(self._runs):
            size = torch.tensor([run.eta, float(run.length)], dtype=torch.float64)
            tensors[f"runs/{position:06d}/size"] = size
            if run.index is not None:
                tensors[f"runs/{position:06d}/index"] = run.index
        return tensors

    @override
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._S = {name: tensors[f"S/{name}"].clone() for name in self._S}
        self._runs = []
        for key in sorted(tensors):
            if key.startswith("runs/") and key.endswith("/size"):
                eta, length = tensors[key].tolist()
                index = tensors.get(key.removesuffix("size") + "index")
                self._runs.append(_Run(index, eta, int(length)))

    def _is_full(self, index: Tensor) -> bool:
        """Whether every training point is in the batch once."""
        # Comparing with the last full batch costs less than counting, and most are the same.
        if self._full_batch is not None and torch.equal(index, self._full_batch):
            return True
        full = _holds_every_point(index, len(self.labels))
        if full:
            self._full_batch = index.clone()
        return full

    def _kernels_at(self, state: State) -> dict[str, Tensor]:
        return {name: self._kernel_at(name, state) for name in self._S}

    def _kernel_at(self, name: str, state: State) -> Tensor:
        """``K(x, X)`` at one θ, shape ``(rows·k, n·k)``."""
        return state[name].gram(state["train"]).view(-1, len(self._V))

    def _mean(self, name: str, kernel_now: Tensor) -> Tensor:
        start = self._kernels[name]
        return start if self._is_first_order else (start + kernel_now).mul_(0.5)

    def _moved(self, S: Tensor, kernel: Tensor, R: Tensor) -> Tensor:
        return torch.addmm(S.view(-1, self.columns), kernel, R).view(S.shape)

    def _contributions(self, kernel_now: Tensor) -> Tensor:
        """R of the open block, shape ``(n·k, columns)``."""
        K = self._mean("train", kernel_now)
        start = self._S["train"].view(-1, self.columns) - self._V
        R = torch.zeros_like(self._V)
        for position, run in enumerate(self._runs):
            if run.index is None:
                residual = torch.addmm(start, K, R) if position else start
                R.sub_(geometric_sum(run.eta * K, run.length, residual), alpha=run.eta)
            else:
                outputs = torch.arange(self._k, device=run.index.device)
                rows = (run.index[:, None] * self._k + outputs).flatten()
                residual = start[rows] + K[rows] @ R
                R.index_add_(0, rows, residual, alpha=-run.eta)
        return R


def _holds_every_point(index: Tensor, points: int) -> bool:
    return len(index) == points and int(index.bincount().max()) == 1
