"""What the tracker that the parameters name is opened with."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ConfigurationError, MissingDependencyError, ParametersError
from telescope_core.trackers.registry import check_options, tracker_factory

if TYPE_CHECKING:
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
    taken = inspect.signature(factory).parameters
    ours = {"project": tracking.project, "mode": tracking.mode, "directory": "."}
    options = {name: value for name, value in ours.items() if name in taken} | tracking.options
    if isinstance(directory := options.get("directory"), str):
        options["directory"] = str(root / directory)
    check_options(tracking.tracker, factory, options)
    return options
