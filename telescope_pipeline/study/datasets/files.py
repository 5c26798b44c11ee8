"""Finds the files of a data set, verifies them, and unpacks them.

A file is looked for in a local folder (an argument, or the environment variable
``TELESCOPE_DATA``), then in the cache folder (``TELESCOPE_CACHE``, or the user's cache), then among
the few that come with the package, then at its addresses.  The first place that has it decides: a
damaged file is an error, never a reason to look further.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telescope_core.errors import DataError, MissingDependencyError
from telescope_pipeline.study.datasets.entry import DataFile, Entry, Form, Known
from telescope_pipeline.study.datasets.unpack import unpack

FOLDER_VARIABLE = "TELESCOPE_DATA"
CACHE_VARIABLE = "TELESCOPE_CACHE"
SHIPPED = Path(__file__).with_name("shipped")
_SECONDS = 30
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Content:
    """The verified, unpacked content of one file.

    Attributes:
        data: The bytes.
        form: The form it was found in.
        known: The listed content it is.
    """

    data: bytes
    form: Form
    known: Known

    def record(self) -> dict[str, str]:
        """What a card says about the file; nothing of it depends on the machine."""
        return {
            "path": self.form.path,
            "checksum": str(self.known),
            "checksum_of": self.form.checked,
            "fidelity": self.known.fidelity,
        }


def data_folder(folder: str | Path | None) -> Path | None:
    """The local folder to look into.

    Args:
        folder: An explicit folder; by default the one that ``TELESCOPE_DATA`` names.

    Returns:
        The folder; None if none is named.

    Raises:
        DataError: A folder was named and does not exist.
    """
    named = folder if folder is not None else os.environ.get(FOLDER_VARIABLE) or None
    if named is None:
        return None
    path = Path(named).expanduser()
    if not path.is_dir():
        origin = "folder=" if folder is not None else f"{FOLDER_VARIABLE}="
        raise DataError(f"the data folder {origin}{path} does not exist; correct or remove it")
    return path


def cache_folder() -> Path:
    """The folder that downloads are kept in; it need not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("telescope")) / "data"


def read_files(
    entry: Entry, *, folder: str | Path | None = None, names: Sequence[str] | None = None
) -> dict[str, Content]:
    """Read files of a data set, downloading those that are nowhere on this machine.

    Args:
        entry: The data set.
        folder: A folder in the layout of the registry (``mnist/``, ``cifar-10-batches-bin/``,
            ``svhn/``, ``tabular/``); by default the one that ``TELESCOPE_DATA`` names.
        names: Names of the files, by default all.

    Returns:
        The contents by name.

    Raises:
        DataError: A file is missing and cannot be downloaded, is damaged, is not a listed content,
            or the files are a mixture of different versions.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    wanted = [file for file in entry.files if names is None or file.name in names]
    roots = [root for root in (data_folder(folder), cache_folder()) if root is not None]
    missing = [file for file in wanted if _find(file, roots) is None]
    if missing:
        _download(entry, missing, roots)
    # Every place is read once, also an archive that holds several of the files.
    places: dict[Path, dict[DataFile, Form]] = {}
    for file in wanted:
        found = _find(file, roots)
        assert found is not None, "downloaded, or refused"
        places.setdefault(found[0], {})[file] = found[1]
    read: dict[str, Content] = {}
    for path, forms in places.items():
        read |= _read(path, forms)
    contents = {file.name: read[file.name] for file in wanted}
    if len({content.known.fidelity for content in contents.values()}) > 1:
        raise DataError(
            f"the files of {entry.name} are of different versions, which must not be mixed: "
            + "; ".join(f"{c.form.path} is {c.known.fidelity!r}" for c in contents.values())
        )
    return contents


def _find(file: DataFile, roots: Sequence[Path]) -> tuple[Path, Form] | None:
    places = ((root / form.path, form) for root in (*roots, SHIPPED) for form in file.forms)
    return next((place for place in places if place[0].is_file()), None)


def _read(path: Path, forms: Mapping[DataFile, Form]) -> dict[str, Content]:
    """Read and verify the files that lie in one place."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    first = next(iter(forms.values()))
    # Verified before it is unpacked wherever the digest allows it.
    whole = _identify(packed, first, path) if first.checked == "file" else None
    sizes = {form.member: file.size for file, form in forms.items()}
    unpacked = unpack(packed, first.packing, sizes, path)
    return {
        file.name: Content(
            unpacked[form.member], form, whole or _identify(unpacked[form.member], form, path)
        )
        for file, form in forms.items()
    }


def _identify(data: bytes, form: Form, path: Path) -> Known:
    for known in form.known:
        if known.matches(data):
            return known
    raise DataError(
        f"{path} ({len(data)} bytes of {form.checked}) is damaged or is another file: its digest "
        f"is none of {', '.join(map(str, form.known))}; replace it, or remove it to have it "
        "downloaded"
    )


def _download(entry: Entry, missing: Sequence[DataFile], roots: Sequence[Path]) -> None:
    """Download what is missing into the cache, an archive of several files once."""
    plans: dict[str, dict[DataFile, Form]] = {}
    for file in missing:
        form = next((form for form in file.forms if form.addresses), None)
        if form is not None:
            plans.setdefault(form.path, {})[file] = form
    reasons = [] if plans else ["it has no address to download from"]
    for path, forms in plans.items():
        try:
            pooch = importlib.import_module("pooch")
        except ImportError as error:
            reasons = ["it needs pooch: pip install pooch"]
            text = _where_to_put(entry, missing, roots, reasons)
            raise MissingDependencyError(text) from error
        reasons = _fetch(pooch, roots[-1] / path, forms)
        if reasons:
            # One unreachable network is reported once, not once per file.
            break
    missing = [file for file in missing if _find(file, roots) is None]
    if missing:
        raise DataError(_where_to_put(entry, missing, roots, reasons))


def _fetch(pooch: Any, target: Path, forms: Mapping[DataFile, Form]) -> list[str]:
    """Download to a temporary name, verify, rename; what went wrong at each address, if all did."""
    fetch = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=_CHUNK_BYTES, timeout=_SECONDS
    )
    failures = []
    for address in next(iter(forms.values())).addresses:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
                arrived = Path(folder) / target.name
                fetch(address, str(arrived), None)
                _read(arrived, forms)
                arrived.replace(target)
        # Errors of the network are OSErrors as well, those of a full disk included.
        except (OSError, DataError) as error:
            failures.append(f"{address}: {error}")
        else:
            return []
    return failures


def _where_to_put(
    entry: Entry, lacking: Sequence[DataFile], roots: Sequence[Path], reasons: Sequence[str]
) -> str:
    places = (" or ".join(dict.fromkeys(form.path for form in file.forms)) for file in lacking)
    return "\n".join(
        [
            f"{entry.title}: not found in {' or '.join(map(str, roots))}, and the download failed:",
            *(f"  {reason}" for reason in reasons or ["it has no address to download from"]),
            f"Put these files into a folder and name it with folder= or {FOLDER_VARIABLE}:",
            *(f"  {place}" for place in places),
            f"They are published at {entry.source}",
        ]
    )
