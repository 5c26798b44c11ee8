"""Which code decides what a member of a sweep becomes, and the digest of it.

A trained member is reused only while the code that trained it is the same.  The train stage of
``dvc.yaml`` names the same folders, and besides them what plans members and hands them on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from telescope_core.errors import ConfigurationError

SHARED = (
    "telescope_core/__init__.py",
    "telescope_core/arguments.py",
    "telescope_core/boosting",
    "telescope_core/checkpoints",
    "telescope_core/closed_forms.py",
    "telescope_core/complexity.py",
    "telescope_core/connectivity.py",
    "telescope_core/errors.py",
    "telescope_core/jacobians",
    "telescope_core/kernels.py",
    "telescope_core/lens",
    "telescope_core/losses",
    "telescope_core/memory.py",
    "telescope_core/network",
    "telescope_core/probes.py",
    "telescope_core/seeds.py",
    "telescope_core/smoother",
    "telescope_core/snapshot.py",
    "telescope_core/update_rules",
    "telescope_pipeline/contract.py",
    "telescope_pipeline/schemas/messages.py",
    "telescope_pipeline/schemas/secrets.py",
    "telescope_pipeline/schemas/sections.py",
    "telescope_pipeline/schemas/sources.py",
    "telescope_pipeline/study/datasets/stream.py",
    "telescope_pipeline/study/networks",
    "telescope_pipeline/study/sweep.py",
    "telescope_pipeline/study/training",
    "telescope_pipeline/study/user_calls.py",
)
"""What training a member of any kind runs, below the folder of the installed packages."""

OF_KIND = ("schema.py", "sweep.py", "training")
"""What it runs besides in the folder of the kind."""


def training_digest(kind: str) -> str:
    """Hash the code that trains a member of a kind of case; see :func:`digest`."""
    installed = Path(__file__).resolve().parents[2]
    package = find_spec(f"telescope_pipeline.cases.{kind}")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError(f"got {kind!r}; expected a kind of case with a folder of its own")
    folder = Path(package.submodule_search_locations[0])
    return digest(
        {path: installed / path for path in SHARED}
        | {f"{kind}/{path}": folder / path for path in OF_KIND}
    )


def digest(places: Mapping[str, Path]) -> str:
    """Hash files and whole folders: names and contents, not places.

    Args:
        places: Where they lie, by name.

    Returns:
        A SHA-256 in hexadecimal.

    Raises:
        ConfigurationError: If one is missing.
    """
    found = hashlib.sha256()
    for name, place in sorted(places.items()):
        if not place.exists():
            raise ConfigurationError(f"{place}: no such code; expected it to be installed")
        for path in _files(place):
            inside = f"{name}/{path.relative_to(place).as_posix()}"
            found.update(f"{inside}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return found.hexdigest()


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.name != "__pycache__":
        for path in sorted(place.iterdir()):
            yield from _files(path)
