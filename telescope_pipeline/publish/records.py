"""The runs of a case: one per member group, and one for the case as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_core.trackers.record import Picture, RunRecord, TableRecord, digest_of
from telescope_pipeline.publish.digests import dvc_output, files_below
from telescope_pipeline.publish.history import over_seeds
from telescope_pipeline.publish.results import (
    CaseResults,
    read_history,
    read_results,
    read_table,
)
from telescope_pipeline.publish.revision import Revision
from telescope_pipeline.store.files import sha256
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters, RunSettings
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

    Every group keeps its trained members, made from the case's data, which the first group keeps
    since all of them need it; the case keeps the results, made from all of these.

    Returns:
        One record per member group, in the order of the history, and last the case's own.  The id
        of a run is a hash of everything in it.

    Raises:
        ArtifactError: If results are missing or damaged.
    """
    case = parameters.cases[case_name]
    tags = tuple(parameters.tracking.tags)
    groups = list(_group_records(case_name, case, parameters.run, layout, revision))
    made_from = {a.name: None for group in groups for a in group.artifacts}
    own = _case_record(case_name, case, parameters.run, layout, revision)
    records = [*groups, replace(own, uses=tuple(made_from))]
    return [_identified(record, revision.name, tags) for record in records]


def _identified(record: RunRecord, group: str, tags: tuple[str, ...]) -> RunRecord:
    described = replace(record.description, group=group, tags=tags)
    run_id = replace(record, description=described).digest()[:_ID_LENGTH]
    return replace(record, description=replace(described, id=run_id))


def _group_records(
    case_name: str, case: Case, run: RunSettings, layout: Layout, revision: Revision
) -> Iterator[RunRecord]:
    history, sweep = read_history(layout, case_name)
    artifact = _Artifacts(case_name, layout, revision)
    data = artifact("data", "dataset", layout.data(case_name))
    columns = [str(name) for name in history.columns]
    quantities = columns[columns.index("step") + 1 :]
    trained = layout.runs(case_name)
    tracked = [dvc_output(trained, layout.root)]
    for position, (name, members) in enumerate(history.groupby("group", sort=False)):
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
        folders = [trained / str(member) for member in members["member"].unique()]
        kept = artifact(f"runs-{name}", "trained-members", trained, folders, tracked)
        yield RunRecord(
            description=RunDescription("", f"{case_name}/{name}", "", MEMBERS, config=config),
            history=rows,
            summary={"step": last_step, **last},
            artifacts=(*([] if position else [data]), kept),
            uses=(data.name,) if position else (),
        )


def _case_record(
    case_name: str, case: Case, run: RunSettings, layout: Layout, revision: Revision
) -> RunRecord:
    results = read_results(layout, case_name)
    results_folder = layout.results(case_name)
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
        artifacts=(
            _Artifacts(case_name, layout, revision)(
                "results", "results", results_folder, [results_folder / name for name in _RESULTS]
            ),
        ),
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


@dataclass(frozen=True)
class _Artifacts:
    """Makes the artifacts of a case."""

    case_name: str
    layout: Layout
    revision: Revision

    def __call__(
        self,
        part: str,
        kind: str,
        folder: Path,
        outputs: Sequence[Path] | None = None,
        tracked: Sequence[Mapping[str, Any]] | None = None,
    ) -> ArtifactFiles:
        """Keep a folder, or only some files and folders in it.

        ``tracked`` says what DVC knows them by, where that is not what is kept.
        """
        outputs = [folder] if outputs is None else outputs
        files: dict[str, Path] = {}
        for output in outputs:
            below = files_below(output) if output.is_dir() else {"": output}
            for path in below.values():
                files[path.relative_to(folder).as_posix()] = path
        metadata = {
            "case": self.case_name,
            "git_revision": self.revision.commit,
            "pipeline_revision": self.revision.name,
            "dvc": tracked or [dvc_output(output, self.layout.root) for output in outputs],
        }
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{self.case_name}-{part}")
        return ArtifactFiles(name, kind, files, metadata)


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
