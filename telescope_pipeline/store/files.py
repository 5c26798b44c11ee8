"""Files that are either whole or not there: JSON, Parquet and safetensors.

A file is written beside its target, flushed to the disk and moved into place; a folder likewise.
A process killed at any moment leaves the old file, or none, and never half of one.  The bytes
depend on the content alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_PARTIAL = ".partial-"
_REMAKE = "delete it and run `dvc repro`, or bring it back with `dvc checkout`"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; missing parent folders are made.

    Raises:
        ArtifactError: If it cannot be written, e.g. because the disk is full.  What was there
            before is untouched.
    """
    with _said_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}{_PARTIAL}", dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented by two spaces; keys keep their order.

    Raises:
        ArtifactError: If the value holds NaN, infinity or something JSON has no word for, or if
            the file cannot be written.
    """
    try:
        content = json_bytes(value)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: the content cannot be written as JSON: {error}") from error
    write_bytes(path, content)


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """Serialize JSON; see :func:`write_json`.

    Returns:
        UTF-8 with a newline at the end.

    Raises:
        TypeError: If JSON has no word for something in the value.
        ValueError: If the value holds NaN or infinity.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        value, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False
    )
    return f"{text}\n".encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Returns:
        The parsed value.

    Raises:
        ArtifactError: If it is missing or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged, not JSON ({error}); {_REMAKE}") from None


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Returns:
        Its bytes, all at once.

    Raises:
        ArtifactError: If it is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        message = f"{path}: no such file; run the stage before this one, or `dvc checkout`"
        raise ArtifactError(message) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; the index is dropped.

    Raises:
        ArtifactError: If it cannot be written.
    """
    write_bytes(path, parquet_bytes(frame))


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Serialize a table as Parquet; the index is dropped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Without pandas' own metadata the bytes do not depend on the version of pandas.
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table.

    Returns:
        The table with the dtypes that it was written with.

    Raises:
        ArtifactError: If it is missing, truncated or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path)
    try:
        frame: pd.DataFrame = pq.read_table(io.BytesIO(content)).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: damaged, not a Parquet table ({error}); {_REMAKE}") from None
    return frame


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors of any device as safetensors, atomically.

    Args:
        path: The target.
        tensors: The tensors; views are copied.
        metadata: Text to keep in the header.

    Raises:
        ArtifactError: If it cannot be written.
    """
    write_bytes(path, tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Serialize named tensors as safetensors, in the order of their names."""
    from safetensors.torch import save

    # Tensors that share memory would be refused.
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return bytes(save(plain, metadata))


def parse_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """Parse the bytes of a safetensors file; ``path`` is for the message.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        ArtifactError: If they are truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: damaged, not safetensors ({error}); {_REMAKE}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        ArtifactError: If it is missing or unreadable.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder and put it in place when it is complete.

    Args:
        target: The folder to make or to replace as a whole.

    Yields:
        A temporary folder beside the target.  If the block fails it is removed, and the target
        stays as it was.

    Raises:
        ArtifactError: If the folder cannot be made or moved.
    """
    with _said_plainly(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        prefix = f".{target.name}{_PARTIAL}{os.getpid()}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with _said_plainly(target):
            yield folder
            folder.chmod(0o777 & ~_umask())
            _flush_folder(folder)
            if target.exists():
                old = folder.with_name(f"{folder.name}.old")
                target.rename(old)
                try:
                    folder.rename(target)
                finally:
                    if target.exists():
                        shutil.rmtree(old)
                    else:
                        old.rename(target)
            else:
                folder.rename(target)
            _flush_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _said_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path}: cannot be written: {error.strerror or error}; nothing was changed"
        raise ArtifactError(message) from error


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside ``target``."""
    from psutil import pid_exists

    for path in target.parent.glob(f".{target.name}{_PARTIAL}*"):
        process = path.name.partition(_PARTIAL)[2].partition("-")[0]
        if process.isdigit() and pid_exists(int(process)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    # Makes the rename itself survive a power cut; not every system can flush a folder.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
