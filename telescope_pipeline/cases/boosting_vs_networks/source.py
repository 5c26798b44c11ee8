"""Tables by name; the one that an installed package ships needs no folder and no network."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

from telescope_pipeline.study.datasets.registry import DataFile, lookup
from telescope_pipeline.study.datasets.tables import Table, table

# plotnine ships ggplot2's table, byte for byte the registered file.
_SHIPPED = {"diamonds": ("plotnine", "data/diamonds.csv")}


def load_table(name: str) -> Table:
    """Load a table with the target of the tabular benchmark.

    Looked for inside the package that ships it, if one does and is installed, then in the data
    folder, then in the cache; downloaded otherwise. Its checksum is verified wherever it lies, and
    the card is the same.

    Args:
        name: ``houses``, ``superconduct``, ``california``, ``house_sales`` or ``diamonds``.

    Returns:
        The table.

    Raises:
        DataError: The file is missing or is not the registered one.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    loaded = _from_package(name) or table(name, target="benchmark")
    files = [{key: v for key, v in file.items() if key != "path"} for file in loaded.card["files"]]
    return replace(loaded, card=loaded.card | {"files": files})


def _from_package(name: str) -> Table | None:
    if name not in _SHIPPED:
        return None
    package, path = _SHIPPED[name]
    try:
        # Its files are wanted, not its code: importing it would take a second.
        folder = Path(str(metadata.distribution(package).locate_file(package)))
    except metadata.PackageNotFoundError:
        return None
    if not (folder / path).is_file():
        return None
    entry = lookup(name)
    (file,) = entry.files
    shipped = DataFile(file.name, (replace(file.forms[0], path=path),), file.size)
    return table(name, target="benchmark", folder=folder, entry=replace(entry, files=(shipped,)))
