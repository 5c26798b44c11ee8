"""What Telescope asks of an experiment tracker.

A tracker is anything that can start runs; a run takes numbers, pictures, tables and files and is
then finished.  The protocols are small on purpose, so that one short module fits each tracker.
Every method may raise :class:`~telescope_core.errors.TrackerError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

Cell = str | float | int | bool | None
"""What a field of a table may hold."""

Rows = Sequence[Sequence[Cell]]
"""The rows of a table."""

AlertLevel = Literal["INFO", "WARN", "ERROR"]
"""How urgent an alert is."""

CONTENT_KEY = "content"
"""The entry of a config that may hold a hash of everything in the run, to recognise it by."""


@dataclass(frozen=True)
class RunDescription:
    """What a run is, known before anything is logged.

    Attributes:
        id: Unique in the project; at most 64 letters, digits, ``-`` and ``_``.
        name: What people read.
        group: Runs that belong together share it.
        job_type: The role of the run in its group.
        tags: Words to find the run by.
        config: Nested JSON-able settings.
        step_key: The name of the axis that histories are drawn over.
        notes: What a reader should know about the run, in a few sentences.
    """

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    step_key: str = "step"
    notes: str = ""


@dataclass(frozen=True)
class ArtifactFiles:
    """A versioned set of files.

    Attributes:
        name: Unique in the project; letters, digits, ``-``, ``_`` and ``.``.
        kind: What the files are, e.g. ``"dataset"``.
        files: The path of each file by its name inside the artifact.
        metadata: JSON-able facts about the files.
    """

    name: str
    kind: str
    files: Mapping[str, Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class TrackedRun(Protocol):
    """A run that has been started."""

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add numbers by name to the history; an entry called like the step axis is ignored."""

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole."""

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file."""

    def table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        """Show a table."""

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Keep files; what is kept does not change when the files do."""

    def finish(self) -> None:
        """Complete the run; nothing may follow."""


@runtime_checkable
class AlertingRun(Protocol):
    """A run that can call for attention; trackers that cannot leave it out."""

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention, e.g. by mail; the title has fewer than 64 characters."""


@runtime_checkable
class Tracker(Protocol):
    """A place that keeps runs; a context manager that ends what it began."""

    def start(self, description: RunDescription) -> TrackedRun:
        """Start a run."""

    def close(self) -> None:
        """Let go of everything; calling it twice does no harm."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


@runtime_checkable
class RunStore(Protocol):
    """What a tracker may offer besides: looking up what it keeps.

    With it, publishing the same run twice leaves one run.  One that offers ``remove(run_id)`` too,
    which removes whatever is kept under an id, finished or not, takes other content for it.
    """

    def holds(self, run_id: str, content: str) -> bool:
        """Say whether a finished run is there with this id and this :data:`CONTENT_KEY`."""

    def place(self, run_id: str) -> str | None:
        """Return where a run is kept, a path or an address without secrets; None if nowhere."""
