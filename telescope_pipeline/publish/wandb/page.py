"""A page at Weights & Biases, written by code.

One page stands for one revision of a pipeline: saving it again changes that page and makes no
second one.  A page counts as saved when the server has shown it back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from telescope_core.errors import TrackerError
from telescope_pipeline.publish.conversation import ask, stopped
from telescope_pipeline.publish.wandb.sending import WHO, online

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
    sections: tuple[ReportSection, ...] = ()


def save_report(page: ReportPage, *, root: Path) -> str:
    """Save a page, and see that the server has it.

    Args:
        page: The page.  Its runs must be at the server.
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
