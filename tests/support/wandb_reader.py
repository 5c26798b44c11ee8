"""A reader of offline run files, made for the tests alone.

It shares nothing with the code under test but the message format of the client.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK_BYTES = 2**15
_HEADER_BYTES = 7


@dataclass
class ReadRun:
    """What an offline run file says.

    Attributes:
        about: The message that starts the run.
        config: Its settings, without the client's own.
        history: Rows as logged, without the client's own columns.
        summary: The last value set for every key, without the client's own.
        metrics: Step axis by pattern, as declared.
        artifacts: Messages of the artifacts.
        alerts: Titles of the calls for attention.
        ended: Whether the last message says that the run is finished.
    """

    about: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    ended: bool = False


def read_run(folder: Path) -> ReadRun:
    """Read the one run file in a folder."""
    (path,) = folder.glob("*.wandb")
    run = ReadRun()
    for message in _split(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(message)
        kind = record.WhichOneof("record_type")
        run.ended = kind == "exit"
        if kind == "run":
            run.about = record.run
            for item in record.run.config.update:
                _set(run.config, item)
        elif kind == "config":
            for item in record.config.update:
                _set(run.config, item)
        elif kind == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                _set(row, item)
            run.history.append(_without_own(row))
        elif kind == "summary":
            for item in record.summary.update:
                _set(run.summary, item)
        elif kind == "metric":
            metric = record.metric
            run.metrics[metric.name or metric.glob_name] = metric.step_metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "alert":
            run.alerts.append(record.alert.title)
    run.config = _without_own(run.config)
    run.summary = _without_own(run.summary)
    return run


def _split(content: bytes) -> list[bytes]:
    assert content[:4] == b":W&B"
    messages: list[bytes] = []
    parts: list[bytes] = []
    for start in range(0, len(content), _BLOCK_BYTES):
        block = memoryview(content)[start : start + _BLOCK_BYTES]
        at = _HEADER_BYTES if start == 0 else 0
        while len(block) - at >= 7:
            checksum, size, kind = struct.unpack("<IHB", block[at : at + 7])
            if kind == 0:
                break
            body = bytes(block[at + 7 : at + 7 + size])
            assert zlib.crc32(bytes([kind]) + body) == checksum
            parts.append(body)
            if kind in (1, 4):
                messages.append(b"".join(parts))
                parts.clear()
            at += 7 + size
    assert not parts
    return messages


def _set(target: dict[str, Any], item: Any) -> None:
    keys = list(item.nested_key) or [item.key]
    for key in keys[:-1]:
        target = target.setdefault(key, {})
    target[keys[-1]] = json.loads(item.value_json)


def _without_own(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("_")}
