"""Code of others that the page carries, unchanged and checked before it is used.

uPlot 1.6.32 by Leon Sorokin, MIT licence (``uPlot.LICENSE.txt``), from the npm package ``uplot``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from telescope_core.errors import ArtifactError

UPLOT_VERSION = "1.6.32"

_HERE = Path(__file__).resolve().parent
_SHA256 = {
    "uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def vendored(name: str) -> str:
    """Read a file of others.

    Args:
        name: ``"uPlot.iife.min.js"``, ``"uPlot.min.css"`` or ``"uPlot.LICENSE.txt"``.

    Returns:
        Its text.

    Raises:
        ArtifactError: If it is not the file that was released.
    """
    content = (_HERE / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256[name]:
        raise ArtifactError(
            f"{name} of uPlot {UPLOT_VERSION}: got SHA-256 {found}, expected {_SHA256[name]}; "
            "install the package again"
        )
    return content.decode()
