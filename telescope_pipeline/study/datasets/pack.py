"""Packs the data sets that come with the package, and puts them where they lie.

To be run as a module.  What it reads is looked for as everywhere, downloaded if need be, and
verified.
"""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

from telescope_pipeline.study.datasets.files import SHIPPED, read_files
from telescope_pipeline.study.datasets.registry import REGISTRY


def pack(folder: Path) -> list[Path]:
    """Write what is shipped packed by xz, from the form in which it is published.

    Args:
        folder: Where to, in the layout of the registry.

    Returns:
        The files written.

    Raises:
        DataError: A file is missing and cannot be downloaded, or is damaged.
    """
    written = []
    for entry in REGISTRY.values():
        for file in entry.files:
            shipped = [form for form in file.forms if (SHIPPED / form.path).is_file()]
            published = replace(file, forms=tuple(form for form in file.forms if form.addresses))
            for form in shipped:
                (content,) = read_files(replace(entry, files=(published,))).values()
                target = folder / form.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(lzma.compress(content.data, preset=9 | lzma.PRESET_EXTREME))
                written.append(target)
    return written


if __name__ == "__main__":
    for path in pack(SHIPPED):
        print(path)
