"""The runs of a case: one per member group, and one for the case as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_pipeline.publish.digests import dvc_output, files_below
from telescope_pipeline.publish.history import seeds_as_one
from telescope_pipeline.publish.record import Picture, RunRecord, TableRecord
from telescope_pipeline.publish.results import CaseResults, read_history, read_results, read_table
from telescope_pipeline.publish.revision import Revision
from telescope_pipeline.store.files import sha256
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters, RunSettings
    from telescope_pipeline.schemas.sections import Case

MEMBERS, CASE = "members", "case"
"""Job types: the seeds of one sweep value, and the case as a whole."""

_ID_LENGTH = 20
_RESULTS = ("claims.json", "figures.json", "history.parquet", "metrics.json", "plots")
_CLAIM_COLUMNS = ("id", "statement", "source", "observed", "threshold", "holds")


def case_records(
    case_name: str, parameters: Parameters, layout: Layout, revision: Revision
) -> list[RunRecord]:
    """Collect everything there is to publish about a case.

    Every group keeps its trained members, made from the case's data, which the first group keeps
    since all of them need it; the case keeps the results, made from all of these.

    Returns:
        One record per member group, in the order of the history, and last the case's own.  The id
        of a run is a hash of everything in it.

    Raises:
        ArtifactError: If results are missing or damaged.
    """
    tags = tuple(parameters.tracking.tags)
    source = _Source(case_name, parameters.cases[case_name], parameters.run, layout, revision)
    groups = list(_group_records(source))
    made_from = {a.name: None for group in groups for a in group.artifacts}
    records = [*groups, replace(_case_record(source), uses=tuple(made_from))]
    return [_identified(record, revision.name, tags) for record in records]


@dataclass(frozen=True)
class _Source:
    """What the runs of a case are made from."""

    name: str
    case: Case
    run: RunSettings
    layout: Layout
    revision: Revision

    def config(self, **own: Any) -> dict[str, Any]:
        # Of the run settings those that results depend on; where and how many at a time is no part.
        run = {"seed": self.run.seed, "device": self.run.device, "threads": self.run.threads}
        return {"case": self.name, "kind": self.case.kind, **own, "run": run}

    def tracked(self, *paths: Path) -> list[dict[str, Any]]:
        return [dvc_output(path, self.layout.root) for path in paths]

    def artifact(
        self,
        part: str,
        kind: str,
        folder: Path,
        outputs: Sequence[Path],
        tracked: list[dict[str, Any]],
    ) -> ArtifactFiles:
        """Keep some files and folders in a folder; ``tracked`` is what DVC knows them by."""
        files: dict[str, Path] = {}
        for output in outputs:
            below = files_below(output) if output.is_dir() else {"": output}
            files |= {path.relative_to(folder).as_posix(): path for path in below.values()}
        metadata = {
            "case": self.name,
            "git_revision": self.revision.commit,
            "pipeline_revision": self.revision.name,
            "dvc": tracked,
        }
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{self.name}-{part}")
        return ArtifactFiles(name, kind, files, metadata)


def _identified(record: RunRecord, group: str, tags: tuple[str, ...]) -> RunRecord:
    described = replace(record.description, group=group, tags=tags)
    run_id = replace(record, description=described).digest()[:_ID_LENGTH]
    return replace(record, description=replace(described, id=run_id))


def _group_records(source: _Source) -> Iterator[RunRecord]:
    history, sweep = read_history(source.layout, source.name)
    folder = source.layout.data(source.name)
    data = source.artifact("data", "dataset", folder, [folder], source.tracked(folder))
    columns = [str(name) for name in history.columns]
    quantities = columns[columns.index("step") + 1 :]
    trained = source.layout.runs(source.name)
    tracked = source.tracked(trained)
    for position, (name, members) in enumerate(history.groupby("group", sort=False)):
        values = {column: _plain(members[column].iloc[0]) for column in sweep}
        seeds = sorted({int(seed) for seed in members["seed"]})
        own = source.case.narrowed(values, seeds[-1])
        # What only the case as a whole depends on would give the group another identity.
        parameters = own.model_dump(mode="json", exclude={"kind", "seeds", "claims", "plot"})
        config = source.config(sweep=values, seeds=seeds, parameters=parameters)
        rows = seeds_as_one(members, quantities)
        last_step, last = rows[-1]
        folders = [trained / str(member) for member in members["member"].unique()]
        kept = source.artifact(f"runs-{name}", "trained-members", trained, folders, tracked)
        yield RunRecord(
            RunDescription("", f"{source.name}/{name}", "", MEMBERS, config=config),
            history=rows,
            summary={"step": last_step, **last},
            artifacts=(*([] if position else [data]), kept),
            uses=(data.name,) if position else (),
        )


def _case_record(source: _Source) -> RunRecord:
    results = read_results(source.layout, source.name)
    folder = source.layout.results(source.name)
    config = source.config(parameters=source.case.model_dump(mode="json", exclude={"kind"}))
    claims = [tuple(_cell(claim[name]) for name in _CLAIM_COLUMNS) for claim in results.claims]
    tables = [TableRecord("claims", _CLAIM_COLUMNS, tuple(claims))]
    tables += [TableRecord(f"tables/{f.name}", *read_table(f.table)) for f in results.figures]
    pictures = [
        Picture(f"plots/{f.name}", f.picture, sha256(f.picture), f"{f.title}. {f.caption}")
        for f in results.figures
    ]
    outputs = [folder / name for name in _RESULTS]
    kept = source.artifact("results", "results", folder, outputs, source.tracked(*outputs))
    return RunRecord(
        RunDescription("", source.name, "", CASE, config=config),
        summary=_summary(results),
        pictures=tuple(pictures),
        tables=tuple(tables),
        artifacts=(kept,),
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


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
