"""What a report at the tracker says about the published cases."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.receipts import Receipt, read_receipts
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import Revision, pipeline_revision
from telescope_pipeline.publish.wandb.page import ClaimRow, Curves, ReportPage, ReportSection
from telescope_pipeline.report.entries import Entry, entries_of
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters
    from telescope_pipeline.publish.record import RunRecord

_LOG = logging.getLogger(__name__)

# Title, the quantities it shows (of any set and lens), whether they fall over decades.
_PANELS = (
    ("Error", ("mse", "loss", "cross_entropy"), True),
    ("Accuracy", ("accuracy",), False),
    ("Effective parameters", ("effective_parameters",), False),
    ("Degrees of freedom", ("degrees_of_freedom",), False),
    ("Sensitivity of logits", ("logit_sensitivity",), True),
    ("Distance from the network", ("approximation_error", "linearization_error"), True),
    ("Smoother's distance from the network", ("smoother_error",), True),
    ("Norms of tangent-kernel rows", ("kernel_norm", "kernel_norm_max", "kernel_norm_mean"), True),
)

_LONGEST = 240


def report_page(parameters: Parameters, layout: Layout) -> ReportPage:
    """Collect the page about the revision that was published last.

    Args:
        parameters: The validated parameters.
        layout: The project's folders.

    Returns:
        A section for each case that was published to Weights & Biases; which cases were published
        elsewhere is said through :mod:`logging`.

    Raises:
        ArtifactError: If no case was published there, cases were published there at different
            revisions, or results or receipts are missing or damaged.
    """
    published = _published(parameters, layout)
    if not published:
        raise ArtifactError(
            "no case was published to Weights & Biases, so there is nothing to report on; run "
            "`dvc repro` with tracking.tracker set to wandb and tracking.mode not to disabled"
        )
    revisions = sorted({receipt.group for receipt in published.values()})
    if len(revisions) > 1:
        raise ArtifactError(
            f"the cases were published at {len(revisions)} revisions ({', '.join(revisions)}); run "
            "`dvc repro publish` so that all are of one"
        )
    (name,) = revisions
    now = pipeline_revision(layout.root)
    sections = [_section(case, r, parameters, layout, now) for case, r in published.items()]
    tracking = parameters.tracking
    held = sum(claim.holds for section in sections for claim in section.claims)
    count = sum(len(section.claims) for section in sections)
    return ReportPage(
        project=tracking.project,
        entity=tracking.entity,
        revision=name,
        title=f"Telescope at revision {name}",
        description=f"{len(sections)} case studies; {held} of {count} claims hold.",
        sections=tuple(sections),
    )


def _published(parameters: Parameters, layout: Layout) -> dict[str, Receipt]:
    """The receipts of the cases whose runs the report can show."""
    published = {}
    for case, receipt in read_receipts(layout, parameters.cases).items():
        if receipt.runs and receipt.at_wandb:
            published[case] = receipt
        elif receipt.runs:
            _LOG.warning("report: %s is left out, it was published to %s", case, receipt.tracker)
    return published


def _section(
    case: str, receipt: Receipt, parameters: Parameters, layout: Layout, revision: Revision
) -> ReportSection:
    records = case_records(case, parameters, layout, revision)
    if {record.id for record in records} != receipt.runs.keys():
        raise ArtifactError(
            f"the results of {case} are others than those that were published; run "
            f"`telescope publish {case}` first"
        )
    claims = files.read_json(layout.results(case) / "claims.json")
    return ReportSection(
        case=case,
        runs=tuple(record.to_json() for record in records),
        claims=tuple(_claim(claim) for claim in claims),
        curves=tuple(_curves(records)),
    )


def _claim(claim: dict[str, Any]) -> ClaimRow:
    return ClaimRow(
        id=str(claim["id"]),
        statement=str(claim["statement"]),
        source=str(claim["source"]),
        observed=_in_a_line(entries_of(claim["observed"])),
        holds=bool(claim["holds"]),
    )


def _in_a_line(entries: Sequence[Entry]) -> str:
    """Labelled lines, one after the other; what lies deeper is summed up by its heading."""
    text = "; ".join(" ".join(filter(None, (e.label, e.text, e.note))) for e in entries)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _curves(records: Sequence[RunRecord]) -> Iterator[Curves]:
    keys = {key: None for record in records for _, row in record.history for key in row}
    for title, quantities, log_y in _PANELS:
        chosen = tuple(key for key in keys if _quantity(key) in quantities)
        if chosen:
            yield Curves(title, chosen, log_y)


def _quantity(key: str) -> str | None:
    """``mse`` of ``test/mse`` and of ``test/mse@order2``; None of what lies deeper."""
    name = key.partition("/")[2]
    return None if "/" in name else name.partition("@")[0]
