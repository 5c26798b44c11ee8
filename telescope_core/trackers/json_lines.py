"""Runs as plain files, for whoever wants to read them without any tracker.

A run is the folder ``<directory>/jsonl/<project>/<name>.<id>``:

- ``run.json``: what the run is, its config, its pictures and artifacts, and ``state``, which is
  ``finished`` once the run is complete;
- ``history.jsonl``: a row per line, the step under the name of the step axis;
- ``summary.json``;
- ``tables/<key>.json`` with ``columns`` and ``rows``, ``pictures/<key>.<suffix>`` and
  ``artifacts/<name>/``: copies.

All of it is strict JSON: NaN and infinities are the texts ``NaN``, ``Infinity`` and ``-Infinity``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from telescope_core.trackers._plain import as_json
from telescope_core.trackers._run_folder import FolderTracker, RunFolder
from telescope_core.trackers._session import BaseRun
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription


class JsonLinesRun(BaseRun):
    """A run that is a folder of JSON files; made by :class:`JsonLinesTracker`."""

    tool = "JSON lines"

    def __init__(self, folder: RunFolder, about: RunDescription) -> None:
        super().__init__(about)
        self._folder = folder
        self._history = (folder.path / "history.jsonl").open("w", encoding="utf-8")
        self._summary: dict[str, Cell] = {}
        self._pictures: dict[str, Any] = {}
        self._artifacts: dict[str, Any] = {}

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history; it is on the disk when this returns."""
        with self._told("a row could not be logged"):
            row = {self.about.step_key: step, **self._numbers(record)}
            self._history.write(as_json(row, indent=None) + "\n")
            self._history.flush()

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole."""
        with self._told("the summary could not be set"):
            self._summary |= values
            self._folder.write(as_json(self._summary) + "\n", "summary.json")

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Copy a picture file."""
        with self._told(f"picture {key} could not be kept"):
            kept = self._folder.keep(path, "pictures", f"{key}{path.suffix}")
            self._pictures[key] = {"file": kept, "caption": caption}

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Write a table."""
        with self._told(f"table {key} could not be written"):
            content = {"columns": list(columns), "rows": [list(row) for row in rows]}
            self._folder.write(as_json(content) + "\n", "tables", f"{key}.json")

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Copy files."""
        with self._told(f"artifact {artifact.name} could not be kept"):
            self._artifacts[artifact.name] = self._folder.keep_artifact(artifact)

    def _end(self, complete: bool) -> None:
        self._history.close()
        self._folder.end(complete, {"pictures": self._pictures, "artifacts": self._artifacts})


class JsonLinesTracker(FolderTracker[JsonLinesRun]):
    """Runs as folders of JSON files, described in this module.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/jsonl/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
    """

    tool = "JSON lines"
    folder = "jsonl"

    def _begin(self, folder: RunFolder, description: RunDescription) -> JsonLinesRun:
        return JsonLinesRun(folder, description)
