"""Experiment trackers behind one small protocol.

``open_tracker("wandb", project="telescope")`` starts Weights & Biases; the package of a tracker is
imported when the tracker is opened, never before.
"""

from telescope_core.trackers._client import redacted
from telescope_core.trackers.null import NullRun, NullTracker
from telescope_core.trackers.protocol import (
    CONTENT_KEY,
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
    "CONTENT_KEY",
    "AlertLevel",
    "AlertingRun",
    "ArtifactFiles",
    "Cell",
    "NullRun",
    "NullTracker",
    "RunDescription",
    "RunStore",
    "TrackedRun",
    "Tracker",
    "available_trackers",
    "open_tracker",
    "redacted",
]
