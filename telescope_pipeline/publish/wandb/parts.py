"""What of a run the server does not show, part by part; asked in the client's own process."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from telescope_core.trackers.protocol import CONTENT_KEY
from telescope_pipeline.publish.record import RunRecord

_CLOSE = 1e-12
_MEDIA = ("image-file", "table-file")


@dataclass(frozen=True)
class Lacking:
    """What the server does not show of a run.

    Attributes:
        about: Whether its name, group, tags, notes, config or summary differ, or it is not over.
        history: Whether rows are missing.
        shown: Keys of the pictures and tables that are missing.
        charts: Keys of the charts that are missing.
        artifacts: Names of the artifacts that are missing.
        differs: Whether the server holds other numbers, which cannot be replaced.
    """

    about: bool = True
    history: bool = True
    shown: frozenset[str] = frozenset()
    charts: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()
    differs: bool = False

    def __bool__(self) -> bool:
        return bool(self.words())

    def words(self) -> list[str]:
        """The parts by name."""
        said = {
            "description": self.about,
            "history": self.history,
            "the same numbers": self.differs,
            "pictures and tables": self.shown,
            "charts": self.charts,
            "artifacts": self.artifacts,
        }
        return [word for word, lacking in said.items() if lacking]


def all_of(record: RunRecord) -> Lacking:
    """What a server lacks that has nothing of a run."""
    return Lacking(
        history=bool(record.history),
        shown=frozenset(_shown(record)),
        charts=frozenset(chart.key for chart in record.charts),
        artifacts=frozenset(artifact.name for artifact in record.artifacts),
    )


def lacking(there: Any, record: RunRecord) -> Lacking:
    """Compare what the server shows of a run with what there is to say about it.

    Args:
        there: The run of the client's public interface; None if there is none.
        record: The run.

    Returns:
        What is missing.

    Raises:
        wandb.errors.CommError: If the server does not answer.
    """  # raised by the client
    if there is None:
        return all_of(record)
    everything = all_of(record)
    history, differs = _history(there, record)
    files = {file.name: int(file.size) for file in there.files()} if everything.shown else {}
    summary = there.summary_metrics
    present = {key for key, value in summary.items() if _is_kept(value, files)}
    drawn = there.rawconfig.get("_wandb", {}).get("visualize", {})
    charts = {c.key for c in record.charts if c.key in drawn and c.table in present}
    kept = (
        {base_name(artifact) for artifact in there.logged_artifacts()} if record.artifacts else ()
    )
    return Lacking(
        about=not _is_described(there, record, summary),
        history=history,
        shown=everything.shown - present,
        charts=everything.charts - charts,
        artifacts=everything.artifacts - frozenset(kept),
        differs=differs,
    )


def base_name(artifact: Any) -> str:
    """The name of an artifact without its version."""
    return str(artifact.name.partition(":")[0])


def _shown(record: RunRecord) -> Collection[str]:
    return {item.key for items in (record.pictures, record.tables) for item in items}


def _is_described(there: Any, record: RunRecord, summary: Mapping[str, Any]) -> bool:
    about = record.described()
    shown = (there.name, there.group, there.job_type, there.notes or "", sorted(there.tags))
    told = (about.name, about.group, about.job_type, about.notes, sorted(about.tags))
    return (
        there.state == "finished"
        and there.config.get(CONTENT_KEY) == about.config[CONTENT_KEY]
        and shown == told
        and record.summary.keys() <= summary.keys()
    )


def _history(there: Any, record: RunRecord) -> tuple[bool, bool]:
    """Whether rows are missing, and whether one holds other numbers."""
    axis = record.description.step_key
    rows = {r[axis]: r for r in there.scan_history(use_cache=False) if r.get(axis) is not None}
    missing = any(step not in rows for step, _ in record.history)
    differs = any(
        not _is_number(rows[step].get(name), value)
        for step, values in record.history
        if step in rows
        for name, value in values.items()
        if name != axis
    )
    return missing, differs


def _is_number(read: Any, told: float) -> bool:
    try:
        return math.isclose(float(read), told, rel_tol=_CLOSE)
    except (TypeError, ValueError):
        return False


def _is_kept(value: Any, files: Mapping[str, int]) -> bool:
    """Whether what the summary says of a picture or table is at the server in full length."""
    if not isinstance(value, Mapping) or value.get("_type") not in _MEDIA:
        return False
    return files.get(str(value.get("path"))) == value.get("size")
