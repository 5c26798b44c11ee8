"""Unpacks gzip, xz, tar and zip in memory, no further than the expected size."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.registry import Packing

_DAMAGED = (
    EOFError,
    OSError,
    RuntimeError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def unpack(
    packed: bytes, packing: Packing, members: Mapping[str, int], path: Path
) -> dict[str, bytes]:
    """Unpack a file.

    Args:
        packed: Its bytes.
        packing: How it is packed.
        members: Largest expected size in bytes by name of the member; the name is ``""`` where
            there is only one content.
        path: Where it lies, for messages.

    Returns:
        The content by name of the member.

    Raises:
        DataError: The file is truncated or damaged, a member is missing, or a content is larger
            than expected.
    """
    contents = {}
    try:
        if packing == "tar":
            with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
                # In the order of the archive, so that it is decompressed once.
                for item in archive:
                    if item.isfile() and item.name in members:
                        stream = archive.extractfile(item)
                        assert stream is not None
                        contents[item.name] = _bounded(stream, members[item.name], path)
        elif packing == "zip":
            with zipfile.ZipFile(io.BytesIO(packed)) as bundle:
                for name in members.keys() & set(bundle.namelist()):
                    with bundle.open(name) as stream:
                        contents[name] = _bounded(stream, members[name], path)
        else:
            (name,) = members
            with _stream(packed, packing) as plain:
                contents[name] = _bounded(plain, members[name], path)
    except _DAMAGED as error:
        raise DataError(
            f"{path} is truncated or damaged: {error}; replace it, or remove it to have it "
            "downloaded"
        ) from error
    absent = sorted(members.keys() - contents.keys())
    if absent:
        raise DataError(f"{path} does not hold {', '.join(absent)}; it is another archive")
    return contents


def _stream(packed: bytes, packing: Packing) -> BufferedIOBase:
    if packing == "gzip":
        return gzip.GzipFile(fileobj=io.BytesIO(packed))
    if packing == "xz":
        return lzma.LZMAFile(io.BytesIO(packed))
    return io.BytesIO(packed)


def _bounded(stream: BufferedIOBase | IO[bytes], size: int, path: Path) -> bytes:
    data = stream.read(size + 1)
    if len(data) > size:
        raise DataError(
            f"{path} unpacks to more than the expected {size} bytes; it is another file"
        )
    return data
