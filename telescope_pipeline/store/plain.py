"""Numbers of numpy and pandas as the numbers JSON knows."""

from __future__ import annotations

import math
from typing import Any

from telescope_core.errors import NonFiniteError


def plain(value: Any, what: str) -> Any:
    """Turn a nested value into dicts, lists, text, booleans, None and finite numbers.

    Args:
        value: Nested mappings and sequences; numbers of any kind that has ``item()``.
        what: What to call it in a message.

    Returns:
        The same as plain Python.

    Raises:
        NonFiniteError: If a number is NaN or infinite; the message says where.
    """
    if isinstance(value, dict):
        return {str(key): plain(item, f"{what}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{what}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(f"{what} is {value}; expected a finite number")
    return value
