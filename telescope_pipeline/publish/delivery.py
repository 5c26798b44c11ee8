"""Handing the runs of a case to the tracker that the parameters name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import (
    ArtifactError,
    ConfigurationError,
    MissingDependencyError,
    ParametersError,
)
from telescope_core.trackers.delivery import Delivery, deliver_to
from telescope_core.trackers.registry import check_options, tracker_factory
from telescope_pipeline.store import files

if TYPE_CHECKING:
    from telescope_core.trackers.record import RunRecord
    from telescope_pipeline.parameters.model import TrackingSettings


def check_tracking(tracking: TrackingSettings) -> None:
    """Check that the tracker exists and takes its options.

    A tracker that is not installed is no error here: publishing reports it.

    Raises:
        ParametersError: If no tracker has this name, or an option is not one it takes.
    """
    if tracking.tracker in ("wandb", "none"):
        return
    try:
        tracker_options(tracking, Path())
    except MissingDependencyError:
        return
    except ConfigurationError as error:
        raise ParametersError(f"tracking: {error}") from error


def tracker_options(tracking: TrackingSettings, root: Path) -> dict[str, Any]:
    """Return what the tracker is opened with.

    Args:
        tracking: The section of the parameters.
        root: The project's folder; a relative ``directory`` lies in it.

    Returns:
        ``tracking.options``, and ``project``, ``directory`` and ``mode`` if the tracker takes them.

    Raises:
        ConfigurationError: If no tracker has this name, or an option is not one it takes.
        MissingDependencyError: If the package that brings it cannot be imported.
    """
    factory = tracker_factory(tracking.tracker)
    options = dict(tracking.options)
    taken = inspect.signature(factory).parameters
    ours = {"project": tracking.project, "mode": tracking.mode, "directory": "."}
    for name, value in ours.items():
        if name in taken:
            options.setdefault(name, value)
    directory = options.get("directory")
    if isinstance(directory, str):
        options["directory"] = str(root / directory)
    check_options(tracking.tracker, factory, options)
    return options


def deliver_elsewhere(
    records: Sequence[RunRecord], tracking: TrackingSettings, root: Path, receipt: Path
) -> Delivery:
    """Deliver runs to a tracker other than Weights & Biases; each of them once.

    Args:
        records: The runs.
        tracking: The section of the parameters.
        root: The project's folder.
        receipt: The receipt of the last time, if there is one.

    Returns:
        Where the runs are.  Nothing that the tracker does raises an error.
    """
    try:
        options = tracker_options(tracking, root)
    except MissingDependencyError as error:
        return Delivery(reason=str(error))
    known = _told_before(receipt, tracking)
    return deliver_to(tracking.tracker, options, records, root=root, known=known)


def place_in(root: Path, place: str | None) -> tuple[str | None, str | None]:
    """Say where a run is, as the receipt does.

    Returns:
        Its address if it is at a server, and its path, relative to ``root`` if it lies there.
    """
    if place is None:
        return None, None
    if place.startswith(("http://", "https://")):
        return place, None
    path = Path(place)
    return None, path.relative_to(root).as_posix() if path.is_relative_to(root) else place


def _told_before(path: Path, tracking: TrackingSettings) -> set[str]:
    """The runs that the last receipt says this tracker was told."""
    try:
        receipt = files.read_json(path)
        same = receipt["tracker"] == tracking.tracker and receipt["project"] == tracking.project
        if same and receipt["options"] == tracking.options:
            return {str(run["id"]) for run in receipt["runs"] if run["kept"]}
    except (ArtifactError, KeyError, TypeError):
        pass
    return set()
