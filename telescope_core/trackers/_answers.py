"""How a worker answers the process that started it: one line of JSON per thing done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

Tell = Callable[..., None]
"""Tells an event by its name, with details that are JSON-able."""


def open_answers() -> Tell:
    """Take over standard output for answers; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **details: Any) -> None:
        answers.write(json.dumps({"event": event, **details}) + "\n")
        answers.flush()

    return tell
