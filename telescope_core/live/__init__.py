"""Streams what a lens sees to a tracker while training goes on."""

from __future__ import annotations

from telescope_core.live.alerts import (
    Alert,
    AlertRule,
    ApproximationFails,
    DegreesOfFreedomPass,
    PartingWays,
)
from telescope_core.live.log import PREFIX, LiveLog, OpenRun, Target, default_interval, open_log

__all__ = [
    "PREFIX",
    "Alert",
    "AlertRule",
    "ApproximationFails",
    "DegreesOfFreedomPass",
    "LiveLog",
    "OpenRun",
    "PartingWays",
    "Target",
    "default_interval",
    "open_log",
]
