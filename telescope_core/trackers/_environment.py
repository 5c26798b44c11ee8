"""Environment variables for a while: some clients read a setting nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables, or with None remove them, and put them back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    _put(values)
    try:
        yield
    finally:
        _put(before)


def unless_set(**values: str) -> dict[str, str]:
    """Return the values for :func:`environment`, where the user's own ones win."""
    return {name: os.environ.get(name, value) for name, value in values.items()}


def _put(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
