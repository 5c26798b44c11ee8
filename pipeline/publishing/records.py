"""The runs of a case: one per member group, and one for the case as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_core.trackers.record import Picture, RunRecord, TableRecord, digest_of
from telescope_pipeline.files import sha256
from telescope_pipeline.layout import Layout
from telescope_pipeline.publishing.digests import dvc_output, files_below
from telescope_pipeline.publishing.history import over_seeds
from telescope_pipeline.publishing.results import (
    CaseResults,
    read_history,
    read_results,
    read_table,
)
from telescope_pipeline.revision import Revision

if TYPE_CHECKING:
    from telescope_pipeline.schemas.parameters import Parameters, RunSettings
    from telescope_pipeline.schemas.sections import Case

MEMBERS, CASE = "members", "case"
"""Job types: the seeds of one sweep value, and the case as a whole."""

RECEIPT = "receipt.json"

_ID_LENGTH = 20
_RESULTS = ("claims.json", "figures.json", "history.parquet", "metrics.json", "plots")
_CLAIM_COLUMNS = ("id", "statement", "source", "observed", "threshold", "holds")


def case_records(
    case_name: str, parameters: Parameters, layout: Layout, revision: Revision
) -> list[RunRecord]:
    """Collect everything there is to publish about a case.

    Args:
        case_name: The case.
        parameters: The validated parameters.
        layout: The project's folders.
        revision: The revision of the pipeline, by which runs are grouped.

    Returns:
        One record per member group, in the order of the history, and last the case's own.  The id
        of a run is a hash of everything in it.

    Raises:
        ArtifactError: If results are missing or damaged.
    """
    case = parameters.cases[case_name]
    tags = tuple(parameters.tracking.tags)
    group_records = _group_records(case_name, case, parameters.run, layout)
    records = [*group_records, _case_record(case_name, case, parameters.run, layout, revision)]
    return [_identified(record, revision.name, tags) for record in records]


def _identified(record: RunRecord, group: str, tags: tuple[str, ...]) -> RunRecord:
    described = replace(record.description, group=group, tags=tags)
    run_id = replace(record, description=described).digest()[:_ID_LENGTH]
    return replace(record, description=replace(described, id=run_id))


def _group_records(
    case_name: str, case: Case, run: RunSettings, layout: Layout
) -> Iterator[RunRecord]:
    history, sweep = read_history(layout, case_name)
    columns = [str(name) for name in history.columns]
    quantities = columns[columns.index("step") + 1 :]
    for name, members in history.groupby("group", sort=False):
        values = {column: _plain(members[column].iloc[0]) for column in sweep}
        seeds = sorted({int(seed) for seed in members["seed"]})
        own = case.narrowed(values, seeds[-1])
        config = {
            "case": case_name,
            "kind": case.kind,
            "sweep": values,
            "seeds": seeds,
            # What only the case as a whole depends on would give the group another identity.
            "parameters": own.model_dump(mode="json", exclude={"kind", "seeds", "claims", "plot"}),
            "run": _settings(run),
        }
        rows = over_seeds(members, quantities)
        last_step, last = rows[-1]
        yield RunRecord(
            description=RunDescription("", f"{case_name}/{name}", "", MEMBERS, config=config),
            history=rows,
            summary={"step": last_step, **last},
        )


def _case_record(
    case_name: str, case: Case, run: RunSettings, layout: Layout, revision: Revision
) -> RunRecord:
    results = read_results(layout, case_name)
    config = {
        "case": case_name,
        "kind": case.kind,
        "parameters": case.model_dump(mode="json", exclude={"kind"}),
        "run": _settings(run),
    }
    claims = [[_cell(claim[name]) for name in _CLAIM_COLUMNS] for claim in results.claims]
    tables = [TableRecord("claims", _CLAIM_COLUMNS, tuple(map(tuple, claims)))]
    tables += [TableRecord(f"tables/{f.name}", *read_table(f.table)) for f in results.figures]
    pictures = [
        Picture(f"plots/{f.name}", f.picture, sha256(f.picture), f"{f.title}. {f.caption}")
        for f in results.figures
    ]
    return RunRecord(
        description=RunDescription("", case_name, "", CASE, config=config),
        summary=_summary(results),
        pictures=tuple(pictures),
        tables=tuple(tables),
        artifacts=tuple(_artifacts(case_name, layout, revision)),
    )


def _summary(results: CaseResults) -> dict[str, Cell]:
    held = [bool(claim["holds"]) for claim in results.claims]
    summary: dict[str, Cell] = {"claims/held": sum(held), "claims/all": len(held)}
    summary |= {f"claims/{claim['id']}": bool(claim["holds"]) for claim in results.claims}
    return summary | dict(_flat("metrics", results.metrics))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Cell]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}/{key}", inner)
    else:
        yield prefix, _cell(value)


def _artifacts(case_name: str, layout: Layout, revision: Revision) -> Iterator[ArtifactFiles]:
    data, runs = layout.data(case_name), layout.runs(case_name)
    results = layout.results(case_name)
    yield _artifact(case_name, "data", "dataset", data, [data], layout.root, revision)
    yield _artifact(case_name, "runs", "trained-members", runs, [runs], layout.root, revision)
    outputs = [results / name for name in _RESULTS]
    yield _artifact(case_name, "results", "results", results, outputs, layout.root, revision)


def _artifact(
    case_name: str,
    part: str,
    kind: str,
    folder: Path,
    outputs: list[Path],
    root: Path,
    revision: Revision,
) -> ArtifactFiles:
    files: dict[str, Path] = {}
    for output in outputs:
        below = files_below(output) if output.is_dir() else {"": output}
        for path in below.values():
            files[path.relative_to(folder).as_posix()] = path
    metadata = {
        "case": case_name,
        "git_revision": revision.commit,
        "pipeline_revision": revision.name,
        "dvc": [dvc_output(output, root) for output in outputs],
    }
    return ArtifactFiles(f"{case_name}-{part}", kind, files, metadata)


def _settings(run: RunSettings) -> dict[str, Any]:
    """The run settings a result depends on; where and how many at a time is no part of it."""
    return {"seed": run.seed, "device": run.device, "threads": run.threads}


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def records_digest(records: list[RunRecord]) -> str:
    """Hash the content of all runs of a case."""
    return digest_of([record.digest() for record in records])
