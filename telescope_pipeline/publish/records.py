"""The runs of a case: one per member, and one for the case as a whole."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_pipeline.publish.charts import chart_of
from telescope_pipeline.publish.digests import dvc_output, files_below
from telescope_pipeline.publish.naming import (
    CASE,
    Setting,
    described_member,
    id_of,
    tags_of,
    title_of,
)
from telescope_pipeline.publish.record import Picture, RunRecord, TableRecord
from telescope_pipeline.publish.results import CaseResults, read_history, read_results, read_table
from telescope_pipeline.publish.revision import Revision
from telescope_pipeline.store import files
from telescope_pipeline.store.files import sha256
from telescope_pipeline.store.folders import Layout
from telescope_pipeline.store.manifest import key_of

if TYPE_CHECKING:
    import pandas as pd

    from telescope_pipeline.parameters.model import Parameters
    from telescope_pipeline.schemas.sections import Case

_RESULTS = ("claims.json", "figures.json", "history.parquet", "metrics.json", "plots")
_CLAIM_COLUMNS = ("id", "statement", "source", "observed", "threshold", "holds")
_CASES = "cases"


def case_records(
    case_name: str, parameters: Parameters, layout: Layout, revision: Revision
) -> list[RunRecord]:
    """Collect everything there is to publish about a case.

    The case keeps all files: data, trained members and results.  Every member used the data.

    Returns:
        One record per member, in the order of the history, and last the case's own.  The id of a
        member's run is a hash of what the member was made of, so that it is known before it is
        trained; that of the case's run is a hash of everything in it.

    Raises:
        ArtifactError: If results are missing or damaged.
    """
    source = _Source(case_name, parameters, layout)
    results = read_results(layout, case_name)
    own = _case_record(source, results)
    data = own.artifacts[0].name
    records = [*_member_records(source, results.question, data), own]
    provenance = {
        "commit": revision.commit,
        "dirty": revision.dirty,
        "revision": revision.name,
    }
    return [replace(record, provenance=provenance) for record in records]


@dataclass(frozen=True)
class _Source:
    """What the runs of a case are made from."""

    name: str
    parameters: Parameters
    layout: Layout

    @property
    def case(self) -> Case:
        return self.parameters.cases[self.name]

    def artifact(
        self, part: str, kind: str, folder: Path, outputs: Sequence[Path]
    ) -> ArtifactFiles:
        """Keep some files and folders in a folder."""
        found: dict[str, Path] = {}
        for output in outputs:
            below = files_below(output) if output.is_dir() else {"": output}
            found |= {path.relative_to(folder).as_posix(): path for path in below.values()}
        dvc = [dvc_output(path, self.layout.root) for path in outputs]
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{self.name}-{part}")
        return ArtifactFiles(name, kind, found, {"case": self.name, "dvc": dvc})


def _member_records(source: _Source, question: str, data: str) -> Iterator[RunRecord]:
    history, sweep = read_history(source.layout, source.name)
    quantities = list(history.columns)[list(history.columns).index("step") + 1 :]
    for name, rows in history.groupby("member", sort=False):
        first = rows.iloc[0]
        values = {column: _plain(first[column]) for column in sweep}
        member = Setting(str(first["group"]), int(first["seed"]), values)
        path = source.layout.runs(source.name) / str(name) / "manifest.json"
        manifest = files.read_json(path)
        if not isinstance(manifest, dict):
            raise ArtifactError(f"{path}: not a manifest; run the train stage again")
        # What it was made of, without what came of it: the key that it was trained under.
        key = key_of({name: part for name, part in manifest.items() if name != "outputs"})
        about = described_member(source.name, source.parameters, member, key, question)
        recorded = tuple(_numbers(rows, quantities))
        last_step, last = recorded[-1]
        yield RunRecord(about, history=recorded, summary={"step": last_step, **last}, uses=(data,))


def _numbers(rows: pd.DataFrame, quantities: list[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of a member by step, without those that are not defined at a step."""
    measured = rows[quantities].to_dict("records")
    for step, row in zip(rows["step"], measured, strict=True):
        yield int(step), {str(k): float(x) for k, x in row.items() if not math.isnan(x)}


def _case_record(source: _Source, results: CaseResults) -> RunRecord:
    layout, name = source.layout, source.name
    folder = layout.results(name)
    config = {
        "case": name,
        "kind": source.case.kind,
        "parameters": source.case.model_dump(mode="json", exclude={"kind"}),
        "run": source.parameters.run.model_dump(mode="json", include={"seed", "device", "threads"}),
    }
    claims = [tuple(_cell(claim[name]) for name in _CLAIM_COLUMNS) for claim in results.claims]
    tables = [TableRecord("claims", _CLAIM_COLUMNS, tuple(claims))]
    tables += [TableRecord(f"tables/{f.name}", *read_table(f.table)) for f in results.figures]
    pictures = [
        Picture(f"plots/{f.name}", f.picture, sha256(f.picture), f"{f.title}. {f.caption}")
        for f in results.figures
    ]
    about = RunDescription(
        "",
        title_of(name),
        _CASES,
        CASE,
        tags_of(source.parameters, name),
        config,
        notes=_headline(results),
    )
    record = RunRecord(
        about,
        summary=summary_of(results.metrics, results.claims),
        pictures=tuple(pictures),
        tables=tuple(tables),
        charts=tuple(chart_of(f"charts/{f.name}", f.title, f.chart) for f in results.figures),
        artifacts=(
            source.artifact("data", "dataset", layout.data(name), [layout.data(name)]),
            source.artifact("members", "trained-members", layout.runs(name), [layout.runs(name)]),
            source.artifact("results", "results", folder, [folder / file for file in _RESULTS]),
        ),
    )
    content = replace(record, description=replace(about, tags=(), notes=""))
    return replace(record, description=replace(about, id=id_of(content.digest())))


def _headline(results: CaseResults) -> str:
    """The question and what was found, in words."""
    held = [str(claim["statement"]) for claim in results.claims if claim["holds"]]
    failed = [str(claim["statement"]) for claim in results.claims if not claim["holds"]]
    lines = [results.question, f"{len(held)} of {len(results.claims)} claims hold."]
    lines += [f"Holds: {statement}" for statement in held]
    lines += [f"Does not hold: {statement}" for statement in failed]
    return "\n".join(filter(None, lines))


def summary_of(metrics: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> dict[str, Cell]:
    """The numbers that sum up a case, each by one name: ``claims/...`` and ``metrics/...``."""
    held = [bool(claim["holds"]) for claim in claims]
    summary: dict[str, Cell] = {"claims/held": sum(held), "claims/all": len(held)}
    summary |= {f"claims/{claim['id']}": bool(claim["holds"]) for claim in claims}
    return summary | dict(_flat("metrics", metrics))


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
