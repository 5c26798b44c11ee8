"""Weights & Biases behind the tracker protocol.

The client records what it is given and nothing of its own accord: no console output, no code, no
git state, no system metrics, no host or user name.  Offline, everything a run needs to be sent
later lies in its own folder, ``<directory>/wandb/offline-run-<time>-<id>``; the files of artifacts
too, which the client would otherwise keep in the user's home.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from telescope_core.errors import ConfigurationError, MissingDependencyError, TrackerError
from telescope_core.trackers._environment import environment, unless_set
from telescope_core.trackers.protocol import AlertLevel, ArtifactFiles, Cell, RunDescription

if TYPE_CHECKING:
    import wandb

    from telescope_core.trackers.record import RunRecord

PAYLOAD = "payload"
"""The folder, inside a run's folder, with the files of its artifacts."""

_CONNECT_SECONDS = 8.0


def history_rows(record: RunRecord) -> int:
    """Count the rows of history that a run has at Weights & Biases: media have one of their own."""
    return len(record.history) + bool(record.pictures or record.tables)


class WandbRun:
    """A run of Weights & Biases; made by :class:`WandbTracker`.

    Attributes:
        folder: Where the client keeps the run.
    """

    def __init__(self, run: wandb.Run, step_key: str) -> None:
        self.folder = Path(run.settings.sync_dir)
        self._run = run
        self._step_key = step_key
        self._axis_defined = False
        self._media: dict[str, Any] = {}
        self._finished = False

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history; see :class:`~telescope_core.trackers.TrackedRun`."""
        with _told("a row could not be logged"):
            if not self._axis_defined:
                self._run.define_metric(self._step_key)
                self._run.define_metric("*", step_metric=self._step_key)
                self._axis_defined = True
            self._run.log({**record, self._step_key: step})

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole."""
        with _told("the summary could not be set"):
            self._run.summary.update(dict(values))

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file."""
        import wandb

        with _told(f"picture {key} could not be logged"):
            self._media[key] = wandb.Image(str(path), caption=caption or None)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table; the client keeps its first 200,000 rows."""
        import wandb

        with _told(f"table {key} could not be logged"):
            self._media[key] = wandb.Table(columns=list(columns), data=[list(row) for row in rows])

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Keep files; they are copied into the run's folder."""
        import wandb

        with _told(f"artifact {artifact.name} could not be logged"), _payload_in(self.folder):
            kept = wandb.Artifact(artifact.name, artifact.kind, metadata=dict(artifact.metadata))
            for name, path in artifact.files.items():
                kept.add_file(str(path), name=name)
            self._run.log_artifact(kept)

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention: a mail or a message, as the user's settings on the server say."""
        with _told(f"alert {title!r} could not be sent"):
            self._run.alert(title=title, text=text, level=level)

    def finish(self) -> None:
        """Complete the run and remove the client's diagnostic logs, which name local paths."""
        if self._finished:
            return
        self._finished = True
        with _told("the run could not be finished"), _payload_in(self.folder):
            if self._media:
                # One row for all of them, so that they appear together.
                self._run.log(self._media)
            self._run.finish()
            for name in ("logs", "tmp"):
                shutil.rmtree(self.folder / name, ignore_errors=True)


class WandbTracker:
    """Runs of Weights & Biases.

    Args:
        project: The project that receives the runs.
        entity: The account or team; None for the default one.
        mode: ``"offline"`` writes files and uses no network; ``"online"`` sends as it goes.
        directory: Runs are kept in ``<directory>/wandb``.

    Raises:
        ConfigurationError: If ``mode`` is something else.
        MissingDependencyError: If ``wandb`` is not installed.
    """

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        directory: str | Path = ".",
    ) -> None:
        if mode not in ("offline", "online"):
            raise ConfigurationError(f"mode is {mode!r}; expected 'offline' or 'online'")
        try:
            with _quiet_service():
                import wandb  # noqa: F401
        except ImportError as error:
            message = "the tracker 'wandb' needs the package wandb; `pip install wandb`"
            raise MissingDependencyError(message) from error
        self._project = project
        self._entity = entity
        self._mode: Literal["offline", "online"] = mode
        self._directory = Path(directory).absolute()
        self._runs: list[WandbRun] = []

    def start(self, description: RunDescription) -> WandbRun:
        """Start a run.

        Raises:
            TrackerError: If the client cannot, e.g. since no server answers online.
        """
        import wandb

        with _told(f"run {description.id} could not be started"), _quiet_service():
            run = wandb.init(
                project=self._project,
                entity=self._entity,
                id=description.id,
                name=description.name,
                group=description.group,
                job_type=description.job_type,
                tags=list(description.tags),
                config=dict(description.config),
                # Leaves a run that the user has open alone.
                reinit="create_new",
                settings=self._settings(),
            )
        started = WandbRun(run, description.step_key)
        self._runs.append(started)
        return started

    def close(self) -> None:
        """Finish every run that is still open."""
        while self._runs:
            self._runs.pop().finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _settings(self) -> wandb.Settings:
        import wandb

        self._directory.mkdir(parents=True, exist_ok=True)
        return wandb.Settings(
            mode=self._mode,
            root_dir=str(self._directory),
            use_dot_wandb=False,
            init_timeout=_CONNECT_SECONDS,
            console="off",
            silent=True,
            symlink=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            # Left out, the client would fill them in.
            host="",
            username="",
            email="",
            program="",
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn whatever the client raises into one kind of error."""
    try:
        yield
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        raise TrackerError(f"Weights & Biases: {what} ({detail})") from error


def _payload_in(folder: Path) -> AbstractContextManager[None]:
    """Make the client stage files inside a run's folder."""
    return environment(WANDB_DATA_DIR=str(folder / PAYLOAD))


def _quiet_service() -> AbstractContextManager[None]:
    """Keep offline runs off the network: error reports would be the only thing on it."""
    return environment(**unless_set(WANDB_ERROR_REPORTING="false"))
