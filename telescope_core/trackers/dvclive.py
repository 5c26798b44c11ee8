"""DVCLive behind the tracker protocol.

A run is a folder as DVCLive writes it, ``<directory>/dvclive/<project>/<name>.<id>``, with
``metrics.json``, ``params.yaml`` and ``plots/``, beside which ``run.json`` says what the run is.
Nothing is sent to DVC Studio, no DVC experiment is saved and no ``dvc.yaml`` is written.  DVCLive
looks for the DVC project around the working directory, and begins one if there is only git.

NaN and infinities are the texts ``nan``, ``inf`` and ``-inf``, as DVCLive writes them.  Pictures
are encoded anew, the pixels stay; tables are the data of a plot of their columns over the first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from telescope_core.errors import TrackerError
from telescope_core.trackers._client import environment, plain
from telescope_core.trackers._folder import FolderRun, FolderTracker, inside
from telescope_core.trackers.protocol import Cell, Rows, RunDescription

_FIGURES = (".png", ".jpg", ".jpeg", ".gif")


class DvcliveRun(FolderRun):
    """A run of DVCLive; made by :class:`DvcliveTracker`."""

    tool = "DVCLive"

    def __init__(self, path: Path, about: RunDescription) -> None:
        from dvclive import Live

        super().__init__(path, about)
        self._latest: dict[str, Cell] = {}
        self._listed["captions"] = {}
        with _alone():
            self._live = Live(str(path), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
        if about.config:
            self._live.log_params(plain(about.config))

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        self._live.step = step
        for name, value in numbers.items():
            place = inside(name)
            if place.name == "step":
                # It would take the place of the step in its own file.
                raise TrackerError(f"DVCLive has no room for a number called {name!r}")
            # DVCLive nests its summary by '/', and `a` beside `a/b` would break it.
            self._live.summary = {}
            self._live.log_metric(place.as_posix(), value)
        self._latest |= numbers

    def _image(self, key: str, path: Path, caption: str) -> None:
        from PIL import Image

        suffix = path.suffix.lower()
        if suffix not in _FIGURES:
            expected = ", ".join(_FIGURES)
            raise TrackerError(f"DVCLive takes no {suffix or 'nameless'} picture; {expected}")
        with Image.open(path) as picture:
            self._live.log_image(inside(f"{key}{suffix}").as_posix(), picture)
        self._listed["captions"][key] = caption

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        if len(set(columns)) < len(columns) or not columns:
            raise TrackerError(f"DVCLive needs columns with different names; got {columns}")
        points = [dict(zip(columns, plain(row), strict=True)) for row in rows]
        first, *others = columns
        self._live.log_plot(inside(key).as_posix(), points, x=first, y=others or first)

    def _finish(self) -> None:
        values = {**self._latest, **self._summary}
        self._live.summary = {name: _written(value) for name, value in values.items()}
        self._live.end()


class DvcliveTracker(FolderTracker):
    """Runs of DVCLive.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/dvclive/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
        MissingDependencyError: If ``dvclive`` is not installed.
    """

    tool = "DVCLive"
    folder = client = "dvclive"
    run = DvcliveRun


def _written(value: Cell) -> Cell:
    """Write a number that is not finite as DVCLive does."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _alone() -> AbstractContextManager[None]:
    """Keep a run apart from the DVC stage it may run in, and off the network."""
    own = ("DVC_ROOT", "DVC_EXP_BASELINE_REV", "DVC_EXP_NAME", "DVCLIVE_RESUME", "DVCLIVE_TEST")
    hidden = {name: None for name in own if name in os.environ}
    return environment(DVC_STUDIO_OFFLINE="true", **hidden)
