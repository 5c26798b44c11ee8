"""Unpacks gzip, xz, tar and zip in memory, no further than the expected size."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import IO, cast

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.entry import Packing

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
        for name, stream in _streams(io.BytesIO(packed), packing, members.keys()):
            contents[name] = stream.read(members[name] + 1)
    except _DAMAGED as error:
        raise DataError(
            f"{path} is truncated or damaged: {error}; replace it, or remove it to have it "
            "downloaded"
        ) from error
    for name, content in contents.items():
        if len(content) > members[name]:
            raise DataError(
                f"{path} unpacks to more than the expected {members[name]} bytes; it is another "
                "file"
            )
    absent = sorted(members.keys() - contents.keys())
    if absent:
        raise DataError(f"{path} does not hold {', '.join(absent)}; it is another archive")
    return contents


def _streams(
    packed: IO[bytes], packing: Packing, members: Set[str]
) -> Iterator[tuple[str, IO[bytes]]]:
    """The members with their names, in the order of the archive, which is unpacked once."""
    if packing == "tar":
        with tarfile.open(fileobj=packed, mode="r:gz") as archive:
            for item in archive:
                if item.isfile() and item.name in members:
                    yield item.name, cast("IO[bytes]", archive.extractfile(item))
    elif packing == "zip":
        with zipfile.ZipFile(packed) as bundle:
            for name in members & set(bundle.namelist()):
                with bundle.open(name) as stream:
                    yield name, stream
    elif packing == "gzip":
        with gzip.GzipFile(fileobj=packed) as plain:
            yield "", cast("IO[bytes]", plain)
    elif packing == "xz":
        with lzma.LZMAFile(packed) as content:
            yield "", content
    else:
        yield "", packed
