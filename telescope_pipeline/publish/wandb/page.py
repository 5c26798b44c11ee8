"""A page at Weights & Biases, written by code.

One page stands for one revision of a pipeline: saving it again changes that page and makes no
second one.  A page counts as saved when the server has shown it back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telescope_core.errors import TrackerError
from telescope_pipeline.publish.conversation import ask, stopped
from telescope_pipeline.publish.wandb.sending import WHO, online

_LIMITS = {"": 30.0, "ready": 20.0, "connected": 60.0, "read": 60.0, "found": 60.0, "saved": 30.0}


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
        runs: Its runs as JSON, the members' first and that of the case as a whole last.
        claims: Its claims.
        curves: Panels over the runs of its groups.
    """

    case: str
    runs: tuple[dict[str, Any], ...]
    claims: tuple[ClaimRow, ...] = ()
    curves: tuple[Curves, ...] = ()


@dataclass(frozen=True)
class ReportPage:
    """A page about one revision.

    Attributes:
        project: The project whose runs it shows.
        entity: The account or team; None for the default one.
        revision: The revision at which they were published.
        title: What people read; at most 128 characters, the same for the same revision.
        description: One sentence below it.
        sections: One for each case.
    """

    project: str
    entity: str | None
    revision: str
    title: str
    description: str = ""
    sections: tuple[ReportSection, ...] = ()


def save_report(page: ReportPage, *, root: Path) -> str:
    """Save a page, and see that the server has it.

    Args:
        page: The page.  It is written if the server shows all of its runs whole.
        root: A folder for the client to work in; nothing is kept there.

    Returns:
        The address of the page.

    Raises:
        TrackerError: If the page was not saved; the message says what to do.
    """
    blocks = "telescope_pipeline.publish.wandb.blocks:save"
    answers = ask(blocks, asdict(page), root, _LIMITS, online)
    heard = {answer["event"]: answer for answer in answers}
    if "shown" in heard:
        return str(heard["shown"]["url"])
    raise TrackerError(f"the report was not saved: {stopped(WHO, answers)}")
