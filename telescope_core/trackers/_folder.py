"""Runs that are folders: ``<directory>/<tool>/<project>/<name>.<id>``.

``run.json`` in each says what the run is and whether it is complete; it is written when the run
starts and again, whole, when it ends.
"""

from __future__ import annotations

import json
import re
import shutil
from abc import abstractmethod
from dataclasses import asdict
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from telescope_core.errors import ConfigurationError, TrackerError
from telescope_core.trackers._client import as_json
from telescope_core.trackers._run import BaseRun, Store, missing
from telescope_core.trackers.protocol import CONTENT_KEY, ArtifactFiles, RunDescription

_ABOUT = "run.json"
_RUNNING, _FINISHED, _BROKEN_OFF = "running", "finished", "broken off"

_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_PROJECT = re.compile("[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LONGEST_NAME = 60


class FolderRun(BaseRun):
    """A run that is a folder.

    Args:
        path: The folder; it is made.
        about: What the run is.
    """

    def __init__(self, path: Path, about: RunDescription) -> None:
        super().__init__(about)
        self._path = path
        self._artifacts: dict[str, Any] = {}
        # What run.json says of the run's files in the end.
        self._listed: dict[str, Any] = {"artifacts": self._artifacts}
        path.mkdir(parents=True)
        self._write_about(_RUNNING)

    @abstractmethod
    def _finish(self) -> None:
        """Write the summary and close files."""

    def _artifact(self, artifact: ArtifactFiles) -> None:
        kept = {
            name: self._keep(path, "artifacts", artifact.name, name)
            for name, path in artifact.files.items()
        }
        about = {"kind": artifact.kind, "files": kept, "metadata": artifact.metadata}
        self._artifacts[artifact.name] = about

    def _end(self, complete: bool) -> None:
        self._finish()
        self._write_about(_FINISHED if complete else _BROKEN_OFF, self._listed)

    def _keep(self, source: Path, *names: str) -> str:
        """Copy a file to a place in the folder; returns the place."""
        place = inside(*names)
        target = self._path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return place.as_posix()

    def _write(self, content: Any, *names: str) -> None:
        """Write a JSON file to a place in the folder."""
        target = self._path / inside(*names)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(as_json(content) + "\n", encoding="utf-8")
        partial.replace(target)

    def _write_about(self, state: str, more: dict[str, Any] | None = None) -> None:
        self._write({**asdict(self.about), "state": state, **(more or {})}, _ABOUT)


class FolderTracker(Store[FolderRun]):
    """A tracker whose runs are folders.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/<folder>/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
        MissingDependencyError: If the tracker's package is not installed.
    """

    folder: ClassVar[str]
    run: ClassVar[type[FolderRun]]
    client: ClassVar[str | None] = None
    """The module without which nothing works, of the package called like the tracker."""

    def __init__(self, project: str = "telescope", directory: str | Path = ".") -> None:
        super().__init__()
        if not _PROJECT.fullmatch(project):
            expected = "at most 128 letters, digits, '_', '-' and '.', not starting with '.'"
            raise ConfigurationError(f"project is {project!r}; expected {expected}")
        self._root = Path(directory).absolute() / self.folder / project
        try:
            if self.client is not None:
                import_module(self.client)
        except ImportError as error:
            raise missing(self.folder, self.folder) from error

    def _begin(self, about: RunDescription) -> FolderRun:
        if not _ID.fullmatch(about.id):
            expected = "1 to 64 letters, digits, '-' and '_'"
            raise TrackerError(f"the id of a run is {about.id!r}; expected {expected}")
        slug = re.sub("[^A-Za-z0-9_-]+", "-", about.name)[:_LONGEST_NAME].strip("-")
        return self.run(self._root / f"{slug or 'run'}.{about.id}", about)

    def _find(self, run_id: str) -> list[Path]:
        if not _ID.fullmatch(run_id):
            return []
        return sorted(path for path in self._root.glob(f"*.{run_id}") if path.is_dir())

    def _content(self, found: Path) -> str | None:
        about = _read(found)
        finished = about.get("state") == _FINISHED
        return str(about["config"].get(CONTENT_KEY, "")) if finished else None

    def _place(self, found: Path) -> str:
        return str(found)

    def _remove(self, found: Path) -> None:
        if not _read(found) and any(found.iterdir()):
            raise TrackerError(f"{found} is not a run's folder; move it out of the way")
        shutil.rmtree(found)


def inside(*names: str) -> PurePosixPath:
    """Join names to a path that stays where it is put.

    Returns:
        The joined path, relative.

    Raises:
        TrackerError: If one is empty, absolute or leads upwards.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\0" in name:
            message = f"the name {name!r} cannot be a file's; expected a relative path without '..'"
            raise TrackerError(message)
    return PurePosixPath(*names)


def _read(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("config"), dict) else {}
