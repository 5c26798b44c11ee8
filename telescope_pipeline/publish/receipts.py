"""What the receipts of cases say about their runs at a tracker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.records import RECEIPT
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


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

    Args:
        layout: The project's folders.
        cases: The cases.

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
