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
from telescope_pipeline.publish.delivery import deliver_elsewhere, place_in
from telescope_pipeline.publish.records import RECEIPT, case_records, records_digest
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_core.trackers.delivery import Delivery
    from telescope_core.trackers.record import RunRecord
    from telescope_pipeline.parameters.model import Parameters, TrackingSettings
    from telescope_pipeline.publish.revision import Revision

_LOG = logging.getLogger(__name__)
_ADVICE = "the results are complete; publish again when it is fixed"


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
    layout = Layout(root)
    records = case_records(case_name, parameters, layout, revision)
    if tracking.tracker not in ("wandb", "none") and tracking.mode != "disabled":
        told = deliver_elsewhere(records, tracking, root, layout.results(case_name) / RECEIPT)
        if told.reason is not None:
            _LOG.warning("publish %s: %s; %s", case_name, told.reason, _ADVICE)
        return _receipt_elsewhere(case_name, tracking, revision, records, told, root)
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


def _receipt_elsewhere(
    case_name: str,
    tracking: TrackingSettings,
    revision: Revision,
    records: list[RunRecord],
    told: Delivery,
    root: Path,
) -> dict[str, Any]:
    """The receipt of a tracker other than Weights & Biases."""
    runs = []
    for record in records:
        about = record.description
        url, folder = place_in(root, told.places.get(about.id))
        runs.append(
            {
                "id": about.id,
                "name": about.name,
                "kind": about.job_type,
                "url": url,
                "folder": folder,
                "kept": about.id in told.places,
            }
        )
    at_server = any(run["url"] is not None for run in runs)
    return {
        "case": case_name,
        "tracker": tracking.tracker,
        "mode_asked": tracking.mode,
        "mode_used": "failed" if told.reason else "online" if at_server else "local",
        "synced": told.reason is None,
        "reason": told.reason,
        "entity": None,
        "project": tracking.project,
        "options": tracking.options,
        "group": revision.name,
        "git_revision": revision.commit,
        "content": records_digest(records),
        "runs": runs,
    }


def _advice(outcome: Outcome) -> str:
    if outcome.mode == "failed":
        return _ADVICE
    return "the runs wait in wandb/ and can be sent with `telescope sync`"
