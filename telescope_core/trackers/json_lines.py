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

from collections.abc import Sequence
from pathlib import Path

from telescope_core.trackers._client import as_json
from telescope_core.trackers._folder import FolderRun, FolderTracker
from telescope_core.trackers.protocol import Rows, RunDescription


class JsonLinesRun(FolderRun):
    """A run that is a folder of JSON files; made by :class:`JsonLinesTracker`.

    A row of the history is on the disk when ``log`` returns.
    """

    tool = "JSON lines"

    def __init__(self, path: Path, about: RunDescription) -> None:
        super().__init__(path, about)
        self._history = (path / "history.jsonl").open("w", encoding="utf-8")
        self._listed["pictures"] = {}

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        row = {self.about.step_key: step, **numbers}
        self._history.write(as_json(row, indent=None) + "\n")
        self._history.flush()

    def _image(self, key: str, path: Path, caption: str) -> None:
        kept = self._keep(path, "pictures", f"{key}{path.suffix}")
        self._listed["pictures"][key] = {"file": kept, "caption": caption}

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        self._write({"columns": columns, "rows": rows}, "tables", f"{key}.json")

    def _finish(self) -> None:
        self._history.close()
        if self._summary:
            self._write(self._summary, "summary.json")


class JsonLinesTracker(FolderTracker):
    """Runs as folders of JSON files, described in this module.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/jsonl/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
    """

    tool = "JSON lines"
    folder = "jsonl"
    run = JsonLinesRun
