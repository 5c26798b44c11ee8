"""DVCLive behind the tracker protocol.

A run is a folder as DVCLive writes it, ``<directory>/dvclive/<project>/<name>.<id>``, with
``metrics.json``, ``params.yaml`` and ``plots/``, beside which ``run.json`` says what the run is.
Nothing is sent to DVC Studio, no DVC experiment is saved and no ``dvc.yaml`` is written.  DVCLive
looks for the DVC project around the working directory, and begins one if there is only git.

NaN and infinities are the texts ``nan``, ``inf`` and ``-inf``, as DVCLive writes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import TrackerError
from telescope_core.trackers._environment import environment
from telescope_core.trackers._plain import plain
from telescope_core.trackers._run_folder import FolderTracker, RunFolder, inside
from telescope_core.trackers._session import BaseRun, missing
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription

if TYPE_CHECKING:
    from dvclive import Live

_FIGURES = (".png", ".jpg", ".jpeg", ".gif")


class DvcliveRun(BaseRun):
    """A run of DVCLive; made by :class:`DvcliveTracker`."""

    tool = "DVCLive"

    def __init__(self, live: Live, folder: RunFolder, about: RunDescription) -> None:
        super().__init__(about)
        self._live = live
        self._folder = folder
        self._latest: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._captions: dict[str, str] = {}
        self._artifacts: dict[str, Any] = {}
        if about.config:
            live.log_params(plain(about.config))

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history: a line in the file of every number."""
        with self._told("a row could not be logged"):
            self._live.step = step
            for name, value in self._numbers(record).items():
                place = inside(name)
                if place.name == "step":
                    # It would take the place of the step in its own file.
                    raise TrackerError(f"DVCLive has no room for a number called {name!r}")
                # DVCLive nests its summary by '/', and `a` beside `a/b` would break it.
                self._live.summary = {}
                self._live.log_metric(place.as_posix(), value)
                self._latest[name] = plain_text(value)

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole, in ``metrics.json``."""
        with self._told("the summary could not be set"):
            self._summary |= {name: plain_text(value) for name, value in values.items()}

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file; DVCLive encodes it anew, the pixels stay."""
        from PIL import Image

        with self._told(f"picture {key} could not be logged"):
            suffix = path.suffix.lower()
            if suffix not in _FIGURES:
                expected = ", ".join(_FIGURES)
                raise TrackerError(f"DVCLive takes no {suffix or 'nameless'} picture; {expected}")
            name = inside(f"{key}{suffix}").as_posix()
            with Image.open(path) as picture:
                self._live.log_image(name, picture)
            self._captions[key] = caption

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table, as the data points of a plot of its columns over the first one."""
        with self._told(f"table {key} could not be logged"):
            if len(set(columns)) < len(columns) or not columns:
                raise TrackerError(f"DVCLive needs columns with different names; got {columns}")
            points = [dict(zip(columns, plain(row), strict=True)) for row in rows]
            first, *others = columns
            name = inside(key).as_posix()
            self._live.log_plot(name, points, x=first, y=others or first)

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Copy files into the folder that DVCLive has for artifacts."""
        with self._told(f"artifact {artifact.name} could not be kept"):
            self._artifacts[artifact.name] = self._folder.keep_artifact(artifact)

    def _end(self, complete: bool) -> None:
        self._live.summary = {**self._latest, **self._summary}
        self._live.end()
        more = {"captions": self._captions, "artifacts": self._artifacts}
        self._folder.end(complete, more)


class DvcliveTracker(FolderTracker[DvcliveRun]):
    """Runs of DVCLive.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/dvclive/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
        MissingDependencyError: If ``dvclive`` is not installed.
    """

    tool = "DVCLive"
    folder = "dvclive"

    def __init__(self, project: str = "telescope", directory: str | Path = ".") -> None:
        super().__init__(project, directory)
        try:
            import dvclive  # noqa: F401
        except ImportError as error:
            raise missing("dvclive", "dvclive") from error

    def _begin(self, folder: RunFolder, description: RunDescription) -> DvcliveRun:
        from dvclive import Live

        with _alone():
            live = Live(str(folder.path), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
        return DvcliveRun(live, folder, description)


def plain_text(value: Cell) -> Cell:
    """Write a number that is not finite as DVCLive does."""
    return str(value) if isinstance(plain(value), str) else value


def _alone() -> AbstractContextManager[None]:
    """Keep a run apart from the DVC stage it may run in, and off the network."""
    own = ("DVC_ROOT", "DVC_EXP_BASELINE_REV", "DVC_EXP_NAME", "DVCLIVE_RESUME", "DVCLIVE_TEST")
    hidden = {name: None for name in own if name in os.environ}
    return environment(DVC_STUDIO_OFFLINE="true", **hidden)
