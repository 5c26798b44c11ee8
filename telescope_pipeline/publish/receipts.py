"""The receipt of a case: where its runs are at a tracker, and why if they are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.delivery import Delivery, Place
from telescope_pipeline.publish.record import RunRecord, digest_of
from telescope_pipeline.publish.revision import Revision
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import TrackingSettings

RECEIPT = "receipt.json"


def receipt_of(
    case_name: str,
    tracking: TrackingSettings,
    revision: Revision,
    records: Sequence[RunRecord],
    delivery: Delivery,
) -> dict[str, Any]:
    """Build the receipt of a case, whatever the tracker.

    Returns:
        JSON-able data with the same entries every time, without runs if publishing is off.
    """
    runs = []
    for record in records if delivery.mode != "disabled" else ():
        place = delivery.places.get(record.id, Place())
        runs.append(
            {
                "id": record.id,
                "name": record.description.name,
                "kind": record.description.job_type,
                "url": place.url,
                "folder": place.folder,
                "kept": record.id in delivery.places,
            }
        )
    return {
        "case": case_name,
        "tracker": tracking.tracker,
        "mode_asked": tracking.mode,
        "mode_used": delivery.mode,
        "synced": delivery.reason is None,
        "reason": delivery.reason,
        "entity": delivery.entity or tracking.entity,
        "project": tracking.project,
        "options": tracking.options,
        "group": revision.name,
        "git_revision": revision.commit,
        "content": digest_of([record.digest() for record in records]),
        "runs": runs,
    }


def told_before(path: Path, tracking: TrackingSettings) -> set[str]:
    """The runs that the last receipt, if there is one, says this tracker was told."""
    try:
        receipt = files.read_json(path)
        told = [receipt[name] for name in ("tracker", "project", "options")]
        if told == [tracking.tracker, tracking.project, tracking.options]:
            return {str(run["id"]) for run in receipt["runs"] if run["kept"]}
    except (ArtifactError, KeyError, TypeError):
        pass
    return set()


@dataclass(frozen=True)
class Receipt:
    """Where a case was published.

    Attributes:
        tracker: The tracker that was told.
        group: The revision by which it groups runs.
        runs: Kinds of the runs by their ids; none if publishing was switched off.
    """

    tracker: str
    group: str
    runs: Mapping[str, str]

    @property
    def at_wandb(self) -> bool:
        """Whether Weights & Biases is the tracker, of which alone runs can wait or be shown."""
        return self.tracker == "wandb"


def read_receipts(layout: Layout, cases: Iterable[str]) -> dict[str, Receipt]:
    """Read the receipts of those cases that have one.

    Returns:
        The receipts by case.

    Raises:
        ArtifactError: If a receipt is damaged.
    """
    receipts = {}
    for case in cases:
        path = layout.results(case) / RECEIPT
        if not path.is_file():
            continue
        content = files.read_json(path)
        try:
            runs = {str(run["id"]): str(run["kind"]) for run in content["runs"]}
            receipts[case] = Receipt(str(content["tracker"]), str(content["group"]), runs)
        except (KeyError, TypeError):
            raise ArtifactError(
                f"{path}: not a receipt; run `telescope publish {case}` again"
            ) from None
    return receipts
