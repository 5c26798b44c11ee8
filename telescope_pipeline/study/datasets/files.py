"""Finds the files of a data set, verifies them, and unpacks them.

A file is looked for in a local folder (an argument, or the environment variable
``TELESCOPE_DATA``), then in the cache folder (``TELESCOPE_CACHE``, or the user's cache), then at
its addresses.  The first place that has it decides: a damaged file is an error, never a reason to
look further.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from telescope_core.errors import DataError, MissingDependencyError
from telescope_pipeline.study.datasets._download import download
from telescope_pipeline.study.datasets._unpack import unpack
from telescope_pipeline.study.datasets.registry import DataFile, Entry, Form, Known

FOLDER_VARIABLE = "TELESCOPE_DATA"
CACHE_VARIABLE = "TELESCOPE_CACHE"


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


@dataclass(frozen=True)
class _Place:
    path: Path
    form: Form


def data_folder(folder: str | Path | None) -> Path | None:
    """The local folder to look into, if there is one.

    Args:
        folder: An explicit folder; by default the one that ``TELESCOPE_DATA`` names.

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
    places = {file.name: _find(file, roots) for file in wanted}
    missing = [file for file in wanted if places[file.name] is None]
    if missing:
        _download_missing(entry, missing, roots)
        places = {file.name: _find(file, roots) for file in wanted}
    contents = _read(wanted, {name: place for name, place in places.items() if place is not None})
    versions = sorted({content.known.fidelity for content in contents.values()})
    if len(versions) > 1:
        raise DataError(
            f"the files of {entry.name} are of different versions, which must not be mixed: "
            + "; ".join(
                f"{content.form.path} is {content.known.fidelity!r}"
                for content in contents.values()
            )
        )
    return contents


def _find(file: DataFile, roots: Sequence[Path]) -> _Place | None:
    for root in roots:
        for form in file.forms:
            path = root / form.path
            if path.is_file():
                return _Place(path, form)
    return None


def _read(files: Sequence[DataFile], places: dict[str, _Place]) -> dict[str, Content]:
    """Read every place once, also an archive that holds several of the files."""
    by_path: dict[Path, list[DataFile]] = {}
    for file in files:
        by_path.setdefault(places[file.name].path, []).append(file)
    contents: dict[str, Content] = {}
    for path, sharing in by_path.items():
        forms = {file.name: places[file.name].form for file in sharing}
        contents.update(_read_place(path, sharing, forms))
    return {file.name: contents[file.name] for file in files}


def _read_place(
    path: Path, files: Sequence[DataFile], forms: dict[str, Form]
) -> dict[str, Content]:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    first = forms[files[0].name]
    # Verified before it is unpacked wherever the digest allows it.
    whole = _identify(packed, first, path) if first.checked == "file" else None
    unpacked = unpack(
        packed, first.packing, {forms[file.name].member: file.size for file in files}, path
    )
    contents = {}
    for file in files:
        form = forms[file.name]
        data = unpacked[form.member]
        contents[file.name] = Content(data, form, whole or _identify(data, form, path))
    return contents


def _identify(data: bytes, form: Form, path: Path) -> Known:
    for known in form.known:
        if known.matches(data):
            return known
    what = "content" if form.checked == "content" else "file"
    raise DataError(
        f"{path} ({len(data)} bytes of {what}) is damaged or is another file: its digest is none "
        f"of {', '.join(map(str, form.known))}; replace it, or remove it to have it downloaded"
    )


def _download_missing(entry: Entry, missing: Sequence[DataFile], roots: Sequence[Path]) -> None:
    cache = roots[-1]
    reasons: list[str] = []
    done: set[str] = set()
    for file in missing:
        form = next((form for form in file.forms if form.addresses), None)
        if form is None or form.path in done:
            continue
        done.add(form.path)
        sharing = [other for other in missing if form.path in {f.path for f in other.forms}]
        forms = {
            other.name: next(f for f in other.forms if f.path == form.path) for other in sharing
        }

        def verify(
            path: Path, sharing: Sequence[DataFile] = sharing, forms: dict[str, Form] = forms
        ) -> None:
            _read_place(path, sharing, forms)

        try:
            failures = download(form.addresses, cache / form.path, verify)
        except MissingDependencyError as error:
            raise MissingDependencyError(
                _where_to_put(entry, missing, roots, [str(error)])
            ) from error
        if failures:
            # One unreachable network is reported once, not once per file.
            reasons = failures
            break
    if any(_find(file, roots) is None for file in missing):
        raise DataError(_where_to_put(entry, missing, roots, reasons))


def _where_to_put(
    entry: Entry, missing: Sequence[DataFile], roots: Sequence[Path], reasons: Sequence[str]
) -> str:
    lacking = [file for file in missing if _find(file, roots) is None]
    places = "\n".join(
        "  " + " or ".join(dict.fromkeys(form.path for form in file.forms)) for file in lacking
    )
    tried = "\n".join(f"  {reason}" for reason in reasons) or "  it has no address to download from"
    return (
        f"{entry.title}: not found in {' or '.join(map(str, roots))}, and the download failed:\n"
        f"{tried}\n"
        f"Put these files into a folder and name it with folder= or {FOLDER_VARIABLE}:\n{places}\n"
        f"They are published at {entry.source}"
    )
