"""A whole run as data: built first, hashed, and then told to any tracker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from telescope_core.trackers.protocol import (
    CONTENT_KEY,
    ArtifactFiles,
    Cell,
    RunDescription,
    Tracker,
)


@dataclass(frozen=True)
class Picture:
    """A picture file.

    Attributes:
        key: Its name in the run, e.g. ``"plots/error"``.
        path: The file.
        sha256: The hash of the file's bytes.
        caption: What it shows.
    """

    key: str
    path: Path
    sha256: str
    caption: str = ""


@dataclass(frozen=True)
class TableRecord:
    """A table.

    Attributes:
        key: Its name in the run, e.g. ``"tables/error"``.
        columns: The names of the columns.
        rows: The rows; every one as long as ``columns``.
    """

    key: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class ChartRecord:
    """A chart that the server draws from a table.

    Attributes:
        key: Its name in the run, e.g. ``"charts/error"``.
        title: What it shows.
        spec: How it is drawn, in Vega-Lite, from the rows of the data called ``wandb``.
        columns: The names of the columns.
        rows: The rows; every one as long as ``columns``.
    """

    key: str
    title: str
    spec: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def table(self) -> str:
        """The name of its table in the run."""
        return f"{self.key}_table"


@dataclass(frozen=True)
class RunRecord:
    """Everything there is to say about one run.

    Attributes:
        description: What the run is.
        history: Rows in order: the step, and numbers by name.
        summary: Values that describe the run as a whole.
        pictures: Pictures to show.
        tables: Tables to show.
        charts: Charts to draw, where the tracker can.
        artifacts: Files to keep.  Their metadata identifies their contents.
        uses: Names of artifacts of other runs that this one was made from.
        provenance: Where it was published from, for the config and the artifacts' metadata; the
            same content published from elsewhere is the same run.
    """

    description: RunDescription
    history: tuple[tuple[int, Mapping[str, float]], ...] = ()
    summary: Mapping[str, Cell] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    tables: tuple[TableRecord, ...] = ()
    charts: tuple[ChartRecord, ...] = ()
    artifacts: tuple[ArtifactFiles, ...] = ()
    uses: tuple[str, ...] = ()
    provenance: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.description.id

    def digest(self) -> str:
        """Hash the content, a SHA-256 in hexadecimal: the same wherever the files are kept."""
        content = self.to_json()
        del content["provenance"]
        for picture in content["pictures"]:
            del picture["path"]
        for artifact in content["artifacts"]:
            artifact["files"] = sorted(artifact["files"])
        return digest_of(content)

    def described(self) -> RunDescription:
        """What the run is, its config with where it came from and by what it is recognised."""
        config = {**self.description.config, **self.provenance, CONTENT_KEY: self.digest()}
        return replace(self.description, config=config)

    def kept(self) -> Iterator[ArtifactFiles]:
        """The artifacts, with where they came from."""
        for artifact in self.artifacts:
            yield replace(artifact, metadata={**artifact.metadata, **self.provenance})

    def to_json(self) -> dict[str, Any]:
        """Write the record as JSON-able data."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return content

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        about = data["description"]
        return cls(
            description=RunDescription(**{**about, "tags": tuple(about["tags"])}),
            history=tuple((step, values) for step, values in data["history"]),
            summary=data["summary"],
            pictures=tuple(Picture(**{**p, "path": Path(p["path"])}) for p in data["pictures"]),
            tables=tuple(TableRecord(**_with_rows(table)) for table in data["tables"]),
            charts=tuple(ChartRecord(**_with_rows(chart)) for chart in data["charts"]),
            artifacts=tuple(
                ArtifactFiles(**{**a, "files": {n: Path(p) for n, p in a["files"].items()}})
                for a in data["artifacts"]
            ),
            uses=tuple(data["uses"]),
            provenance=data["provenance"],
        )


def digest_of(value: Any) -> str:
    """Hash JSON-able data, as a SHA-256 in hexadecimal; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _with_rows(table: Mapping[str, Any]) -> dict[str, Any]:
    columns, rows = tuple(table["columns"]), tuple(map(tuple, table["rows"]))
    return {**table, "columns": columns, "rows": rows}


def replay(record: RunRecord, tracker: Tracker) -> None:
    """Tell a tracker everything a record holds but its charts, which no other one can draw.

    The run's config gets one more entry, ``CONTENT_KEY``, by which a copy of the run can be
    recognised as this one.

    Raises:
        TrackerError: If the tracker fails.
    """
    run = tracker.start(record.described())
    for step, values in record.history:
        run.log(step, values)
    if record.summary:
        run.summarize(record.summary)
    for picture in record.pictures:
        run.image(picture.key, picture.path, picture.caption)
    for table in record.tables:
        run.table(table.key, table.columns, table.rows)
    for artifact in record.kept():
        run.artifact(artifact)
    run.finish()
