"""Bounds of a parameter file, checked before anything is built of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    NodeEvent,
    ScalarEvent,
)

from telescope_core.errors import ParametersError

_BYTES = 1_000_000
_DEPTH = 32
# Values in all, an alias counted as all that it stands for.
_VALUES = 50_000
_DIGITS = 300
_BEGIN_NUMBER = "+-.0123456789"


def check_size(path: Path, size: int) -> None:
    """Refuse a file of too many bytes, before it is read.

    Raises:
        ParametersError: It has more than a file that someone wrote could have.
    """
    if size > _BYTES:
        raise ParametersError(
            f"{path}: got {size:,} bytes; expected at most {_BYTES:,}: keep data in files of its "
            "own"
        )


def check_bounds(path: Path, text: str) -> None:
    """Refuse what would take for ever to build: deep nesting, aliases of aliases, endless numbers.

    Args:
        path: The file, for messages.
        text: Its content.

    Raises:
        ParametersError: A bound is exceeded; the message names the line.
        YAMLError: The text is not YAML.
    """
    count = _Count(path)
    for event in YAML(typ="safe").parse(text):
        count.add(event)


class _Count:
    """How many values there are so far, in all and behind each anchor."""

    def __init__(self, path: Path):
        self._path = path
        self._total = 0
        self._behind: Counter[str] = Counter()
        # Of each collection that is open: its anchor, and the total when it began.
        self._open: list[tuple[str | None, int]] = []

    def add(self, event: Any) -> None:
        """Count an event of the parser."""
        if isinstance(event, CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor is not None:
                self._behind[anchor] = self._total - before
        if not isinstance(event, NodeEvent):
            return
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self._open):
                raise self._refused(line, f"*{event.anchor} inside what it stands for", "no circle")
            self._total += self._behind[event.anchor] - 1
        self._total += 1
        if self._total > _VALUES:
            given = f"more than {_VALUES:,} values, those behind aliases counted each time"
            raise self._refused(line, given, "fewer aliases")
        if isinstance(event, CollectionStartEvent):
            self._open.append((event.anchor, self._total - 1))
            if len(self._open) > _DEPTH:
                given = f"more than {_DEPTH} levels of nesting"
                raise self._refused(line, given, "sections of cases, which have fewer")
        elif isinstance(event, ScalarEvent):
            if event.anchor is not None:
                self._behind[event.anchor] = 1
            if len(event.value) > _DIGITS and event.implicit[0] and event.value[0] in _BEGIN_NUMBER:
                given = f"a number of {len(event.value):,} characters"
                raise self._refused(line, given, f"at most {_DIGITS}, or text in quotes")

    def _refused(self, line: int, given: str, expected: str) -> ParametersError:
        return ParametersError(f"{self._path}, line {line}: got {given}; expected {expected}")
