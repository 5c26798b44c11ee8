"""A training run as far as it is followed: what the lens moves, and its readings read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from telescope_core.jacobians import without_autocast
from telescope_core.lens.present import Now, Present
from telescope_core.lens.refusals import Refusals
from telescope_core.lens.settings import Settings
from telescope_core.lens.sight import Sight
from telescope_core.lens.strategy import EngineFactory
from telescope_core.lens.track import Track, restore_track
from telescope_core.network.trained_parameters import TrainedParameters
from telescope_core.update_rules import UpdateCheck


class Run:
    """The state of a lens.

    Attributes:
        track: What is carried from step to step.
        present: The sets at the parameters as they are now.
        engines: Makes the smoother; ``None`` without one.
        lost: Whether a step failed after θ had moved.
    """

    def __init__(
        self,
        settings: Settings,
        trained: TrainedParameters,
        sight: Sight,
        refusals: Refusals,
    ) -> None:
        self.settings = settings
        self.refusals = refusals
        self.sight = sight
        self._see(trained)
        self.track = self._begin(self.linearizer.function.theta())
        self.present.check(self.track.at_start, settings.seed)
        self.present.begin_block(self.present.at_attach(self.track))
        self.engines: EngineFactory | None = None
        self.update_check: UpdateCheck | None = None
        self.lost = False

    def _see(self, trained: TrainedParameters) -> None:
        """Look at the sets through these parameters."""
        self.trained = trained
        self.linearizer, self.sets = self.sight.through(trained.by_name)
        self.present = Present(self.linearizer, self.sets)
        self.present.predictions_only = not self.settings.looks_into_steps
        self.present.takes_changes = self._takes_changes

    def widen(self) -> None:
        """Follow parameters that were unfrozen since, from here on (predictions only)."""
        if self.settings.looks_into_steps or not self.trained.unfrozen():
            return
        track, has_shifted = self.track, self.present.has_shifted
        telescoped = {name: self.telescoped(name) for name in self.sets}
        before = self.trained.by_name
        theta_0 = self.linearizer.function.layout.unflatten(track.theta_0)
        self._see(self.trained.with_unfrozen())
        function = self.linearizer.function
        self.track = self._begin(function.theta())
        # What was frozen until now is where it was when the lens was attached.
        first = {n: theta_0[n] if n in before else p for n, p in function.parameters.items()}
        self.track.theta_0 = function.layout.flatten(first)
        self.track.f_0, self.track.step = track.f_0, track.step
        self.track.block_start = track.step
        self.track.theta_path.restart(telescoped)
        self.present.begin_block(self.present.at_attach(self.track))
        self.present.has_shifted = has_shifted

    def telescoped(self, name: str) -> Tensor:
        """f̃ on a set at the parameters as they are now, ``(rows, k)``."""
        now = self.current()
        path, span = self.track.theta_path, self.track.spans(now.rows)[name]
        telescoped = path.value(name, span)[..., 0]
        return telescoped + now.shift[name] if now.shift else telescoped

    def carry_smoother(self, engines: EngineFactory) -> None:
        """Follow a smoother, too."""
        self.engines = engines
        if engines.problem.replay is not None:
            # Before training moves buffers: its columns start where these are now.
            self.track.engine = engines.before_training(self.track.at_start)
        self._restart(self.linearizer.function.theta())

    def give_up_smoother(self) -> None:
        """Follow predictions only from now on."""
        self.engines = self.update_check = None
        self.track.engine = self.track.kernel_norms = None
        self.present.takes_changes = True

    @property
    def settings_in_use(self) -> Settings:
        """The settings, less what a refusal has made the lens give up."""
        if self.engines is not None or self.settings.probes is None:
            return self.settings
        return replace(self.settings, probes=None, kernel_norms=False)

    @property
    def smoother_bytes(self) -> int:
        """Bytes of the arrays of the smoother in use; 0 without one."""
        if self.engines is None or self.track.engine is None:
            return 0
        return self.engines.bytes_of(self.track.engine.name)

    def current(self) -> Now:
        """Every set linearised at the parameters as they are now."""
        self.trained.require_same()
        now = self.present.current(self.track)
        if self.track.engine is not None:
            with self.refusals.or_smoother():
                if self.update_check is not None:
                    self.update_check.require_unmoved("when read")
                if not self.sight.is_replayed:
                    now.require_still()
        self.track.move_theta(now.theta)
        self.track.at_start |= now.at_start
        return now

    def count_step(self) -> None:
        """Take note of a step that was taken, and end the block if it is due."""
        track = self.track
        track.step += 1
        is_due = track.step - track.block_start >= self.settings.stride
        if is_due and not self.refusals.is_blind:
            with self.refusals.or_blind():
                self._close_block()

    def _close_block(self) -> None:
        track = self.track
        now = self.current()
        spans = track.spans(now.rows)
        with without_autocast(now.theta.device):
            track.theta_path.close_block(spans)
            track.theta_path.shift(now.shift)
            if self.present.has_shifted:
                track.theta_path.settle_end(spans)
            if track.engine is not None:
                track.engine.close_block(spans)
                track.engine.open_block(now.rows)
        track.at_start = now.rows
        track.block_start = track.step
        self.present.begin_block(replace(now, shift={}, at_start={}, culprits=()))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, beside the model's and optimizer's own state."""
        if self._takes_changes and not self.refusals.is_blind:
            self.current()  # to see whether anything but θ has moved in the open block
        theta = self.linearizer.function.theta()
        saved = self.track.state_dict(self._identity(), self.present.start_outputs, theta)
        saved["state"]["has_shifted"] = self.present.has_shifted
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ConfigurationError: The state belongs to another lens, or is damaged.
        """
        has_shifted = bool(state_dict.get("state", {}).get("has_shifted"))
        self.track, f_start, theta = restore_track(
            state_dict,
            self._identity(),
            self._begin,
            self.engines,
            moves=has_shifted and self._takes_changes,
        )
        self.present.restart(self.track, f_start, has_shifted)
        self._restart(theta)

    @property
    def _takes_changes(self) -> bool:
        """Whether outputs may change otherwise than through θ."""
        return not self.settings.looks_into_steps or self.sight.is_replayed

    def _begin(self, theta: Tensor) -> Track:
        return Track.begin(theta, self.sets, self.settings.order, self.settings.kernel_norms)

    def _restart(self, theta: Tensor) -> None:
        """Go on from ``theta``, where the next step must find the parameters."""
        self.lost = False
        if self.engines is not None:
            function = self.linearizer.function
            make_rule = self.engines.problem.make_rule
            self.update_check = UpdateCheck(make_rule, function.layout, function.parameters, theta)

    def _identity(self) -> dict[str, Any]:
        """What must be the same in a lens that takes a saved state over."""
        settings, has_smoother = self.settings, self.engines is not None
        return {
            "order": settings.order,
            "stride": settings.stride,
            "parameters": self.track.theta_0.numel(),
            "sets": {name: len(rows) for name, rows in self.sets.items()},
            "probes": settings.probes if has_smoother else None,
            "deflate": settings.deflate if has_smoother else None,
            "seed": settings.seed if has_smoother else None,
            "kernel_norms": self.track.kernel_norms is not None,
            "layer_shares": has_smoother and settings.layer_shares,
        }
