"""The kinds of case there are: the folders of ``telescope_pipeline.cases``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from telescope_pipeline.schemas.sections import Case

_CASES = "telescope_pipeline.cases"


class _Kinds(Mapping[str, type[Case]]):
    """Finds a kind's schema when it is asked for: the one class that its module defines as a case.

    Whoever asks for one kind imports no other's.
    """

    def __getitem__(self, kind: str) -> type[Case]:
        if kind not in self:
            raise KeyError(kind)
        module = import_module(f"{_CASES}.{kind}.schema")
        (model,) = (
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, Case) and member.__module__ == module.__name__
        )
        return model

    def __iter__(self) -> Iterator[str]:
        folders = import_module(_CASES).__path__
        return (found.name for found in iter_modules(folders) if found.ispkg)

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def __contains__(self, kind: object) -> bool:
        return kind in tuple(iter(self))


KINDS: Mapping[str, type[Case]] = _Kinds()
