"""Reading back the file of an offline run.

The file is a LevelDB log: after a header of 7 bytes, blocks of 32 KiB hold chunks with a checksum,
a length and a kind (whole, first, middle, last); a record's chunks, joined, are one protobuf
message.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from telescope_core.errors import TrackerError

_MAGIC = b":W&B"
_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4


def check_run_file(path: Path, rows: int) -> None:
    """Check that a run's file is whole: nothing behind a damaged chunk is read.

    Args:
        path: The file.
        rows: The rows of history it must hold.

    Raises:
        TrackerError: If it is missing or cut short, or holds another number of rows.
    """
    found = 0
    last = ""
    for record in _records(path):
        last = record.WhichOneof("record_type") or ""
        found += last == "history"
    if last != "exit":
        raise TrackerError(f"{path.name} is cut short: it ends with {last or 'nothing'!r}")
    if found != rows:
        raise TrackerError(f"{path.name} holds {found} rows of history; expected {rows}")


def _records(path: Path) -> Iterator[Any]:
    # Generated code without types.
    record_type = import_module("wandb.proto.wandb_internal_pb2").Record
    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrackerError(f"{path.name} cannot be read: {error.strerror}") from None
    if not content.startswith(_MAGIC):
        raise TrackerError(f"{path.name} is not a run's file")
    for message in _messages(content):
        record = record_type()
        try:
            record.ParseFromString(message)
        except decode_error as error:
            raise TrackerError(f"{path.name} is damaged: {error}") from None
        yield record


def _messages(content: bytes) -> Iterator[bytes]:
    position = _FILE_HEADER
    message = b""
    while position + _CHUNK.size <= len(content):
        room = _BLOCK - position % _BLOCK
        if room < _CHUNK.size:
            # Too little for a chunk's header: the block ends with zeros.
            position += room
            continue
        checksum, length, kind = _CHUNK.unpack_from(content, position)
        start = position + _CHUNK.size
        chunk = content[start : start + length]
        # Also true of what a process that died left unwritten.
        if kind == 0 or zlib.crc32(bytes([kind]) + chunk) != checksum:
            return
        position = start + length
        message = chunk if kind in (_WHOLE, _FIRST) else message + chunk
        if kind in (_WHOLE, _LAST):
            yield message
