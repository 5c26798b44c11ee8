"""trackio behind the tracker protocol, on the local disk only.

Runs are kept in trackio's SQLite files: below ``directory``, or where ``TRACKIO_DIR`` or trackio's
default says.  No server is started and nothing is uploaded, whatever the environment asks for, and
no user name is recorded.  The client reports a lost row by a warning at most, so a run is read
back when it is finished, and the last row, with summary, pictures and tables, carries its content.

The client keeps one run open at a time, and reads its folder once in the life of a process.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import TrackerError
from telescope_core.trackers._client import environment, plain
from telescope_core.trackers._run import BaseRun, Store, missing
from telescope_core.trackers.protocol import CONTENT_KEY, ArtifactFiles, Rows, RunDescription

if TYPE_CHECKING:
    import trackio

_ABOUT = "telescope"
_CONTENT = "telescope/content"
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class TrackioRun(BaseRun):
    """A run of trackio; made by :class:`TrackioTracker`.

    The last row holds the summary as ``summary/<key>``, pictures and tables.
    """

    tool = "trackio"

    def __init__(self, run: trackio.Run, about: RunDescription) -> None:
        super().__init__(about)
        self._run = run
        self._rows = 0
        self._step = 0
        self._last: dict[str, Any] = {}

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        with _quietly():
            self._run.log(numbers, step=step)
        self._rows += 1
        self._step = max(self._step, step)

    def _image(self, key: str, path: Path, caption: str) -> None:
        import trackio

        # Copied now, since the last row is logged later.
        picture = trackio.Image(str(path), caption=caption or None)
        picture._save(self._run.project, self._run.name, self._step)
        self._last[key] = picture

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        import trackio

        self._last[key] = trackio.Table(columns=list(columns), data=plain(rows))

    def _artifact(self, artifact: ArtifactFiles) -> None:
        with _quietly():
            import trackio

            metadata = plain(artifact.metadata)
            kept = trackio.Artifact(artifact.name, artifact.kind, metadata=metadata)
            for name, path in artifact.files.items():
                kept.add_file(str(path), name=name)
            self._run.log_artifact(kept)

    def _end(self, complete: bool) -> None:
        from trackio import context_vars

        with _quietly():
            content = {_CONTENT: str(self.about.config.get(CONTENT_KEY, ""))} if complete else {}
            last = {f"summary/{name}": value for name, value in self._summary.items()}
            last |= self._last | content
            if last:
                self._run.log(last, step=self._step)
                self._rows += 1
            self._run.finish()
            if context_vars.current_run.get() is self._run:
                context_vars.current_run.set(None)
            run = self._run
            found = _storage().get_log_count(run.project, run.name, run_id=run.id)
        if found != self._rows:
            message = f"run {self.about.id} has {found} rows on the disk; {self._rows} were logged"
            raise TrackerError(f"trackio: {message}; look whether the disk is full")


class TrackioTracker(Store[TrackioRun]):
    """Runs of trackio.

    Args:
        project: The project that receives the runs.
        directory: Runs are kept in ``<directory>/trackio``; None for where trackio keeps them.

    Raises:
        MissingDependencyError: If ``trackio`` is not installed.
        TrackerError: If trackio already keeps its runs in another folder in this process.
    """

    tool = "trackio"

    def __init__(self, project: str = "telescope", directory: str | Path | None = None) -> None:
        super().__init__()
        wanted = None if directory is None else Path(directory).absolute() / "trackio"
        if wanted is not None and "trackio" not in sys.modules:
            # The client and what it starts must agree, so it stays set.
            os.environ["TRACKIO_DIR"] = str(wanted)
        try:
            from trackio.utils import TRACKIO_DIR
        except ImportError as error:
            raise missing("trackio", "trackio") from error
        self._root = Path(TRACKIO_DIR).absolute()
        if wanted is not None and wanted != self._root:
            message = f"trackio keeps its runs in {self._root} in this process, not in {wanted}"
            raise TrackerError(f"{message}; use another process, or leave out `directory`")
        self._project = project

    def _begin(self, about: RunDescription) -> TrackioRun:
        import trackio
        from trackio import context_vars

        if context_vars.current_run.get() is not None:
            message = f"run {about.id} cannot be started while another one is open"
            raise TrackerError(f"trackio: {message}; it keeps one at a time: finish that first")
        ours = {name: getattr(about, name) for name in ("id", "job_type", "tags", "step_key")}
        config = plain({**about.config, _ABOUT: ours})
        with _quietly():
            run = trackio.init(
                project=self._project,
                # Also the name of a folder of pictures.
                name=f"{about.name.replace('/', '-')}.{about.id}",
                group=about.group or None,
                config=config,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            run.config["_Username"] = None
        return TrackioRun(run, about)

    def _find(self, run_id: str) -> list[tuple[str, str]]:
        """Names and trackio's own ids of the runs with our id."""
        records = _storage().get_run_records(self._project)
        named = [(str(r["name"]), str(r["id"])) for r in records]
        return [(name, key) for name, key in named if name.rpartition(".")[2] == run_id]

    def _content(self, found: tuple[str, str]) -> str | None:
        rows = _storage().get_logs(self._project, found[0], run_id=found[1])
        return str(rows[-1][_CONTENT]) if rows and _CONTENT in rows[-1] else None

    def _place(self, found: tuple[str, str]) -> str:
        return str(Path(_storage().get_project_db_path(self._project)).absolute())

    def _remove(self, found: tuple[str, str]) -> None:
        _storage().delete_run(self._project, found[0], run_id=found[1])


def _storage() -> Any:
    return import_module("trackio.sqlite_storage").SQLiteStorage


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the client on this machine, off the terminal, and from losing anything silently."""
    from huggingface_hub import constants

    local: dict[str, str | None] = {name: None for name in _REMOTE if name in os.environ}
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with environment(**local), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with redirect_stdout(io.StringIO()):
                yield
    finally:
        # Else it would ask the hub who the user is.
        constants.HF_HUB_OFFLINE = before
    lost = [str(w.message) for w in caught if "trackio" in str(w.message)]
    if lost:
        raise TrackerError(f"trackio: {lost[0]}")
