"""Runs that are folders: ``<directory>/<tool>/<project>/<name>.<id>``.

``run.json`` in each says what the run is and whether it is complete; it is written when the run
starts and again, whole, when it ends.
"""

from __future__ import annotations

import json
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self, TypeVar

from telescope_core.errors import ConfigurationError, TrackerError
from telescope_core.trackers._plain import as_json, plain
from telescope_core.trackers._session import BaseRun, Session
from telescope_core.trackers.protocol import ArtifactFiles, RunDescription
from telescope_core.trackers.record import CONTENT_KEY

ABOUT = "run.json"
RUNNING, FINISHED, BROKEN_OFF = "running", "finished", "broken off"

_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_PROJECT = re.compile("[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LONGEST_NAME = 60


class RunFolder:
    """The folder of a run that is being written.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, about: RunDescription) -> None:
        self.path = path
        self._about = {
            "id": about.id,
            "name": about.name,
            "group": about.group,
            "job_type": about.job_type,
            "tags": list(about.tags),
            "step_key": about.step_key,
            "config": plain(about.config),
        }

    @classmethod
    def begin(cls, root: Path, about: RunDescription) -> Self:
        """Make the folder of a run; an unfinished one under the same id is removed.

        Args:
            root: The folder of the project.
            about: The run.

        Raises:
            TrackerError: If there is a finished run with this id, or something else in its place.
        """
        if not _ID.fullmatch(about.id):
            expected = "1 to 64 letters, digits, '-' and '_'"
            raise TrackerError(f"the id of a run is {about.id!r}; expected {expected}")
        for there in _folders(root, about.id):
            state = _read(there).get("state")
            if state == FINISHED:
                message = f"run {about.id} is finished and lies in {there}"
                raise TrackerError(f"{message}; choose another id, or remove the folder")
            if state is None and any(there.iterdir()):
                raise TrackerError(f"{there} is not a run's folder; move it out of the way")
            shutil.rmtree(there)
        slug = re.sub("[^A-Za-z0-9_-]+", "-", about.name)[:_LONGEST_NAME].strip("-")
        folder = cls(root / f"{slug or 'run'}.{about.id}", about)
        folder.path.mkdir(parents=True)
        folder._write(RUNNING, {})
        return folder

    def end(self, complete: bool, more: Mapping[str, Any]) -> None:
        """Say how the run ended, with more entries for ``run.json``."""
        self._write(FINISHED if complete else BROKEN_OFF, more)

    def keep(self, source: Path, *names: str) -> str:
        """Copy a file into the folder.

        Args:
            source: The file.
            *names: Where to, below the folder; may hold ``/``.

        Returns:
            Its path relative to the folder.

        Raises:
            TrackerError: If a name leads out of the folder.
        """
        place = inside(*names)
        target = self.path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return place.as_posix()

    def keep_artifact(self, artifact: ArtifactFiles) -> dict[str, Any]:
        """Copy the files of an artifact into ``artifacts/<name>/`` and describe them."""
        kept = {
            name: self.keep(path, "artifacts", artifact.name, name)
            for name, path in artifact.files.items()
        }
        return {"kind": artifact.kind, "files": kept, "metadata": plain(artifact.metadata)}

    def write(self, text: str, *names: str) -> None:
        """Write a text file into the folder."""
        target = self.path / inside(*names)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def _write(self, state: str, more: Mapping[str, Any]) -> None:
        partial = self.path / f".{ABOUT}.partial"
        partial.write_text(as_json({**self._about, "state": state, **more}) + "\n", "utf-8")
        partial.replace(self.path / ABOUT)


FolderRunT = TypeVar("FolderRunT", bound=BaseRun)


class FolderTracker(Session[FolderRunT]):
    """A tracker whose runs are folders.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/<tool>/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
    """

    folder: ClassVar[str]

    def __init__(self, project: str = "telescope", directory: str | Path = ".") -> None:
        super().__init__()
        if not _PROJECT.fullmatch(project):
            expected = "at most 128 letters, digits, '_', '-' and '.', not starting with '.'"
            raise ConfigurationError(f"project is {project!r}; expected {expected}")
        self._root = Path(directory).absolute() / self.folder / project

    @abstractmethod
    def _begin(self, folder: RunFolder, description: RunDescription) -> FolderRunT: ...

    def _start(self, description: RunDescription) -> FolderRunT:
        return self._begin(RunFolder.begin(self._root, description), description)

    def holds(self, run_id: str, content: str) -> bool:
        """Say whether a finished run with this id and content is there."""
        found = [_read(folder) for folder in _folders(self._root, run_id)]
        return any(
            about.get("state") == FINISHED and about["config"].get(CONTENT_KEY) == content
            for about in found
        )

    def place(self, run_id: str) -> str | None:
        """Return the folder of a run; None if there is none."""
        return next((str(folder) for folder in _folders(self._root, run_id)), None)


def inside(*names: str) -> PurePosixPath:
    """Join names to a path that stays where it is put.

    Raises:
        TrackerError: If one is empty, absolute or leads upwards.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\0" in name:
            message = f"the name {name!r} cannot be a file's; expected a relative path without '..'"
            raise TrackerError(message)
    return PurePosixPath(*names)


def _folders(root: Path, run_id: str) -> list[Path]:
    if not _ID.fullmatch(run_id):
        return []
    return sorted(path for path in root.glob(f"*.{run_id}") if path.is_dir())


def _read(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("config"), dict) else {}
