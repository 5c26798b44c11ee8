"""One training step as the lens takes it in: before it, right before and right after the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from telescope_core.jacobians import ModelFunction, without_autocast
from telescope_core.lens import watch as optimizer_watch
from telescope_core.lens.refusals import Refusals
from telescope_core.lens.strategy import EngineFactory
from telescope_core.lens.track import Track
from telescope_core.lens.watch import StepWatch, Update
from telescope_core.losses.labels import Loss
from telescope_core.network import own_streams
from telescope_core.network.trained_parameters import TrainedParameters
from telescope_core.smoother import Batch, Smoother
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.update_rules import UpdateCheck, UpdateRule


class StepFollower:
    """Follows single steps; whatever it believes about one is compared with what was done.

    Args:
        optimizer: The optimizer in use.
        function: The model.
        loss: The training loss.
        trained: The parameters that are followed.
        engines: Makes the smoother; ``None`` without one.
        kernel_rule: The optimizer's rule, if norms of kernel rows are measured.
        refusals: What to do about an error that concerns the smoother alone.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        function: ModelFunction,
        loss: Loss,
        trained: TrainedParameters,
        engines: EngineFactory | None,
        kernel_rule: UpdateRule | None,
        refusals: Refusals,
    ) -> None:
        self._optimizer = optimizer
        self._function = function
        self._loss = loss
        self._trained = trained
        self._engines = engines
        self._kernel_rule = kernel_rule
        self._refusals = refusals
        self._update_check: UpdateCheck | None = None
        self.lost = False
        self.restart(function.theta())

    def restart(self, theta: Tensor) -> None:
        """Go on from ``theta``, where the next step must find the parameters."""
        self.lost = False
        if self._engines is not None:
            self._update_check = UpdateCheck(
                self._engines.make_rule,
                self._function.layout,
                self._trained.by_name,
                theta,
            )

    def drop_smoother(self) -> None:
        """Follow predictions only from now on."""
        self._engines = self._update_check = None

    def require_unmoved(self) -> None:
        """Refuse parameters that the last step did not leave where they are.

        Raises:
            TrainingMismatchError: Naming those that moved.
        """
        if self._update_check is not None:
            self._update_check.require_unmoved("when read")

    @contextmanager
    def follow(self, batch: Batch, track: Track) -> Iterator[StepWatch]:
        """Take the batch in before the step, and the optimizer's update right after it.

        Args:
            batch: The batch, not looked at yet.
            track: What is carried from step to step; its smoother is moved.

        Raises:
            TelescopeError: The step cannot be followed; :attr:`lost` says if θ had moved by then.
        """
        exactly = without_autocast(track.theta_0.device)
        kernel_norms = None if track.in_open_block else track.kernel_norms
        with exactly, own_streams():
            self._with_smoother(track, lambda engine: engine.before_step(batch))
        if kernel_norms is not None:
            batch.now  # noqa: B018  # linearise before the parameters move

        def before_update(update: Update) -> None:
            with exactly:
                self._with_smoother(track, lambda engine: look(engine, update))

        def look(engine: Smoother, update: Update) -> None:
            assert self._update_check is not None
            self._trained.require_same()
            seen = SeenGradient(
                lambda: self._function.gradient() / update.divisor,
                lambda: self._recomputed(batch, watch.autocast),
                computed_in=watch.autocast_dtype,
                frozen=tuple(self._function.frozen_rows()),
                touched=update.touched,
                suspects=self._function.network.suspects,
            )
            self._update_check.require_unmoved("before the update")
            if not update.is_void:
                self._update_check.before_update(lambda: seen.gradient)
                engine.before_update(seen)

        def after_update(update: Update) -> None:
            if update.is_void:
                return
            self.lost = True
            with exactly:
                self._with_smoother(track, lambda engine: moved(engine, update))
            if track.kernel_norms is not None and kernel_norms is not None:
                assert self._kernel_rule is not None
                preconditioner = self._kernel_rule.preconditioner()
                kernel_norms.add(track.at_start, batch.now, preconditioner)
            self.lost = False

        def moved(engine: Smoother, update: Update) -> None:
            assert self._update_check is not None
            engine.after_update(update.skipped)
            self._update_check.after_update(update.skipped, engine.rule_in_use())

        with optimizer_watch.watch_step(
            self._optimizer,
            self._function.network.module,
            before_update,
            after_update,
            mark_gradients=track.engine is not None and track.engine.marks_gradients,
        ) as watch:
            try:
                yield watch
            except BaseException:
                self.lost = watch.steps > 0
                raise
        if not watch.left_out:
            watch.require_one_step()

    def _with_smoother(self, track: Track, act: Callable[[Smoother], None]) -> None:
        """Let the smoother act; an error that concerns it alone is handed over."""
        if track.engine is None:
            return
        with self._refusals.or_smoother():
            act(track.engine)

    def _recomputed(self, batch: Batch, autocast: torch.autocast) -> Tensor:
        """The batch's gradient by backpropagation as in training, hooks left out, ``(p,)``."""
        with torch.enable_grad(), self._function.as_trained(autocast) as (call, own):
            value = self._loss(call(batch.inputs), batch.targets)
            return self._function.pulled(value, own)
