"""Downloads through pooch: to a temporary name, verified, then renamed."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from telescope_core.errors import DataError, MissingDependencyError

_SECONDS = 30
_CHUNK_BYTES = 1 << 16


def download(addresses: Sequence[str], target: Path, verify: Callable[[Path], None]) -> list[str]:
    """Download a file from the first address that has it.

    Args:
        addresses: Tried in order.
        target: Where the verified file goes; nothing is left there otherwise.
        verify: Called with the path of the finished download; raises DataError to refuse it.

    Returns:
        What went wrong at each address; empty if the file is there now.

    Raises:
        MissingDependencyError: pooch is not installed.
    """
    try:
        pooch = importlib.import_module("pooch")
    except ImportError as error:
        raise MissingDependencyError(
            f"downloading {addresses[0]} needs pooch: pip install pooch"
        ) from error
    fetch = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=_CHUNK_BYTES, timeout=_SECONDS
    )
    failures = []
    for address in addresses:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
                arrived = Path(folder) / target.name
                fetch(address, str(arrived), None)
                verify(arrived)
                arrived.replace(target)
        # Errors of the network are OSErrors as well, those of a full disk included.
        except (OSError, DataError) as error:
            failures.append(f"{address}: {error}")
        else:
            return []
    return failures
