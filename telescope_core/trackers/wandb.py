"""Weights & Biases behind the tracker protocol.

The client records what it is given and nothing of its own accord: no console output, no code, no
git state, no system metrics, no host or user name.  Offline, everything a run needs to be sent
later lies in its own folder, ``<directory>/wandb/offline-run-<time>-<id>``; the files of artifacts
too, which the client would otherwise keep in the user's home.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from telescope_core.errors import ConfigurationError
from telescope_core.trackers._client import environment, unless_set
from telescope_core.trackers._run import BaseRun, Session, missing
from telescope_core.trackers.protocol import AlertLevel, ArtifactFiles, Cell, Rows, RunDescription

if TYPE_CHECKING:
    import wandb

PAYLOAD = "payload"
"""The folder, inside a run's folder, with the files of its artifacts."""

_CONNECT_SECONDS = 8.0


class WandbRun(BaseRun):
    """A run of Weights & Biases; made by :class:`WandbTracker`.

    Pictures and tables appear together when the run ends, in a row of their own.  Of a table the
    client keeps the first 200,000 rows.
    """

    tool = "Weights & Biases"

    def __init__(self, run: wandb.Run, about: RunDescription) -> None:
        super().__init__(about)
        self._folder = Path(run.settings.sync_dir)
        self._run = run
        self._axis_defined = False
        self._media: dict[str, Any] = {}

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole, at once."""
        with self._told("the summary could not be set"):
            self._run.summary.update(dict(values))

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention: a mail or a message, as the user's settings on the server say."""
        with self._told(f"alert {title!r} could not be sent"):
            self._run.alert(title=title, text=text, level=level)

    def _log(self, step: int, numbers: dict[str, float]) -> None:
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

        with self._payload():
            kept = wandb.Artifact(artifact.name, artifact.kind, metadata=dict(artifact.metadata))
            for name, path in artifact.files.items():
                kept.add_file(str(path), name=name)
            self._run.log_artifact(kept)

    def _end(self, complete: bool) -> None:
        with self._payload():
            if self._media:
                self._run.log(self._media)
            self._run.finish(exit_code=0 if complete else 1)
            # The client's diagnostic logs name local paths.
            for name in ("logs", "tmp"):
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _payload(self) -> AbstractContextManager[None]:
        """Make the client stage files inside the run's folder."""
        return environment(WANDB_DATA_DIR=str(self._folder / PAYLOAD))


class WandbTracker(Session[WandbRun]):
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

    tool = "Weights & Biases"

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        directory: str | Path = ".",
    ) -> None:
        super().__init__()
        if mode not in ("offline", "online"):
            raise ConfigurationError(f"mode is {mode!r}; expected 'offline' or 'online'")
        try:
            with _quiet_service():
                import wandb  # noqa: F401
        except ImportError as error:
            raise missing("wandb", "wandb") from error
        self._project = project
        self._entity = entity
        self._mode: Literal["offline", "online"] = mode
        self._directory = Path(directory).absolute()

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
                config=dict(about.config),
                # Leaves a run that the user has open alone.
                reinit="create_new",
                settings=self._settings(),
            )
        return WandbRun(run, about)

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


def _quiet_service() -> AbstractContextManager[None]:
    """Keep offline runs off the network: error reports would be the only thing on it."""
    return environment(**unless_set(WANDB_ERROR_REPORTING="false"))
