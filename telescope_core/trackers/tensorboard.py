"""TensorBoard behind the tracker protocol.

A run is the folder ``<directory>/tensorboard/<project>/<name>.<id>`` with one event file.  Numbers
of the history are stored in single precision, since TensorBoard's fast loader, its default, leaves
out all others; config, summary and tables are texts with every digit, the first two as JSON.
TensorBoard has no artifacts: their files are copied into ``artifacts/`` beside the events.  The
file is written through TensorBoard's own record writer and not its event writer, which puts the
name of the host into the name of the file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from telescope_core.trackers._client import as_json
from telescope_core.trackers._folder import FolderRun, FolderTracker
from telescope_core.trackers.protocol import Cell, Rows, RunDescription


class TensorboardRun(FolderRun):
    """A run of TensorBoard; made by :class:`TensorboardTracker`."""

    tool = "TensorBoard"

    def __init__(self, path: Path, about: RunDescription) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        super().__init__(path, about)
        self._step = 0
        name = f"events.out.tfevents.{int(time.time()):010d}.telescope"
        self._writer = RecordWriter((path / name).open("wb"))
        self._write_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if about.config:
            self._text("config", _fenced(about.config))

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        import numpy as np

        self._step = max(self._step, step)
        # What is too large for single precision becomes infinite.
        with np.errstate(over="ignore"):
            singles = {name: np.float64(x).astype(np.float32) for name, x in numbers.items()}
        self._add("scalar", step, singles)

    def _image(self, key: str, path: Path, caption: str) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            width, height = picture.size
        content = [str(width).encode(), str(height).encode(), path.read_bytes()]
        self._add("image", self._step, {key: np.array(content, dtype=object)}, caption)

    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self._text(key, "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))

    def _finish(self) -> None:
        if self._summary:
            self._text("summary", _fenced(self._summary))
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        import numpy as np

        self._add("text", self._step, {tag: np.array(text.encode(), dtype=object)})

    def _add(
        self, plugin: str, step: int, values: Mapping[str, Any], description: str = ""
    ) -> None:
        """Write values by tag for one of TensorBoard's plug-ins."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.util.tensor_util import make_tensor_proto

        plugin_metadata = import_module(f"tensorboard.plugins.{plugin}.metadata")
        about = plugin_metadata.create_summary_metadata(None, description or None)
        written = [
            Summary.Value(tag=tag, tensor=make_tensor_proto(content), metadata=about)
            for tag, content in values.items()
        ]
        self._write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=written)))

    def _write_event(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


class TensorboardTracker(FolderTracker):
    """Runs of TensorBoard.

    Args:
        project: The folder of the runs.
        directory: Runs are kept in ``<directory>/tensorboard/<project>``.

    Raises:
        ConfigurationError: If the project cannot name a folder.
        MissingDependencyError: If ``tensorboard`` is not installed.
    """

    tool = "TensorBoard"
    folder = "tensorboard"
    run = TensorboardRun
    client = "tensorboard.summary.writer.record_writer"


def _fenced(content: Mapping[str, Any]) -> str:
    return f"```\n{as_json(content)}\n```"


def _cell(value: Cell) -> str:
    text = "" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
