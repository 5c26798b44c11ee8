"""A report at Weights & Biases, written by code.

One page stands for one revision of a pipeline: saving it again changes that page and makes no
second one.  A page counts as saved when the server has shown it back.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers._containment import redacted
from telescope_core.trackers._wandb_process import (
    CREDENTIALS,
    converse,
    ending,
    environment_of,
)
from telescope_core.trackers.wandb_delivery import REFUSALS

_LOG = logging.getLogger(__name__)
_LIMITS = {"": 30.0, "ready": 20.0, "connected": 60.0, "found": 60.0, "saved": 30.0}


@dataclass(frozen=True)
class Curves:
    """A panel with lines over the run's own step axis.

    Attributes:
        title: What it shows.
        keys: Entries of the history.
        log_y: Whether the vertical axis is logarithmic.
    """

    title: str
    keys: tuple[str, ...]
    log_y: bool = False


@dataclass(frozen=True)
class ClaimRow:
    """A claim as a report shows it."""

    id: str
    statement: str
    source: str
    observed: str
    holds: bool


@dataclass(frozen=True)
class ReportSection:
    """What a report says about one case.

    Attributes:
        case: The case, by which the config of its runs names it.
        run: Id of the run for the case as a whole.
        claims: Its claims.
        curves: Panels over the runs of its groups.
        pictures: Keys of the pictures that the case's run shows.
        artifacts: Kind and name of its artifacts.
    """

    case: str
    run: str
    claims: tuple[ClaimRow, ...] = ()
    curves: tuple[Curves, ...] = ()
    pictures: tuple[str, ...] = ()
    artifacts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ReportPage:
    """A page about one revision.

    Attributes:
        project: The project whose runs it shows.
        entity: The account or team; None for the default one.
        group: The revision, by which the runs are grouped.
        title: What people read; at most 128 characters, the same for the same revision.
        description: One sentence below it.
        sections: One for each case.
    """

    project: str
    entity: str | None
    group: str
    title: str
    description: str = ""
    sections: tuple[ReportSection, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Write the page as JSON-able data."""
        return asdict(self)


def save_report(page: ReportPage, *, root: Path, limits: Mapping[str, float] | None = None) -> str:
    """Save a page, and see that the server has it.

    Args:
        page: The page.  Its runs must be at the server.
        root: A folder for the client to work in; nothing is kept there.
        limits: Longest waits in seconds, by what was last heard.

    Returns:
        The address of the page.

    Raises:
        MissingDependencyError: If wandb-workspaces is not installed.
        TrackerError: If the page was not saved; the message says what to do.
    """
    with tempfile.TemporaryDirectory(prefix="ts-") as scratch:
        environment = environment_of(scratch, keep=CREDENTIALS)
        request = page.to_json()
        answers = list(converse("report", request, environment, root, limits or _LIMITS))
    heard = {answer["event"]: answer for answer in answers}
    if "shown" in heard:
        return str(heard["shown"]["url"])
    if "failed" in heard and heard["failed"]["why"] == "missing":
        raise MissingDependencyError(
            "a report at Weights & Biases needs the package wandb-workspaces; "
            "`pip install 'telescope-lens[reports]'`"
        )
    raise TrackerError(f"the report was not saved: {_problem(heard, answers)}")


def _problem(heard: Mapping[str, dict[str, Any]], answers: list[dict[str, Any]]) -> str:
    if "refused" in heard:
        _LOG.warning("report: %s", redacted(heard["refused"]["detail"]))
        return REFUSALS[heard["refused"]["why"]]
    if "absent" in heard:
        runs = ", ".join(heard["absent"]["cases"])
        return f"the server does not hold the runs of {runs}; run `telescope sync` first"
    if "lost" in heard:
        _LOG.warning("report: %s", redacted(heard["lost"]["detail"]))
        return "the W&B server refused it or stopped answering; try again later"
    return f"the W&B client {ending(answers)}"
