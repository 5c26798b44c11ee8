r"""Every set linearised at the parameters as they are now, and what is believed of it checked.

The telescoping model follows θ.  What else a model's outputs depend on (buffers, settings, frozen
parameters) may change between steps; predictions then take the change as it is,

.. math:: f̃_e = f̃_s + \bar J\,(θ_e - θ_s) + [f(θ_s, b_e) - f(θ_s, b_s)],

with :math:`\bar J` from the Jacobians at :math:`(θ_s, b_e)` and :math:`(θ_e, b_e)`, which leaves an
error of third order as for θ alone; and the smoother, which knows nothing of it, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError, listed
from telescope_core.jacobians import LinearizedRows, Linearizer, RowSet, spot_check
from telescope_core.lens.track import Track
from telescope_core.network import NetworkState, own_streams

_ROUNDINGS = 100.0
_AT_FIRST = 4
_UNSEEN = "something that the model does not hold itself (inputs, a hook, a global?)"


@dataclass(frozen=True)
class Now:
    """The sets at one moment.

    Attributes:
        step: Steps followed then.
        theta: θ, shape ``(p,)``.
        rows: Per set, its rows linearised there.
        state: What else the model held.
        shift: Per set, by how much outputs changed at ``θ_s`` since the block started, ``(rows,
            k)``; empty where nothing but θ has changed.
        at_start: Per set, its rows linearised at ``θ_s`` with what the model holds now; empty where
            nothing but θ has changed.
        culprits: Names of what changed them.
    """

    step: int
    theta: Tensor
    rows: dict[str, LinearizedRows]
    state: NetworkState
    shift: dict[str, Tensor] = field(default_factory=dict)
    at_start: dict[str, LinearizedRows] = field(default_factory=dict)
    culprits: tuple[str, ...] = ()

    def require_still(self) -> None:
        """Refuse a change that the smoother cannot follow.

        Raises:
            TrainingMismatchError: Naming what changed.
        """
        if self.shift:
            raise TrainingMismatchError(
                "the model's outputs have changed otherwise than through its trained parameters: "
                f"{listed(self.culprits)}. The smoother follows the parameters alone; keep these "
                "fixed while the lens is attached, or use probes=None, which takes the change as "
                "it is"
            )


class Present:
    """Linearises and checks the sets of a lens wherever training is.

    Attributes:
        start_outputs: Per set, the outputs at the start of the block, ``(rows, k)``.
        has_shifted: Whether outputs have ever changed otherwise than through θ.
        predictions_only: Whether nothing but ``J v`` is asked of a linearisation.
        takes_changes: Whether outputs may change otherwise than through θ.
    """

    def __init__(self, linearizer: Linearizer, sets: Mapping[str, RowSet]) -> None:
        self._linearizer = linearizer
        self._function = linearizer.function
        self._sets = sets
        self._at_zero: dict[str, tuple[NetworkState, LinearizedRows]] = {}
        self._now: Now | None = None
        self._state = self._look()
        self._is_resumed = False
        self.has_shifted = False
        self.predictions_only = False
        self.takes_changes = False
        self._blocks = 0
        self.start_outputs: dict[str, Tensor] = {}

    def begin_block(self, now: Now, outputs: Mapping[str, Tensor] | None = None) -> None:
        """Start a block here, with other outputs if its start was earlier and the state another."""
        self._now = now
        self._blocks += 1
        self._state = now.state
        self._is_resumed = False
        self.start_outputs = {
            name: rows.outputs if outputs is None else outputs[name]
            for name, rows in now.rows.items()
        }

    def restart(self, track: Track, outputs: Mapping[str, Tensor], has_shifted: bool) -> None:
        """Go on from a saved track, whose block started with these outputs."""
        self._at_zero = {}
        self.begin_block(self.at_attach(track), outputs)
        self.has_shifted = self._is_resumed = has_shifted

    def at_attach(self, track: Track) -> Now:
        """The sets at the start of a block that was linearised just now."""
        start = next(iter(track.at_start.values()))
        return Now(track.block_start, start.theta, dict(track.at_start), self._look())

    def current(self, track: Track) -> Now:
        """The sets at the parameters as they are now.

        Returns:
            Their rows linearised there; kept until anything moves.

        Raises:
            ModelError: A linearisation is not the derivative of the model.
            TrainingMismatchError: A parameter that is not followed has moved.
            NonFiniteError: The outputs are not finite.
        """
        with own_streams():
            return self._looked_at(track)

    def _looked_at(self, track: Track) -> Now:
        theta, state = self._function.theta(), self._look()
        now = self._now
        if now is not None and now.step == track.step and torch.equal(theta, now.theta):
            if now.state == state:
                return now
            rows = now.rows
        else:
            rows = {name: each.linearize(theta).keep() for name, each in self._sets.items()}
            if self._is_to_be_checked:
                self.check(rows, track.step)
        self._now = self._since_start(Now(track.step, theta, rows, state), track)
        return self._now

    @property
    def _is_to_be_checked(self) -> bool:
        """Every block with a smoother.  Predictions alone cost little more than these checks."""
        return not self.predictions_only or self._blocks <= _AT_FIRST or self._blocks % 4 == 0

    def check(self, rows: Mapping[str, LinearizedRows], seed: int) -> None:
        """Compare some rows of every set with the model itself, at its parameters now."""
        for name, linearized in rows.items():
            each = self._sets[name]
            at = (each, linearized.rows, name, seed)
            spot_check(self._function, *at, pushes_only=self.predictions_only)

    def at_zero(self, name: str, theta_0: Tensor) -> LinearizedRows:
        """A set linearised at θ_0, with what else the model held when it was last looked at.

        Kept, since every record asks for it: the memory of a linearisation for each set.

        Returns:
            Its linearised rows.
        """
        state = self._state if self._now is None else self._now.state
        held = self._at_zero.get(name)
        if held is None or held[0] != state:
            held = self._at_zero[name] = (state, self._sets[name].linearize(theta_0))
        return held[1]

    def _look(self) -> NetworkState:
        return NetworkState.of(self._function.network.module, self._function.layout.by_name)

    def _since_start(self, now: Now, track: Track) -> Now:
        """The same, with what has changed outputs otherwise than through θ in this block."""
        changed = now.state.changed_since(self._state)
        may_have = bool(changed) or self._is_resumed
        if not may_have and not (self._is_to_be_checked and self._has_changed_unseen(track)):
            return now
        theta = next(iter(track.at_start.values())).theta
        at_start = {name: each.linearize(theta).keep() for name, each in self._sets.items()}
        shift = {n: rows.outputs - self.start_outputs[n] for n, rows in at_start.items()}
        size = max(float(f.abs().max()) for f in self.start_outputs.values())
        eps = torch.finfo(self._function.precision).eps
        largest = max(float(s.abs().max()) for s in shift.values())
        # What is taken as it is adds up, however small it is in half precision.
        if largest <= (0 if self.takes_changes else _ROUNDINGS * eps * (1 + size)):
            return now
        parameters = dict(self._function.network.module.named_parameters())
        moved = [name for name in changed if name in parameters]
        if moved and not self.predictions_only:
            raise TrainingMismatchError(
                f"{listed(moved)} changed during training, but was not trained when the lens was "
                "attached (frozen then, in another optimizer, or merged with an adapter in eval "
                "mode?); attach a new lens after unfreezing or adding parameters, and read it in "
                "the mode of training"
            )
        self.has_shifted = True
        culprits = tuple(changed) or (_UNSEEN,)
        return replace(now, shift=shift, at_start=at_start, culprits=culprits)

    def _has_changed_unseen(self, track: Track) -> bool:
        """Whether a few rows have other outputs at the start of the block than then."""
        theta = next(iter(track.at_start.values())).theta
        generator = torch.Generator().manual_seed(track.step)
        for name, each in self._sets.items():
            index = each.drawn(2, generator)
            then = self.start_outputs[name][index.to(theta.device)]
            gap = (self._linearizer.outputs(theta, each.take(index)) - then).abs().max()
            eps = torch.finfo(self._function.precision).eps
            if float(gap) > eps**0.5 * (1 + float(then.abs().max())):
                return True
        return False
