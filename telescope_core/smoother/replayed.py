r"""The smoother through training as it was run: dropout, batch statistics, augmented rows.

The state is ``z = (θ, b)``, parameters and the buffers that training moves, with columns A and D
(docs/mathematics.md, section 13).  Every pass of training is run again at the same random state,
and differentiated as one function of the whole batch:

.. math::
    (δo, D_t) &= ∂(o, b)/∂z · (A_{t-1}, D_{t-1}) \\
    δg_t &= (∂g/∂o)\, δo + (∂g/∂Y)\, V_B \\
    δG_t &= (∂o/∂θ)^\top δg_t \; [+ \; ∂((∂o/∂θ)^\top g)/∂z · (A, D)] \\
    A_t  &= \mathrm{rule}(δG_t, A_{t-1})

The bracket is the curvature of the network, which the telescoping model leaves out; with it A is
the exact derivative of the run.  Nothing of the size of the training set is kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import RefusalWarning, TrainingMismatchError
from telescope_core.jacobians import LinearizedRows
from telescope_core.jacobians.pass_graph import Trust
from telescope_core.jacobians.training_pass import TrainingPass
from telescope_core.network.passes import Pass
from telescope_core.network.replicas import Replicas
from telescope_core.probes import Directions
from telescope_core.smoother.base import Smoother, Spans, State, below
from telescope_core.smoother.blocks import Batch, Span
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.path import make_path
from telescope_core.smoother.problem import Problem
from telescope_core.smoother.unfollowed import Unfollowed
from telescope_core.update_rules import UpdateRule


@dataclass(frozen=True)
class _Again:
    """A pass of training that was run again.

    Attributes:
        record: The pass.
        run: Its products.
        do: ``∂o/∂z · (A, D)``, shape ``(rows, k, columns)``.
        D: Columns of the buffers when it began.
    """

    record: Pass
    run: TrainingPass
    do: Tensor
    D: Tensor


class ReplayedSmoother(Smoother):
    """Carries A and D, of shape ``(p + q, columns)``."""

    def __init__(self, problem: Problem, directions: Directions) -> None:
        super().__init__(problem, directions)
        assert problem.replay is not None
        self._replay = problem.replay
        self._function = function = problem.replay.linearizer.function
        self._p = problem.layout.size
        start = problem.theta.new_zeros(function.layout.size, self.columns)
        values = self.initial_values()
        self._path = make_path(problem.quadrature, start, values, problem.layers)
        self.rule = problem.make_rule(self.columns, 0)
        self._is_full = problem.replay.curvature == "full"
        self._has_said_so = False
        if self._is_full:
            self.rule.follow_denominators()
        self._unfollowed = Unfollowed(problem.replay.model, function.layout.by_name)
        self._start: dict[str, LinearizedRows] = {}
        self._z_start: Tensor | None = None
        self._now: tuple[Tensor, dict[str, LinearizedRows]] | None = None
        self._batch: Batch | None = None
        self._trust = Trust()
        self._gradient = torch.zeros(0)
        self._again: dict[int, _Again] = {}
        self._is_compared = False

    @classmethod
    @override
    def entries(cls, problem: Problem, directions: int) -> int:
        assert problem.replay is not None
        arrays = 6
        if problem.replay.curvature == "full":
            # Here, so that a rule without an exact form is refused before training.
            rule = problem.make_rule(0, 0)
            rule.follow_denominators()
            arrays += rule.denominator_columns
        each = arrays * problem.replay.linearizer.function.layout.size + 2 * problem.outputs
        return problem.kept_labels * directions + directions * each

    @property
    @override
    def name(self) -> str:
        return "replayed"

    @override
    def open_block(self, at_start: State) -> None:
        self._trust.is_due = True
        z, self._z_start = self._z_start, None
        if z is None:
            self._start = self._linearized()
        else:
            self._start = {name: rows.linearize(z) for name, rows in self._replay.sets.items()}

    @override
    def before_step(self, batch: Batch) -> None:
        self._batch = batch

    @override
    def before_update(self, seen: SeenGradient) -> None:
        assert self._batch is not None
        total, pulled = torch.zeros_like(self._A), self._A.new_zeros(self._p)
        for again, index, targets in self._passes(self._batch):
            outputs = again.run.outputs
            g = self.loss.gradient(outputs, targets)
            factor = _factor(again.record, g, self._function.precision)
            self.loss.check(outputs, targets)
            V_B = self.directions.rows(index)
            dg = self.loss.derivative(outputs, targets, again.do, V_B)
            both = again.run.pull(factor * torch.cat([dg, g[..., None]], dim=-1))
            total += both[:, :-1]
            pulled += both[:, -1]
            if self._is_full:
                total += again.run.bend(factor * g, torch.cat([self._A, again.D]))
        if self._replay.replicas is not None:
            self._average(self._replay.replicas, total, pulled)
        for rows in seen.frozen:
            pulled[rows] = 0
            total[rows] = 0
        factor = self.gradient_check.factor(seen, pulled)
        if factor != 1 and self._is_full and not _is_loss_scale(factor):
            self._say_that_it_is_held(factor)
        total *= factor
        self._gradient = total
        self.rule.before_update()
        if self._is_full:
            self.rule.look_at(seen.gradient)

    @override
    def after_update(self, skipped: frozenset[str]) -> None:
        self.rule.push(self._gradient, self._A, skipped)
        self._path.mark_moved()
        self._again.clear()
        self._batch = self._now = None

    @override
    def leave_out(self) -> None:
        self._follow_passes()

    @override
    def close_block(self, spans: Spans) -> None:
        self._follow_passes()
        self._path.close_block(self._spans())

    @override
    def values(self, name: str, spans: Spans) -> Tensor:
        self._follow_passes()
        return self._path.value(name, self._spans()[name])

    @override
    def values_end_to_end(self, name: str, spans: Spans) -> Tensor:
        self._follow_passes()
        return self._linearized()[name].jvp(self._path.current)

    @override
    def values_by_layer(self, name: str, spans: Spans) -> Tensor:
        self._follow_passes()
        return self._path.value_by_layer(name, self._spans()[name])

    @override
    def tensors(self) -> dict[str, Tensor]:
        self._follow_passes()
        buffers = {f"rule/{name}": value for name, value in self.rule.buffers().items()}
        start = next(iter(self._start.values())).theta
        return {**self._path.tensors("Z"), **buffers, "z_start": start}

    @override
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._path.load("Z", tensors)
        self.rule.load_buffers(below("rule/", tensors))
        self._z_start = tensors["z_start"].clone()

    @property
    @override
    def unfollowed_names(self) -> tuple[str, ...]:
        return tuple(self._unfollowed.names)

    @override
    def rule_in_use(self) -> UpdateRule:
        return self.rule

    def _say_that_it_is_held(self, factor: float) -> None:
        if not self._has_said_so:
            self._has_said_so = True
            warnings.warn(
                f"gradients were multiplied by {factor:.3g} after backpropagation (clipping by "
                "norm?); curvature='full' holds such a factor fixed, so columns are the exact "
                "derivative of the run only as far as labels do not move it",
                RefusalWarning,
                stacklevel=2,
            )

    def gradient_as_trained(self, batch: Batch) -> Tensor:
        """The gradient of the passes by plain backpropagation in training's kernels, ``(p,)``."""
        total = self._path.current.new_zeros(self._p)
        for again, _, _ in self._passes(batch):
            total += again.run.backpropagated()
        return total

    @property
    def _A(self) -> Tensor:
        return self._path.current[: self._p]

    def _follow_passes(self) -> list[_Again]:
        """Run again what training has run since the last step: D follows the buffers.

        Returns:
            All passes since then.
        """
        replay = self._replay
        made = replay.recorder.passes
        self._again = {key: a for key, a in self._again.items() if any(a.record is m for m in made)}
        for record in made:
            if id(record) in self._again:
                continue
            if record.shares_buffers and replay.replicas is not None:
                # Of this process or not, they are where the first one has left them.
                self._share_D(replay.replicas)
            else:
                self._unfollowed.look(record.buffers, record.autocast)
            if record.is_given_back:
                self._unfollowed.name(["a state carried from pass to pass"])
            run = TrainingPass(
                replay.model, replay.output, record, self._function, self._p, self._trust
            )
            self._unfollowed.look_at(run)
            D = self._path.current[self._p :]
            do, after = run.push(self._path.current)
            self._again[id(record)] = _Again(record, run, do, D.clone())
            D.copy_(after)
            self._path.mark_moved()
        self._unfollowed.look(dict(replay.model.named_buffers()), None)
        return [self._again[id(record)] for record in made]

    def _share_D(self, replicas: Replicas) -> None:
        D = self._path.current[self._p :].contiguous()
        replicas.take_first(D)
        self._path.current[self._p :] = D

    def _average(self, replicas: Replicas, *gradients: Tensor) -> None:
        """Follow what ``DistributedDataParallel`` does with gradients."""
        if not self._is_compared:
            some = torch.linspace(0, self.directions.n - 1, 8, device=self._A.device).long()
            rows = self.directions.rows(some).flatten().double()
            replicas.require_same(rows.new_tensor([self._p, self.columns]), rows.norm(), rows.sum())
            self._is_compared = True
        replicas.average(*gradients)

    def _passes(self, batch: Batch) -> Iterator[tuple[_Again, Tensor, Tensor]]:
        """The passes that made the gradient, each with its positions and targets."""
        used = [again for again in self._follow_passes() if again.record.cotangent is not None]
        rows = sum(again.record.rows for again in used)
        if rows != len(batch.index):
            raise TrainingMismatchError(
                f"lens.step() was given {len(batch.index)} positions, and training "
                f"differentiated {len(used)} passes of the model with {rows} rows; name the "
                "positions of all rows, in the order in which the model saw them, and give the "
                "lens the model that training calls: what torch.compile or a wrapper returned"
            )
        start = 0
        for again in used:
            part = slice(start, start + again.record.rows)
            yield again, batch.index[part], batch.targets[part]
            start = part.stop

    def _linearized(self) -> dict[str, LinearizedRows]:
        """Every set at z as it is now."""
        z = self._function.theta()
        if self._now is None or not torch.equal(self._now[0], z):
            sets = self._replay.sets
            self._now = z, {name: rows.linearize(z).keep() for name, rows in sets.items()}
        return self._now[1]

    def _spans(self) -> dict[str, Span]:
        now = self._linearized()
        return {name: Span(start, now[name]) for name, start in self._start.items()}


def _is_loss_scale(factor: float) -> bool:
    """Whether it undoes a factor that ``GradScaler`` puts on losses, a power of two."""
    power = math.log2(factor)
    return power < 0 and abs(power - round(power)) < 1e-4


def _factor(record: Pass, g: Tensor, computed_in: torch.dtype) -> float:
    """By how much what was backpropagated exceeds ``g``: scales, shares of accumulated batches.

    Returns:
        The factor; 1 where g is zero.

    Raises:
        TrainingMismatchError: It is no multiple of it.
    """
    assert record.cotangent is not None
    seen = record.cotangent.to(g)
    size = float(torch.linalg.vector_norm(g)) ** 2
    if size == 0:
        return 1.0
    factor = float((seen * g).sum()) / size
    precisions = (record.cotangent.dtype, g.dtype, computed_in, record.autocast or g.dtype)
    coarse = max(torch.finfo(dtype).eps for dtype in precisions)
    gap = float(torch.linalg.vector_norm(seen - factor * g))
    if not gap <= 4 * coarse**0.5 * float(torch.linalg.vector_norm(seen)):
        raise TrainingMismatchError(
            "what was backpropagated through the model's outputs is not a multiple of the "
            "gradient of the given loss on the given targets (another loss, several losses, other "
            "targets?); pass the loss and the targets that training uses, or use probes=None"
        )
    return factor
