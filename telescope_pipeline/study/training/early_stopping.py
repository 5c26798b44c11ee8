"""When a training run has nothing left to learn, as the paper decides it (Appendix, Fig. 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telescope_pipeline.schemas.sections import EarlyStoppingSettings


class EarlyStopping:
    """Ends training at full train accuracy, or when the train loss no longer improves.

    It looks once an epoch.  The state is a function of what was measured at the ends of epochs, so
    a resumed run stops where the uninterrupted one does.

    Args:
        settings: When to stop.
        steps_per_epoch: Updates in an epoch.
        measure: Gives train loss and train accuracy as they are now.
    """

    def __init__(
        self,
        settings: EarlyStoppingSettings,
        steps_per_epoch: int,
        measure: Callable[[], tuple[float, float]],
    ) -> None:
        self._settings = settings
        self._steps_per_epoch = steps_per_epoch
        self._measure = measure
        self._best: float | None = None
        self._epoch_of_best = 0

    def is_due(self, step: int) -> bool:
        """Whether training ends after update number ``step``, to be asked after each."""
        epoch, inside = divmod(step, self._steps_per_epoch)
        if inside:
            return False
        loss, accuracy = self._measure()
        if accuracy >= self._settings.train_accuracy:
            return True
        if self._best is None or loss < self._best - self._settings.minimum_improvement:
            self._best, self._epoch_of_best = loss, epoch
        return epoch - self._epoch_of_best >= self._settings.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, JSON-able."""
        return {"best": self._best, "epoch_of_best": self._epoch_of_best}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self._best, self._epoch_of_best = state["best"], state["epoch_of_best"]
