"""Publishing the results of a case to a tracker.

Publishing is a function of the results: the same results give the same runs under the same ids,
however often they are published.  Whatever the tracker does, the results are there and the stage
succeeds; the receipt says where the runs are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.trackers.wandb_delivery import Outcome, deliver
from telescope_core.trackers.wandb_folders import folder_pattern
from telescope_pipeline.layout import Layout
from telescope_pipeline.publishing.records import case_records, records_digest
from telescope_pipeline.revision import pipeline_revision

if TYPE_CHECKING:
    from telescope_core.trackers.record import RunRecord
    from telescope_pipeline.schemas.parameters import Parameters, TrackingSettings

_LOG = logging.getLogger(__name__)


def publish(case_name: str, parameters: Parameters, root: Path) -> dict[str, Any]:
    """Publish a case.

    There is one run per member group, with the mean and the standard error over seeds of
    everything recorded, and one for the case: its claims, plots, metrics and files.

    Args:
        case_name: The case.
        parameters: The validated parameters.
        root: The project's folder.

    Returns:
        The receipt.  Offline and disabled it depends on the results, the parameters and the
        pipeline's revision alone.

    Raises:
        ArtifactError: If results are missing or damaged.  A tracker that fails raises nothing.
    """
    root = root.resolve()
    tracking = parameters.tracking
    revision = pipeline_revision(root)
    records = case_records(case_name, parameters, Layout(root), revision)
    outcome = _deliver(records, tracking, root)
    if outcome is not None and outcome.reason is not None and tracking.mode != "offline":
        _LOG.warning("publish %s: %s; %s", case_name, outcome.reason, _advice(outcome))
    return {
        "case": case_name,
        "tracker": tracking.tracker,
        "mode_asked": tracking.mode,
        "mode_used": outcome.mode if outcome else "disabled",
        "synced": outcome is not None and outcome.mode == "online",
        "reason": outcome.reason if outcome else "publishing is switched off",
        "entity": (outcome.entity if outcome else None) or tracking.entity,
        "project": tracking.project,
        "group": revision.name,
        "git_revision": revision.commit,
        "content": records_digest(records),
        "runs": [_entry(record, outcome) for record in records] if outcome else [],
    }


def _deliver(records: list[RunRecord], tracking: TrackingSettings, root: Path) -> Outcome | None:
    """Hand the runs over; None if nothing is to be published."""
    if tracking.tracker == "none" or tracking.mode == "disabled":
        return None
    return deliver(
        records,
        project=tracking.project,
        entity=tracking.entity,
        mode=tracking.mode,
        root=root,
    )


def _entry(record: RunRecord, outcome: Outcome) -> dict[str, Any]:
    about = record.description
    return {
        "id": about.id,
        "name": about.name,
        "kind": about.job_type,
        "url": outcome.urls.get(about.id),
        "folder": None if outcome.mode == "failed" else folder_pattern(about.id),
    }


def _advice(outcome: Outcome) -> str:
    if outcome.mode == "failed":
        return "the results are complete; publish again when it is fixed"
    return "the runs wait in wandb/ and can be sent with `telescope sync`"
