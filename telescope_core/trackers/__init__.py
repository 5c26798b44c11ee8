"""Experiment trackers behind one small protocol.

``open_tracker("wandb", project="telescope")`` starts Weights & Biases; the package of a tracker is
imported when the tracker is opened, never before.
"""

from telescope_core.trackers.null import NullTracker
from telescope_core.trackers.protocol import (
    AlertingRun,
    AlertLevel,
    ArtifactFiles,
    Cell,
    RunDescription,
    RunStore,
    TrackedRun,
    Tracker,
)
from telescope_core.trackers.registry import available_trackers, open_tracker

__all__ = [
    "AlertLevel",
    "AlertingRun",
    "ArtifactFiles",
    "Cell",
    "NullTracker",
    "RunDescription",
    "RunStore",
    "TrackedRun",
    "Tracker",
    "available_trackers",
    "open_tracker",
]
