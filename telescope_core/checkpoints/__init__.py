"""The telescoping model from saved weights of a finished run, without retraining."""

from __future__ import annotations

from telescope_core.checkpoints.series import CheckpointSeries, from_checkpoints

__all__ = ["CheckpointSeries", "from_checkpoints"]
