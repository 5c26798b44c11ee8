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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.trackers._plain import as_json
from telescope_core.trackers._run_folder import FolderTracker, RunFolder
from telescope_core.trackers._session import BaseRun, missing
from telescope_core.trackers.protocol import ArtifactFiles, Cell, RunDescription

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata


class TensorboardRun(BaseRun):
    """A run of TensorBoard; made by :class:`TensorboardTracker`."""

    tool = "TensorBoard"

    def __init__(self, folder: RunFolder, about: RunDescription) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        super().__init__(about)
        self._folder = folder
        self._step = 0
        self._summary: dict[str, Cell] = {}
        self._artifacts: dict[str, Any] = {}
        path = folder.path / f"events.out.tfevents.{int(time.time()):010d}.telescope"
        self._writer = RecordWriter(path.open("wb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if about.config:
            self._text("config", _fenced(about.config))

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history."""
        import numpy as np
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        with self._told("a row could not be logged"):
            self._step = max(self._step, step)
            about = create_summary_metadata(display_name=None, description=None)
            # What is too large for single precision becomes infinite.
            with np.errstate(over="ignore"):
                values = [
                    _value(name, np.float64(number).astype(np.float32), about)
                    for name, number in self._numbers(record).items()
                ]
            self._add(step, values)

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole."""
        with self._told("the summary could not be set"):
            self._summary |= values

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file, with its caption as the description."""
        import numpy as np
        from PIL import Image
        from tensorboard.plugins.image.metadata import create_summary_metadata

        with self._told(f"picture {key} could not be logged"):
            with Image.open(path) as picture:
                width, height = picture.size
            content = [str(width).encode(), str(height).encode(), path.read_bytes()]
            about = create_summary_metadata(display_name=None, description=caption or None)
            self._add(self._step, [_value(key, np.array(content, dtype=object), about)])

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table."""
        with self._told(f"table {key} could not be logged"):
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
            self._text(key, text)

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Copy files beside the events."""
        with self._told(f"artifact {artifact.name} could not be kept"):
            self._artifacts[artifact.name] = self._folder.keep_artifact(artifact)

    def _end(self, complete: bool) -> None:
        if self._summary:
            self._text("summary", _fenced(self._summary))
        self._writer.close()
        self._folder.end(complete, {"artifacts": self._artifacts})

    def _text(self, tag: str, text: str) -> None:
        import numpy as np
        from tensorboard.plugins.text.metadata import create_summary_metadata

        about = create_summary_metadata(display_name=None, description=None)
        value = _value(tag, np.array(text.encode(), dtype=object), about)
        self._add(self._step, [value])

    def _add(self, step: int, values: Sequence[Summary.Value]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


class TensorboardTracker(FolderTracker[TensorboardRun]):
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

    def __init__(self, project: str = "telescope", directory: str | Path = ".") -> None:
        super().__init__(project, directory)
        try:
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except ImportError as error:
            raise missing("tensorboard", "tensorboard") from error

    def _begin(self, folder: RunFolder, description: RunDescription) -> TensorboardRun:
        return TensorboardRun(folder, description)


def _value(tag: str, content: Any, about: SummaryMetadata) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.util.tensor_util import make_tensor_proto

    return Summary.Value(tag=tag, tensor=make_tensor_proto(content), metadata=about)


def _fenced(content: Mapping[str, Any]) -> str:
    return f"```\n{as_json(content)}\n```"


def _cell(value: Cell) -> str:
    text = "" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
