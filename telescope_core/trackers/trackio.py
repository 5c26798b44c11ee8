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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import TrackerError
from telescope_core.trackers._environment import environment
from telescope_core.trackers._plain import plain
from telescope_core.trackers._session import BaseRun, Session, missing, told
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_core.trackers.record import CONTENT_KEY

if TYPE_CHECKING:
    import trackio

_ABOUT = "telescope"
_CONTENT = "telescope/content"
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class TrackioRun(BaseRun):
    """A run of trackio; made by :class:`TrackioTracker`."""

    tool = "trackio"

    def __init__(self, run: trackio.Run, about: RunDescription) -> None:
        super().__init__(about)
        self._run = run
        self._rows = 0
        self._step = 0
        self._last: dict[str, Any] = {}

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history."""
        with self._told("a row could not be logged"), _quietly():
            self._run.log(self._numbers(record), step=step)
            self._rows += 1
            self._step = max(self._step, step)

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole: ``summary/<key>`` in the last row."""
        with self._told("the summary could not be set"):
            self._last |= {f"summary/{name}": value for name, value in values.items()}

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file."""
        with self._told(f"picture {key} could not be logged"):
            import trackio

            # Copied now, since the last row is logged later.
            picture = trackio.Image(str(path), caption=caption or None)
            picture._save(self._run.project, self._run.name, self._step)
            self._last[key] = picture

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table."""
        with self._told(f"table {key} could not be logged"):
            import trackio

            data = [list(plain(row)) for row in rows]
            self._last[key] = trackio.Table(columns=list(columns), data=data)

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Keep files as a version of an artifact."""
        with self._told(f"artifact {artifact.name} could not be kept"), _quietly():
            import trackio

            kept = trackio.Artifact(
                artifact.name, artifact.kind, metadata=dict(plain(artifact.metadata))
            )
            for name, path in artifact.files.items():
                kept.add_file(str(path), name=name)
            self._run.log_artifact(kept)

    def _end(self, complete: bool) -> None:
        from trackio import context_vars
        from trackio.sqlite_storage import SQLiteStorage

        with _quietly():
            content = {_CONTENT: str(self.about.config.get(CONTENT_KEY, ""))} if complete else {}
            if self._last or content:
                self._run.log({**self._last, **content}, step=self._step)
                self._rows += 1
            self._run.finish()
            if context_vars.current_run.get() is self._run:
                context_vars.current_run.set(None)
            run = self._run
            found = SQLiteStorage.get_log_count(run.project, run.name, run_id=run.id)
        if found != self._rows:
            message = f"run {self.about.id} has {found} rows on the disk; {self._rows} were logged"
            raise TrackerError(f"trackio: {message}; look whether the disk is full")


class TrackioTracker(Session[TrackioRun]):
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

    def holds(self, run_id: str, content: str) -> bool:
        """Say whether a finished run with this id and content is there.

        Raises:
            TrackerError: If the file cannot be read.
        """
        from trackio.sqlite_storage import SQLiteStorage

        with told(self.tool, "runs could not be looked up"):
            for name, key in self._find(run_id):
                rows = SQLiteStorage.get_logs(self._project, name, run_id=key)
                if rows and rows[-1].get(_CONTENT) == content:
                    return True
        return False

    def place(self, run_id: str) -> str | None:
        """Return the file of the project; None if the run is not in it.

        Raises:
            TrackerError: If the file cannot be read.
        """
        from trackio.sqlite_storage import SQLiteStorage

        with told(self.tool, "runs could not be looked up"):
            if not self._find(run_id):
                return None
            return str(Path(SQLiteStorage.get_project_db_path(self._project)).absolute())

    def _start(self, about: RunDescription) -> TrackioRun:
        import trackio
        from trackio import context_vars
        from trackio.sqlite_storage import SQLiteStorage

        if context_vars.current_run.get() is not None:
            message = f"run {about.id} cannot be started while another one is open"
            raise TrackerError(f"trackio: {message}; it keeps one at a time: finish that first")
        for name, key in self._find(about.id):
            rows = SQLiteStorage.get_logs(self._project, name, run_id=key)
            if rows and _CONTENT in rows[-1]:
                raise ValueError("a finished run has this id; choose another one")
            SQLiteStorage.delete_run(self._project, name, run_id=key)
        config = {
            **plain(about.config),
            _ABOUT: {
                "id": about.id,
                "job_type": about.job_type,
                "tags": list(about.tags),
                "step_key": about.step_key,
            },
        }
        with _quietly():
            run = trackio.init(
                project=self._project,
                name=_run_name(about),
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
        from trackio.sqlite_storage import SQLiteStorage

        records = SQLiteStorage.get_run_records(self._project)
        named = [(str(r["name"]), str(r["id"])) for r in records]
        return [(name, key) for name, key in named if name.rpartition(".")[2] == run_id]


def _run_name(about: RunDescription) -> str:
    # Also a folder of pictures.
    return f"{about.name.replace('/', '-')}.{about.id}"


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
