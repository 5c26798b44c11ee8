r"""The smoother in function space, for SGD with momentum on a squared loss and any batches.

Over a block J is held fixed, so the derivative columns stay in the span of what the block began
with and of the training rows (docs/mathematics.md, 7): with M the momentum,

.. math:: A_t = A_s + J^\top R_t + ρ_t M_s, \qquad M_t = α_t M_s + J^\top Q_t,

where R and Q, of shape ``(n·k, columns)``, sum what each training point contributed and ρ, α are
numbers.  A step ``M ← a M + b G``, ``Δθ = −(γ_M M + γ_G G)`` on the batch B with
``δg = c (S(X_B) − V_B)`` is then

.. math::
    S_t(X_B) &= S_s(X_B) + \bar K(X_B, X) R + ρ \bar J(X_B) M_s \\
    Q &← a Q + b\,δg, \qquad R ← R - γ_M Q - γ_G\,δg, \qquad α ← a α, \qquad ρ ← ρ - γ_M α ,

with ``K̄ = ½ (K_s + K_e)`` and ``J̄ = ½ (J_s + J_e)`` (first order: at the start).  It costs
``|B|·n·columns`` whatever the number of parameters, which are met at the ends of blocks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import TrainingMismatchError
from telescope_core.jacobians import LinearizedRows
from telescope_core.probes import LabelDirections
from telescope_core.smoother.base import Spans, State, below
from telescope_core.smoother.function_space import FunctionSpaceSmoother
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.smoother.problem import Problem
from telescope_core.smoother.stiff_modes import StiffModes
from telescope_core.update_rules import Recursion


@dataclass(frozen=True)
class _Step:
    """One step of the open block: its rows, c, and the optimizer's recursion."""

    index: Tensor
    scale: float
    recursion: Recursion


@dataclass(frozen=True)
class _Moved:
    """What the steps of the open block add up to."""

    R: Tensor
    Q: Tensor
    rho: float
    alpha: float


class MomentumSpaceSmoother(FunctionSpaceSmoother):
    """Carries S and the momentum of the columns, ``(p, columns)``."""

    def __init__(self, problem: Problem, directions: LabelDirections) -> None:
        super().__init__(problem, directions)
        self._M = problem.theta.new_zeros(len(problem.theta), self.columns)
        rule = problem.make_rule(self.columns, self.affine_columns)
        for slot in rule.slots:
            held = rule.buffer("momentum", slot)
            if held is not None:
                self._M[slot.segment.rows] = held
        self._steps: list[_Step] = []
        self._at_start: State = {}
        self._starts_anew = False
        self._read: tuple[LinearizedRows, Tensor, _Moved] | None = None  # all sets of a reading
        self._skipped: frozenset[str] | None = None
        self._stiff: StiffModes | None = None
        if directions.deflated and not directions.is_exact:
            leading = directions.basis.flatten(0, 1)[:, : directions.deflated]
            self._stiff = StiffModes.begin(leading)

    @classmethod
    @override
    def entries(cls, problem: Problem, directions: int) -> int:
        columns = directions + problem.affine_columns
        each = 3 * problem.layout.size + 3 * problem.labels.numel()
        return super().entries(problem, directions) + columns * each

    @classmethod
    @override
    def reason_against(cls, problem: Problem) -> str | None:
        followed = problem.loss.is_quadratic and problem.make_rule(0, 0).exact_recursion()
        if problem.layers is not None:
            return super().reason_against(problem)
        if followed:
            return None
        return (
            "strategy='function-space' is for plain SGD with or without momentum (no weight decay, "
            "dampening or maximize, one set of options for all parameters) on a squared loss; use "
            "strategy='auto' or 'parameter-space'"
        )

    @property
    @override
    def is_in_block(self) -> bool:
        return bool(self._steps)

    @override
    def open_block(self, at_start: State) -> None:
        super().open_block(at_start)
        self._at_start = at_start

    @override
    def before_update(self, seen: SeenGradient) -> None:
        super().before_update(seen)
        self._starts_anew = not self._rule.has_begun

    @override
    def after_update(self, skipped: frozenset[str]) -> None:
        assert self._pending is not None
        batch, scale = self._pending
        self._pending = None
        recursion = self._rule.exact_recursion()
        if recursion is None or (self._skipped is not None and skipped != self._skipped):
            raise TrainingMismatchError(
                "weight decay, dampening, maximize or options that differ between parameters were "
                "set during training, or a parameter had a gradient in some steps and none in "
                "others, which strategy='function-space' does not follow; use "
                "strategy='parameter-space'"
            )
        self._skipped = skipped
        if self._starts_anew:
            _, *others = astuple(recursion)
            recursion = Recursion(0.0, *others)
        self._read = None
        self._steps.append(_Step(batch.index.clone(), scale, recursion))

    @override
    def close_block(self, spans: Spans) -> None:
        now = {name: span.now for name, span in spans.items()}
        kernels = self._kernels_at(now)
        moved = self._follow(kernels["train"], now["train"], self._stiff)
        for name in self._S:
            self._S[name] = self._value(name, kernels[name], now[name], moved)
        pulled = self._averaged(
            "train", now["train"], lambda rows: rows.vjp(moved.Q.view(-1, self._k, self.columns))
        )
        self._M.mul_(moved.alpha).add_(pulled)
        self._kernels = kernels
        self._steps = []
        self._read = None

    @override
    def values(self, name: str, spans: Spans) -> Tensor:
        if not self.is_in_block:
            return self._S[name].clone()
        now = {each: span.now for each, span in spans.items()}
        if self._read is None or self._read[0] is not now["train"]:
            train = self._kernel_at("train", now)
            self._read = (now["train"], train, self._follow(train, now["train"]))
        _, train, moved = self._read
        kernel = train if name == "train" else self._kernel_at(name, now)
        return self._value(name, kernel, now[name], moved)

    @override
    def model(self, name: str) -> LowRankSmoother | None:
        if self._stiff is None:
            return None
        H = {each: self._kernels[each] @ self._stiff.U for each in {"train", name}}
        H = {each: rows.view(-1, self._k, rows.shape[-1]) for each, rows in H.items()}
        return self._stiff.low_rank(H[name], self._stiff.inverted(H["train"]))

    @override
    def tensors(self) -> dict[str, Tensor]:
        tensors = {**super().tensors(), "momentum": self._M}
        for position, step in enumerate(self._steps):
            numbers = [step.scale, *astuple(step.recursion)]
            tensors[f"steps/{position:06d}/index"] = step.index
            tensors[f"steps/{position:06d}/numbers"] = torch.tensor(numbers, dtype=torch.float64)
        modes = {} if self._stiff is None else self._stiff.tensors()
        return tensors | {f"stiff/{name}": value for name, value in modes.items()}

    @override
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self._M = tensors["momentum"].clone()
        self._read = None
        steps = below("steps/", tensors)
        self._steps = []
        for position in sorted({key.partition("/")[0] for key in steps}):
            scale, *numbers = steps[f"{position}/numbers"].tolist()
            index = steps[f"{position}/index"].clone()
            self._steps.append(_Step(index, scale, Recursion(*numbers)))
        modes = below("stiff/", tensors)
        self._stiff = StiffModes.restore(modes) if modes else None

    def _follow(
        self, kernel_now: Tensor, now: LinearizedRows, stiff: StiffModes | None = None
    ) -> _Moved:
        """Take the steps of the open block, those of the stiff modes too if these are given."""
        K = self._mean("train", kernel_now)
        pushed = self._pushed("train", now).view(-1, self.columns)
        start = self._S["train"].view(-1, self.columns) - self._V
        H = None if stiff is None else K @ stiff.U
        R, Q = torch.zeros_like(self._V), torch.zeros_like(self._V)
        rho, alpha = 0.0, 1.0
        outputs = torch.arange(self._k, device=K.device)
        for step in self._steps:
            rows = (step.index[:, None] * self._k + outputs).flatten()
            dg = torch.addmm(start[rows], K[rows], R).add_(pushed[rows], alpha=rho)
            dg.mul_(step.scale)
            by = step.recursion
            Q.mul_(by.memory).index_add_(0, rows, dg, alpha=by.gain)
            R.sub_(Q, alpha=by.momentum_rate)
            if by.gradient_rate:
                R.index_add_(0, rows, dg, alpha=-by.gradient_rate)
            alpha *= by.memory
            rho -= by.momentum_rate * alpha
            if stiff is not None and H is not None:
                stiff.advance(rows, step.scale, H[rows], by)
        return _Moved(R, Q, rho, alpha)

    def _value(self, name: str, kernel_now: Tensor, now: LinearizedRows, moved: _Moved) -> Tensor:
        S = self._moved(self._S[name], self._mean(name, kernel_now), moved.R)
        return S.add_(self._pushed(name, now), alpha=moved.rho)

    def _pushed(self, name: str, now: LinearizedRows) -> Tensor:
        """``J̄ M_s`` on a set, shape ``(rows, k, columns)``."""
        return self._averaged(name, now, lambda rows: rows.jvp(self._M))

    def _averaged(
        self, name: str, now: LinearizedRows, product: Callable[[LinearizedRows], Tensor]
    ) -> Tensor:
        """A product with J̄ of a set over the open block, which ends at ``now``."""
        at_start = product(self._at_start[name])
        return at_start if self._is_first_order else at_start.add_(product(now)).mul_(0.5)
