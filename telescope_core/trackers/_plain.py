"""Values as JSON has words for: NaN and infinities become text.

``NaN``, ``Infinity`` and ``-Infinity`` are what ``float()`` and JavaScript's ``Number()`` read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Copy a nested value for JSON.

    Args:
        value: Mappings, sequences, text, numbers (also NumPy's), booleans and None.

    Returns:
        Dicts, lists and scalars; every number that is not finite is text.
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

    Raises:
        TypeError: If JSON has no word for something in the value.
    """
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
