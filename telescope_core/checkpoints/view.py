"""What is known at one checkpoint of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from telescope_core.errors import ConfigurationError
from telescope_core.smoother import Order, quadrature_of
from telescope_core.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class CheckpointView:
    """What the telescoping model says at one checkpoint; holds nothing of the size of θ.

    Attributes:
        step: The checkpoint's step.
        order: Of the record and of the contributions.
        metrics: For each set s: ``s/approximation_error`` (mean |f − f̃|),
            ``s/linearization_error`` (mean |f − f_lin|) and ``s/buffer_change`` (mean |f with the
            checkpoint's buffers − f with the previous ones|, both at the checkpoint's θ; 0 at the
            first).  f̃ and f_lin follow θ alone, so such a change stays in their errors.
            From the second checkpoint on, for each layer l: ``s/contribution/l``
            (mean |J̄_l Δθ_l|) and ``s/gradient_change/l``, see
            :func:`telescope_core.from_checkpoints`.
            With training inputs: ``s/kernel_norm_mean`` and ``s/kernel_norm_max``, both at the
            checkpoint.
    """

    step: int
    order: Order
    metrics: dict[str, float]
    _outputs: dict[str, Tensor]
    _telescoped: dict[int, dict[str, Tensor]]
    _linearized: dict[str, Tensor]
    _contributions: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def predictions(self, name: str) -> Tensor:
        """The network's own outputs f on a set, shape ``(rows, k)``."""
        return _of(self._outputs, name)

    def telescoped(self, name: str, order: Order | None = None) -> Tensor:
        """The telescoped predictions f̃ on a set (docs/mathematics.md, section 2).

        Args:
            name: The set.
            order: 1 (the paper) or 2 (trapezoid rule); ``None`` for the record's.

        Returns:
            f̃ at the checkpoint, shape ``(rows, k)``.

        Raises:
            ConfigurationError: No such set or order.
        """
        chosen = self.order if order is None else order
        quadrature_of(chosen)
        return _of(self._telescoped[chosen], name)

    def linearized(self, name: str) -> Tensor:
        """The lazy linearisation ``f_{θ_0} + J_0 (θ_t − θ_0)`` on a set, shape ``(rows, k)``."""
        return _of(self._linearized, name)

    def contributions(self, name: str) -> dict[str, Tensor]:
        """How far each layer's Δθ moved f̃ since the previous checkpoint, with its sign.

        Returns:
            Per layer ``J̄_l Δθ_l``, shape ``(rows, k)``; they sum to the increment of f̃.  Empty at
            the first checkpoint, and when contributions were not asked for.
        """
        _of(self._outputs, name)
        return self._contributions.get(name, {})

    def snapshot(self) -> Snapshot:
        """The measures as the lens gives them."""
        return Snapshot(self.step, dict(self.metrics))

    def to_record(self) -> dict[str, float]:
        """A flat dict ``{"step": ..., name: value, ...}``, ready for any tracker."""
        return self.snapshot().to_record()


def _of(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ConfigurationError(f"no set named {name!r}; there are {', '.join(tensors)}")
    return tensors[name]
