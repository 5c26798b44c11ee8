"""Trackers by name: two come with Telescope, others by entry point."""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.trackers.protocol import Tracker

ENTRY_POINTS = "telescope.trackers"
"""The entry-point group in which a package names a callable that returns a tracker."""

_OWN = {
    "none": ("telescope_core.trackers.null", "NullTracker"),
    "wandb": ("telescope_core.trackers.weights_and_biases", "WandbTracker"),
}


def available_trackers() -> list[str]:
    """Return the names that :func:`open_tracker` knows, sorted."""
    return sorted({*_OWN, *_plugins()})


def open_tracker(name: str, **options: Any) -> Tracker:
    """Make a tracker.

    Args:
        name: One of :func:`available_trackers`.
        **options: What that tracker takes.

    Returns:
        The tracker; no run is started yet.

    Raises:
        ConfigurationError: If no tracker has this name, or an option is not one it takes.
        MissingDependencyError: If the tracker's package is not installed.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        factory = getattr(import_module(module), attribute)
    else:
        factory = _load(name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ConfigurationError(f"tracker {name!r}: {error}") from error
    tracker: Tracker = factory(**options)
    return tracker


def _load(name: str) -> Any:
    plugins = _plugins()
    if name not in plugins:
        known = available_trackers()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"no tracker is called {name!r}; expected one of {', '.join(known)}{hint}"
        raise ConfigurationError(message)
    try:
        return plugins[name].load()
    except ImportError as error:
        message = f"tracker {name!r} cannot be loaded ({error}); install what it needs"
        raise MissingDependencyError(message) from error


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
