"""Publishing the results of a case to a tracker.

Publishing is a function of the results: the same results give the same runs under the same ids,
however often they are published.  Whatever the tracker does, the results are there and the stage
succeeds; the receipt says where the runs are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import MissingDependencyError
from telescope_pipeline.publish import wandb
from telescope_pipeline.publish.delivery import Delivery, deliver
from telescope_pipeline.publish.options import tracker_options
from telescope_pipeline.publish.receipts import RECEIPT, receipt_of, told_before
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters, TrackingSettings
    from telescope_pipeline.publish.record import RunRecord

_LOG = logging.getLogger(__name__)
_ADVICE = {
    "failed": "the results are complete; publish again when it is fixed",
    "offline": "the runs wait in wandb/ and can be sent with `telescope sync`",
}


def publish(case_name: str, parameters: Parameters, root: Path) -> dict[str, Any]:
    """Publish a case.

    There is one run per member, with everything recorded, and one for the case: its claims, plots,
    metrics and files.

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
    delivery = _deliver(records, tracking, root, layout.results(case_name) / RECEIPT)
    if delivery.mode in _ADVICE and delivery.mode != tracking.mode:
        _LOG.warning("publish %s: %s; %s", case_name, delivery.reason, _ADVICE[delivery.mode])
    return receipt_of(case_name, tracking, revision, records, delivery)


def _deliver(
    records: list[RunRecord], tracking: TrackingSettings, root: Path, receipt: Path
) -> Delivery:
    if tracking.tracker == "none" or tracking.mode == "disabled":
        return Delivery("disabled", "publishing is switched off")
    if tracking.tracker == "wandb":
        return wandb.deliver(
            records,
            project=tracking.project,
            entity=tracking.entity,
            mode=tracking.mode,
            root=root,
        )
    try:
        options = tracker_options(tracking, root)
    except MissingDependencyError as error:
        return Delivery("failed", str(error))
    known = told_before(receipt, tracking)
    return deliver(tracking.tracker, options, records, root=root, known=known)
