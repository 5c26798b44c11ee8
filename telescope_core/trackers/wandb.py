"""Weights & Biases behind the tracker protocol.

The client records what it is given and nothing of its own accord: no console output, no code, no
git state, no system metrics, no host or user name.  Offline, everything a run needs to be sent
later lies in its own folder, ``<directory>/wandb/offline-run-<time>-<id>``; the files of artifacts
too, which the client would otherwise keep in the user's home.  A run that the server holds already
can be gone on with.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from telescope_core.errors import ConfigurationError
from telescope_core.trackers._client import environment, unless_set
from telescope_core.trackers._folder import inside
from telescope_core.trackers._run import BaseRun, Session, missing
from telescope_core.trackers.protocol import AlertLevel, ArtifactFiles, Cell, Rows, RunDescription

if TYPE_CHECKING:
    import wandb

PAYLOAD = "payload"
"""The folder, inside a run's folder, with the files of its artifacts: ``<artifact>/<file>``."""

_CONNECT_SECONDS = 8.0
# From one sending of new rows to the next.
_STREAM_SECONDS = 5.0


class WandbRun(BaseRun):
    """A run of Weights & Biases; made by :class:`WandbTracker`.

    Pictures, tables and charts appear together when the run ends, in a row of their own.  Of a
    table the client keeps the first 200,000 rows.

    Attributes:
        entity: The account or team that the run belongs to, as far as it is known.
    """

    tool = "Weights & Biases"

    def __init__(self, run: wandb.Run, about: RunDescription) -> None:
        super().__init__(about)
        self.entity = str(run.entity or "")
        self._folder = Path(run.settings.sync_dir)
        self._run = run
        self._axis_defined = False
        self._media: dict[str, Any] = {}
        self._steps = _steps_of(run, about.step_key) if run.resumed else set()

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole, at once."""
        with self._told("the summary could not be set"):
            self._run.summary.update(dict(values))

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention: a mail or a message, as the user's settings on the server say."""
        with self._told(f"alert {title!r} could not be sent"):
            self._run.alert(title=title, text=text, level=level)

    def chart(self, key: str, preset: str, columns: Sequence[str], rows: Rows) -> None:
        """Show a chart of a table, drawn as a preset of the server says.

        Args:
            key: Its name; its table is ``<key>_table``.
            preset: ``<entity>/<name>`` of the preset, whose fields are called like the columns.
            columns: The names of the columns.
            rows: The rows of the table.

        Raises:
            TrackerError: If the client does not take it.
        """
        with self._told(f"chart {key} could not be kept"):
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            fields = {name: name for name in columns}
            self._media[key] = wandb.plot_table(preset, table, fields)

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        if step in self._steps:
            return
        if not self._axis_defined:
            self._run.define_metric(self.about.step_key)
            self._run.define_metric("*", step_metric=self.about.step_key)
            self._axis_defined = True
        self._run.log({**numbers, self.about.step_key: step})

    def _image(self, key: str, path: Path, caption: str) -> None:
        import wandb

        self._media[key] = wandb.Image(str(path), caption=caption or None)

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        import wandb

        self._media[key] = wandb.Table(columns=list(columns), data=[list(row) for row in rows])

    def _artifact(self, artifact: ArtifactFiles) -> None:
        import wandb

        with self._payload() as payload:
            kept = wandb.Artifact(artifact.name, artifact.kind, metadata=dict(artifact.metadata))
            for name, path in artifact.files.items():
                copy = payload / inside(artifact.name, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                kept.add_file(str(copy), name=name, policy="immutable")
            self._run.log_artifact(kept)

    def _end(self, complete: bool) -> None:
        with self._payload():
            if self._media:
                self._run.log(self._media)
            self._run.finish(exit_code=0 if complete else 1)
            # The client's diagnostic logs name local paths.
            for name in ("logs", "tmp"):
                shutil.rmtree(self._folder / name, ignore_errors=True)

    @contextmanager
    def _payload(self) -> Iterator[Path]:
        """Make the client keep its own files inside the run's folder too."""
        payload = self._folder / PAYLOAD
        with environment(WANDB_DATA_DIR=str(payload)):
            yield payload


class WandbTracker(Session[WandbRun]):
    """Runs of Weights & Biases.

    Args:
        project: The project that receives the runs.
        entity: The account or team; None for the default one.
        mode: ``"offline"`` writes files and uses no network; ``"online"`` sends as it goes.
        directory: Runs are kept in ``<directory>/wandb``.
        resume: Whether a run that the server holds under the same id is gone on with, online: what
            is logged is added, but for rows at steps that it has.

    Raises:
        ConfigurationError: If ``mode`` is something else, or a run is to be resumed offline.
        MissingDependencyError: If ``wandb`` is not installed.
    """

    tool = "Weights & Biases"

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        directory: str | Path = ".",
        resume: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("offline", "online"):
            raise ConfigurationError(f"mode is {mode!r}; expected 'offline' or 'online'")
        if resume and mode == "offline":
            raise ConfigurationError("resume is True; expected False offline, where no run is held")
        try:
            with _quiet_service():
                import wandb  # noqa: F401
        except ImportError as error:
            raise missing("wandb", "wandb") from error
        self._project = project
        self._entity = entity
        self._mode: Literal["offline", "online"] = mode
        self._directory = Path(directory).absolute()
        self._resume: Literal["allow"] | None = "allow" if resume else None

    def _start(self, about: RunDescription) -> WandbRun:
        import wandb

        with _quiet_service():
            run = wandb.init(
                project=self._project,
                entity=self._entity,
                id=about.id,
                name=about.name,
                group=about.group,
                job_type=about.job_type,
                tags=list(about.tags),
                notes=about.notes or None,
                config=dict(about.config),
                resume=self._resume,
                # Leaves a run that the user has open alone.
                reinit="create_new",
                settings=self.settings(),
            )
        return WandbRun(run, about)

    def settings(self) -> wandb.Settings:
        """The client's settings for a run, with which it records what it is given and no more."""
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
            x_file_stream_transmit_interval=_STREAM_SECONDS,
            # Left out, the client would fill them in.
            host="",
            username="",
            email="",
            program="",
        )


def _steps_of(run: wandb.Run, axis: str) -> set[int]:
    """The steps of the rows that the server holds."""
    import wandb

    held = wandb.Api().run(f"{run.entity}/{run.project}/{run.id}").scan_history(use_cache=False)
    return {int(row[axis]) for row in held if row.get(axis) is not None}


def _quiet_service() -> AbstractContextManager[None]:
    """Keep offline runs off the network: error reports would be the only thing on it."""
    return environment(**unless_set(WANDB_ERROR_REPORTING="false", WANDB_SILENT="true"))
