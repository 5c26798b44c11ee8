"""How the registry describes a data set: its files, their forms and contents, and its facts.

A file may lie in a folder in several forms (plain, packed, inside the official archive), and each
form may hold one of several known contents.  Content that is not listed is refused, so a change
to a data set is always a change to the registry.  A listed content that is not the original says
how it differs, and the data set's card repeats that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Algorithm = Literal["md5", "sha256", "git-blob"]
Packing = Literal["plain", "gzip", "xz", "tar", "zip"]

ORIGINAL = "original, checksum verified"


@dataclass(frozen=True)
class Known:
    """One content that a file may have.

    Attributes:
        algorithm: ``md5``, ``sha256``, or ``git-blob`` (SHA-1 as ``git hash-object`` computes it).
        digest: The hexadecimal digest.
        fidelity: How the content relates to the data set as published.
    """

    algorithm: Algorithm
    digest: str
    fidelity: str = ORIGINAL

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` has this digest."""
        name = "sha1" if self.algorithm == "git-blob" else self.algorithm
        header = b"blob %d\0" % len(data) if self.algorithm == "git-blob" else b""
        return hashlib.new(name, header + data, usedforsecurity=False).hexdigest() == self.digest

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


@dataclass(frozen=True)
class Form:
    """One way in which a file lies in a data folder.

    Attributes:
        path: Relative to the data folder and to the cache, with ``/``.
        known: The contents that are accepted.
        packing: How the content is packed.
        member: Name inside a tar or zip archive.
        checked: Whether the digests belong to the file as it lies there or to the unpacked content
            (for packers whose output depends on their settings).
        layout: How the content is read, where a data set has more than one way.
        addresses: Where this form can be downloaded; the first that works is used.
    """

    path: str
    known: tuple[Known, ...]
    packing: Packing = "plain"
    member: str = ""
    checked: Literal["file", "content"] = "file"
    layout: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        name: Short name, unique within the data set.
        forms: In order of preference; one of them is enough.
        size: Largest size of the unpacked content in bytes; more is refused while unpacking.
    """

    name: str
    forms: tuple[Form, ...]
    size: int


@dataclass(frozen=True)
class TableFacts:
    """Columns of a table, following the tabular benchmark of Grinsztajn et al. 2022.

    Attributes:
        rows: Number of rows.
        target: Name of the target.
        target_unit: Its meaning and unit.
        features: Meaning of every feature by name, in order.
        dropped: Why each other column is left out, by name.
        log_target: Whether the benchmark predicts the logarithm of the target.
        openml: OpenML id of the table as published there.
        openml_benchmark: OpenML id of the benchmark's version (numerical features only).
    """

    rows: int
    target: str
    target_unit: str
    features: Mapping[str, str]
    dropped: Mapping[str, str]
    log_target: bool
    openml: int | None
    openml_benchmark: int


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        name: Name in the registry.
        title: Full name.
        source: Who publishes it, or how it is generated.
        licence: Licence as stated by the source.
        citation: What to cite.
        shape: Sizes in words.
        files: Empty if the data set is generated or ships inside an installed package.
        classes: Class names in the order of the labels.
        table: Columns, for tables.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    shape: str
    files: tuple[DataFile, ...] = ()
    classes: tuple[str, ...] = ()
    table: TableFacts | None = None

    def card(self) -> dict[str, str]:
        """What the card of any task made of it begins with."""
        names = ("name", "title", "source", "licence", "citation")
        return {name: getattr(self, name) for name in names}
