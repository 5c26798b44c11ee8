"""MLflow behind the tracker protocol.

``mlflow-skinny`` with SQLAlchemy is enough: without a server, runs are kept in
``<directory>/mlflow/mlflow.db`` and their files in ``<directory>/mlflow/artifacts``.

MLflow numbers its runs itself, so the id of ours is the tag ``telescope.id``.  The config is there
twice, as flat parameters and, with types and nesting, as ``config.json``; so is the summary, its
numbers as metrics ``summary/<key>``, the rest as tags, all of it as ``summary.json``.  MLflow's
database keeps NaN but stores infinities as the largest double of their sign.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from telescope_core.errors import ConfigurationError
from telescope_core.trackers._environment import environment, unless_set
from telescope_core.trackers._plain import as_json, plain
from telescope_core.trackers._run_folder import inside
from telescope_core.trackers._session import BaseRun, Session, missing, told
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription
from telescope_core.trackers.record import CONTENT_KEY

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ID, _CONTENT = "telescope.id", "telescope.content"
# What the client sends to a server at a time, at most.
_PARAMETERS, _METRICS = 100, 1000
_LONGEST_TAG = 5000


class MlflowRun(BaseRun):
    """A run of MLflow; made by :class:`MlflowTracker`."""

    tool = "MLflow"

    def __init__(self, client: MlflowClient, run_id: str, about: RunDescription) -> None:
        super().__init__(about)
        self._client = client
        self._run_id = run_id
        self._summary: dict[str, Cell] = {}
        self._tables: list[dict[str, str]] = []
        if about.config:
            self._log_config(about.config)

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history."""
        with self._told("a row could not be logged"):
            self._log_metrics(step, self._numbers(record))

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole."""
        with self._told("the summary could not be set"):
            self._summary |= values

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Keep a picture file as ``pictures/<key>``, its caption as a tag."""
        with self._told(f"picture {key} could not be logged"):
            self._keep(path, "pictures", f"{key}{path.suffix}")
            if caption:
                self._client.set_tag(self._run_id, f"caption.{key}", caption[:_LONGEST_TAG])

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Keep a table as ``tables/<key>.json``, in the layout of MLflow's own tables."""
        with self._told(f"table {key} could not be logged"):
            # `log_table` would round to ten digits.
            content = {"columns": list(columns), "data": [list(row) for row in rows]}
            path = inside("tables", f"{key}.json").as_posix()
            self._client.log_text(self._run_id, as_json(content), path)
            self._tables.append({"path": path, "type": "table"})
            self._client.set_tag(
                self._run_id, "mlflow.loggedArtifacts", as_json(self._tables, indent=None)
            )

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Keep files below ``artifacts/<name>``."""
        with self._told(f"artifact {artifact.name} could not be kept"):
            for name, path in artifact.files.items():
                self._keep(path, "artifacts", artifact.name, name)
            about = {"kind": artifact.kind, "metadata": plain(artifact.metadata)}
            place = inside("artifacts", f"{artifact.name}.json").as_posix()
            self._client.log_text(self._run_id, as_json(about), place)

    def _end(self, complete: bool) -> None:
        with client_settings():
            if self._summary:
                self._log_summary()
            self._client.set_terminated(self._run_id, "FINISHED" if complete else "KILLED")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        with super()._told(what), client_settings():
            yield

    def _log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, value) for name, value in _flat("", config)]
        for start in range(0, len(parameters), _PARAMETERS):
            some = parameters[start : start + _PARAMETERS]
            self._client.log_batch(self._run_id, params=some)
        self._client.log_text(self._run_id, as_json(config), "config.json")

    def _log_summary(self) -> None:
        numbers = {
            f"summary/{name}": float(value)
            for name, value in self._summary.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._log_metrics(0, numbers)
        for name, value in self._summary.items():
            if f"summary/{name}" not in numbers:
                text = value if isinstance(value, str) else as_json(value)
                self._client.set_tag(self._run_id, f"summary.{name}", text[:_LONGEST_TAG])
        self._client.log_text(self._run_id, as_json(self._summary), "summary.json")

    def _log_metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS])

    def _keep(self, source: Path, *names: str) -> None:
        place = inside(*names)
        folder = place.parent.as_posix()
        if source.name == place.name:
            self._client.log_artifact(self._run_id, str(source), folder)
            return
        # A file keeps its name at MLflow.
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / place.name
            shutil.copyfile(source, copy)
            self._client.log_artifact(self._run_id, str(copy), folder)


class MlflowTracker(Session[MlflowRun]):
    """Runs of MLflow.

    Args:
        project: The experiment that receives the runs.
        uri: Where runs are kept, as MLflow writes it.  None for ``MLFLOW_TRACKING_URI``, and
            without it for a database below ``directory``.  A user name and a password belong into
            the environment, ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``.
        directory: Of runs without a server; they are kept in ``<directory>/mlflow``.
        mode: ``"offline"`` leaves servers alone, also the one in the environment.

    Raises:
        ConfigurationError: If a server is named offline, or ``mode`` is something else.
        MissingDependencyError: If ``mlflow`` or ``sqlalchemy`` is not installed.
        TrackerError: If the store cannot be opened.
    """

    tool = "MLflow"

    def __init__(
        self,
        project: str = "telescope",
        uri: str | None = None,
        directory: str | Path = ".",
        mode: Literal["auto", "online", "offline"] = "auto",
    ) -> None:
        super().__init__()
        if mode not in ("auto", "online", "offline"):
            expected = "'auto', 'online' or 'offline'"
            raise ConfigurationError(f"mode is {mode!r}; expected {expected}")
        if mode == "offline" and uri is not None and _is_remote(uri):
            message = f"mode is 'offline' and uri names the server {_without_user(uri)}"
            raise ConfigurationError(f"{message}; expected a sqlite:/// uri, or another mode")
        try:
            with client_settings():
                import sqlalchemy  # noqa: F401
                from mlflow import MlflowClient
                from mlflow.environment_variables import MLFLOW_TRACKING_URI
        except ImportError as error:
            raise missing("mlflow", error.name or "mlflow-skinny") from error
        if uri is None:
            uri = MLFLOW_TRACKING_URI.get() or None
            if uri is not None and mode == "offline" and _is_remote(uri):
                uri = None
        root = Path(directory).absolute() / "mlflow"
        self._files: str | None = None
        if uri is None:
            uri = f"sqlite:///{root / 'mlflow.db'}"
            self._files = (root / "artifacts").as_uri()
        self._uri = uri
        self._project = project
        with told(self.tool, f"{_without_user(uri)} could not be opened"), client_settings():
            if self._files is not None:
                root.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(uri, uri)

    def holds(self, run_id: str, content: str) -> bool:
        """Say whether a finished run with this id and content is there.

        Raises:
            TrackerError: If MLflow cannot be asked.
        """
        with told(self.tool, "runs could not be looked up"), client_settings():
            return any(
                run.info.status == "FINISHED" and run.data.tags.get(_CONTENT) == content
                for run in self._find(run_id)
            )

    def place(self, run_id: str) -> str | None:
        """Return the address of a run at a server, or else the database.

        Raises:
            TrackerError: If MLflow cannot be asked.
        """
        with told(self.tool, "runs could not be looked up"), client_settings():
            for run in self._find(run_id):
                if urlsplit(self._uri).scheme not in ("http", "https"):
                    return _without_user(self._uri).removeprefix("sqlite:///")
                way = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
                return f"{_without_user(self._uri).rstrip('/')}/{way}"
        return None

    def _start(self, about: RunDescription) -> MlflowRun:
        with client_settings():
            for run in self._find(about.id):
                if run.info.status == "FINISHED":
                    raise ValueError("a finished run has this id; choose another one")
                self._client.delete_run(run.info.run_id)
            tags = {
                _ID: about.id,
                _CONTENT: str(about.config.get(CONTENT_KEY, "")),
                "telescope.group": about.group,
                "telescope.job_type": about.job_type,
                "telescope.step_key": about.step_key,
                "telescope.tags": as_json(about.tags, indent=None),
            }
            experiment = self._experiment() or self._client.create_experiment(
                self._project, self._files
            )
            run = self._client.create_run(experiment, tags=tags, run_name=about.name)
            return MlflowRun(self._client, run.info.run_id, about)

    def _experiment(self) -> str | None:
        there = self._client.get_experiment_by_name(self._project)
        return None if there is None else str(there.experiment_id)

    def _find(self, run_id: str) -> list[Any]:
        experiment = self._experiment()
        if experiment is None:
            return []
        quoted = run_id.replace("'", "")
        return list(self._client.search_runs([experiment], f"tags.`{_ID}` = '{quoted}'"))


def client_settings() -> AbstractContextManager[None]:
    """Keep the client from reporting to its makers, and from waiting long for a server."""
    return environment(
        MLFLOW_DISABLE_TELEMETRY="true",
        **unless_set(
            MLFLOW_HTTP_REQUEST_TIMEOUT="8",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
            MLFLOW_LOGGING_LEVEL="WARNING",
        ),
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value if isinstance(value, str) else as_json(value, indent=None)


def _is_remote(uri: str) -> bool:
    return urlsplit(uri).scheme not in ("", "file", "sqlite")


def _without_user(uri: str) -> str:
    return re.sub("//[^/@]*@", "//", uri)
