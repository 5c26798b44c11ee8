"""Delivering finished runs to any tracker, without being at its mercy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from telescope_pipeline.publish.conversation import Patience, ask, stopped, unable
from telescope_pipeline.publish.record import RunRecord


@dataclass(frozen=True)
class Place:
    """Where a run is, as far as the tracker says.

    Attributes:
        url: Its address at a server.
        folder: Its path, relative to the project if it lies there.
    """

    url: str | None = None
    folder: str | None = None

    @classmethod
    def of(cls, place: str | None, root: Path) -> Self:
        """Read what a tracker says; ``root`` is the project's folder."""
        if place is None or place.startswith(("http://", "https://")):
            return cls(url=place)
        path = Path(place)
        return cls(folder=str(path.relative_to(root) if path.is_relative_to(root) else path))


@dataclass(frozen=True)
class Delivery:
    """What became of some runs.

    Attributes:
        mode: ``"online"`` if a server holds all of them, ``"local"`` if the tracker keeps them on
            this machine, ``"offline"`` if they wait here to be sent, ``"failed"`` if some are
            nowhere, ``"disabled"`` if nothing was to be published.
        reason: Why they are not all where they belong; None if they are.
        places: The runs that the tracker keeps, by id.
        entity: The account or team at the server, if it is known.
    """

    mode: Literal["online", "local", "offline", "failed", "disabled"]
    reason: str | None = None
    places: Mapping[str, Place] = field(default_factory=dict)
    entity: str | None = None


def deliver(
    tracker: str,
    options: Mapping[str, Any],
    records: Sequence[RunRecord],
    *,
    root: Path,
    known: Collection[str] = (),
    patience: Patience | None = None,
) -> Delivery:
    """Deliver runs, each of them once.

    A tracker that can look up its runs (:class:`~telescope_core.trackers.RunStore`) is asked
    whether it holds a run with the same id and content, before and after it is told one.

    Args:
        tracker: Its name; see :func:`~telescope_core.trackers.open_tracker`.
        options: JSON-able; what it takes.
        records: The runs.
        root: The folder it works in.
        known: Ids of runs that a tracker without look-up was told before.
        patience: How long to wait for it.

    Returns:
        Where the runs are.  Nothing that the tracker does raises an error.
    """
    patience = patience or Patience()
    request = {
        "tracker": tracker,
        "options": dict(options),
        "records": [record.to_json() for record in records],
        "known": sorted(known),
    }
    who = f"the tracker {tracker}"
    try:
        run = patience.run + max(map(_weight, records)) / patience.bytes_per_second
        limits = {"": patience.start, "ready": run}
        answers = ask("telescope_pipeline.publish.worker:keep", request, root, limits)
    except (OSError, ValueError, TypeError) as error:
        return Delivery("failed", unable(who, error))
    kept = [answer for answer in answers if answer["event"] == "kept"]
    places = {answer["id"]: Place.of(answer["place"], root) for answer in kept}
    if len(places) < len(records):
        return Delivery("failed", stopped(who, answers), places)
    at_server = any(place.url for place in places.values())
    return Delivery("online" if at_server else "local", None, places)


def _weight(record: RunRecord) -> int:
    files = [path for artifact in record.artifacts for path in artifact.files.values()]
    return sum(path.stat().st_size for path in files)
