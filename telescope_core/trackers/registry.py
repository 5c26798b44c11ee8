"""Trackers by name, found by entry point: those that come with Telescope and those of plug-ins."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.trackers.protocol import Tracker

ENTRY_POINTS = "telescope.trackers"
"""The entry-point group in which a package names a callable that returns a tracker."""

# These two work in a checkout whose entry points were not installed anew.
_OWN = {
    "none": ("telescope_core.trackers.null", "NullTracker"),
    "wandb": ("telescope_core.trackers.wandb", "WandbTracker"),
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
    factory = tracker_factory(name)
    check_options(name, factory, options)
    tracker: Tracker = factory(**options)
    return tracker


def check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check that a tracker takes these options.

    Raises:
        ConfigurationError: If it does not, or if one that it needs is missing.
    """
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        takes = ", ".join(inspect.signature(factory).parameters) or "nothing"
        message = f"tracker {name!r}: {error}; it takes {takes}"
        raise ConfigurationError(message) from error


def tracker_factory(name: str) -> Callable[..., Any]:
    """Return the callable that makes a tracker; its client is not imported.

    Raises:
        ConfigurationError: If no tracker has this name.
        MissingDependencyError: If the package that brings it cannot be imported.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    plugins = _plugins()
    if name not in plugins:
        known = available_trackers()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"no tracker is called {name!r}; expected one of {', '.join(known)}{hint}"
        raise ConfigurationError(message)
    try:
        return plugins[name].load()  # type: ignore[no-any-return]
    except ImportError as error:
        message = f"tracker {name!r} cannot be loaded ({error}); install what it needs"
        raise MissingDependencyError(message) from error


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
