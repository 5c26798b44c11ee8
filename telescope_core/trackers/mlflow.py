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
from telescope_core.trackers._client import as_json, environment, unless_set
from telescope_core.trackers._folder import inside
from telescope_core.trackers._run import BaseRun, Store, missing, told
from telescope_core.trackers.protocol import CONTENT_KEY, ArtifactFiles, Rows, RunDescription

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ID, _CONTENT = "telescope.id", "telescope.content"
# What the client sends to a server at a time, at most.
_PARAMETERS, _METRICS = 100, 1000
_LONGEST_TAG = 5000


class MlflowRun(BaseRun):
    """A run of MLflow; made by :class:`MlflowTracker`.

    Files are kept as ``pictures/<key>``, ``tables/<key>.json`` and ``artifacts/<name>/``.
    """

    tool = "MLflow"

    def __init__(self, client: MlflowClient, run_id: str, about: RunDescription) -> None:
        super().__init__(about)
        self._client = client
        self._run_id = run_id
        self._tables: list[dict[str, str]] = []
        if about.config:
            self._log_config(about.config)

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS])

    def _image(self, key: str, path: Path, caption: str) -> None:
        self._keep(path, "pictures", f"{key}{path.suffix}")
        if caption:
            self._tag(f"caption.{key}", caption)

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        # In the layout of MLflow's own tables; `log_table` would round to ten digits.
        path = self._text({"columns": columns, "data": rows}, "tables", f"{key}.json")
        self._tables.append({"path": path, "type": "table"})
        listed = as_json(self._tables, indent=None)
        self._client.set_tag(self._run_id, "mlflow.loggedArtifacts", listed)

    def _artifact(self, artifact: ArtifactFiles) -> None:
        for name, path in artifact.files.items():
            self._keep(path, "artifacts", artifact.name, name)
        about = {"kind": artifact.kind, "metadata": artifact.metadata}
        self._text(about, "artifacts", f"{artifact.name}.json")

    def _end(self, complete: bool) -> None:
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
        self._text(config, "config.json")

    def _log_summary(self) -> None:
        numbers = {
            name: float(value)
            for name, value in self._summary.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._log(0, {f"summary/{name}": value for name, value in numbers.items()})
        for name, value in self._summary.items():
            if name not in numbers:
                self._tag(f"summary.{name}", value if isinstance(value, str) else as_json(value))
        self._text(self._summary, "summary.json")

    def _tag(self, name: str, text: str) -> None:
        self._client.set_tag(self._run_id, name, text[:_LONGEST_TAG])

    def _text(self, content: Any, *names: str) -> str:
        place = inside(*names).as_posix()
        self._client.log_text(self._run_id, as_json(content), place)
        return place

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


class MlflowTracker(Store[MlflowRun]):
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

    def _around(self) -> AbstractContextManager[None]:
        return client_settings()

    def _begin(self, about: RunDescription) -> MlflowRun:
        tags = {
            _ID: about.id,
            _CONTENT: str(about.config.get(CONTENT_KEY, "")),
            "telescope.group": about.group,
            "telescope.job_type": about.job_type,
            "telescope.step_key": about.step_key,
            **({"mlflow.note.content": about.notes} if about.notes else {}),
            "telescope.tags": as_json(about.tags, indent=None),
        }
        create = self._client.create_experiment
        experiment = self._experiment() or create(self._project, self._files)
        run = self._client.create_run(experiment, tags=tags, run_name=about.name)
        return MlflowRun(self._client, run.info.run_id, about)

    def _content(self, found: Any) -> str | None:
        finished = found.info.status == "FINISHED"
        return str(found.data.tags.get(_CONTENT, "")) if finished else None

    def _place(self, found: Any) -> str:
        place = _without_user(self._uri)
        if urlsplit(self._uri).scheme not in ("http", "https"):
            return place.removeprefix("sqlite:///")
        way = f"#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
        return f"{place.rstrip('/')}/{way}"

    def _remove(self, found: Any) -> None:
        self._client.delete_run(found.info.run_id)

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
