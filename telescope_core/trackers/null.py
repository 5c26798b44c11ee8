"""The tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from telescope_core.trackers.protocol import ArtifactFiles, Cell, Rows, RunDescription, TrackedRun


class NullRun:
    """A run that takes everything and keeps nothing."""

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Do nothing."""

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Do nothing."""

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Do nothing."""

    def table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        """Do nothing."""

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class NullTracker:
    """Stands in where code expects a tracker and none is wanted; a base for small ones."""

    def start(self, description: RunDescription) -> TrackedRun:
        """Return a run that keeps nothing."""
        return NullRun()

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
