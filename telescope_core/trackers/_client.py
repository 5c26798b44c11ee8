"""Keeping the client of a tracker at arm's length: what it reads, what it quotes, what it takes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables, or with None remove them, and put them back afterwards.

    Some clients read a setting nowhere else.
    """
    before = {name: os.environ.get(name) for name in values}
    _put(values)
    try:
        yield
    finally:
        _put(before)


def unless_set(**values: str) -> dict[str, str]:
    """Return the values for :func:`environment`, where the user's own ones win."""
    return {name: os.environ.get(name, value) for name, value in values.items()}


def _put(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def redacted(text: str) -> str:
    """Remove from a message what might be a key or stand before the host of an address.

    Clients quote what was sent to them.

    Returns:
        The message with ``***`` in their place.
    """
    text = re.sub(r"//[^/@\s]*@", "//***@", text)
    return re.sub(r"[A-Za-z0-9_-]{32,}", "***", text)


def plain(value: Any) -> Any:
    """Copy a nested value for JSON, which has no words for NaN and infinities.

    Args:
        value: Mappings, sequences, text, numbers (also NumPy's), booleans and None.

    Returns:
        Dicts, lists and scalars; a number that is not finite is the text ``NaN``, ``Infinity`` or
        ``-Infinity``, which ``float()`` and JavaScript's ``Number()`` read.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_json(value: Any, indent: int | None = 2) -> str:
    """Write :func:`plain` as JSON.

    Returns:
        JSON with characters beyond ASCII as they are.

    Raises:
        TypeError: If JSON has no word for something in the value.
    """
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
