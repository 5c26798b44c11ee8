"""Nested values as labelled lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from telescope_pipeline.report.numbers import format_estimate, format_number
from telescope_pipeline.report.words import words_of

_ESTIMATE = {"value", "stderr"}
_RANGE = ("smallest", "largest")
_SUFFIX = "_stderr"


@dataclass(frozen=True)
class Entry:
    """A line: a label, and a text or more lines.

    Attributes:
        label: What it is; may be empty.
        text: Its value; of lines below it, how many they are and what they range over.
        note: What is said besides, e.g. the range over seeds.
        children: The lines below it.
    """

    label: str
    text: str = ""
    note: str = ""
    children: tuple[Entry, ...] = ()


def entries_of(value: Any) -> tuple[Entry, ...]:
    """Write a nested value as lines.

    A mapping of ``value`` and ``stderr``, and perhaps other numbers, is one number with its error;
    so are the two entries ``x`` and ``x_stderr`` of a mapping.

    Args:
        value: JSON-able.

    Returns:
        One line per entry of a mapping; a single line without label for anything else.
    """
    if isinstance(value, Mapping) and not is_estimate(value):
        return tuple(_entry(words_of(key), item) for key, item in with_errors(value).items())
    return (_entry("", value),)


def with_errors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Join ``x`` and ``x_stderr`` into an estimate called ``x``."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        error = values.get(key + _SUFFIX)
        if _is_number(value) and _is_number(error):
            joined[key] = {"value": value, "stderr": error}
        elif not (key.endswith(_SUFFIX) and _is_number(values.get(key.removesuffix(_SUFFIX)))):
            joined[key] = value
    return joined


def text_of(value: Any) -> str:
    """Write a value of one line; an empty list or mapping is none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if is_estimate(value):
        return format_estimate(value["value"], value["stderr"])
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "none"
    return str(value)


def is_estimate(value: Any) -> bool:
    """Whether a value is a number with its standard error."""
    return (
        isinstance(value, Mapping)
        and value.keys() >= _ESTIMATE
        and all(_is_number(part) for part in value.values())
    )


def _entry(name: str, value: Any) -> Entry:
    if _has_parts(value) and value:
        numbered = value
        if isinstance(value, list):
            numbered = {str(number): item for number, item in enumerate(value, 1)}
        return Entry(name, _span(numbered), children=entries_of(numbered))
    return Entry(name, text_of(value), _note(value))


def _has_parts(value: Any) -> bool:
    """Whether a value takes more than one line."""
    if isinstance(value, list):
        return any(isinstance(item, list | Mapping) for item in value)
    return isinstance(value, Mapping) and not is_estimate(value)


def _note(value: Any) -> str:
    if not is_estimate(value):
        return ""
    others = {key: number for key, number in value.items() if key not in _ESTIMATE}
    if tuple(others) == _RANGE:
        low, high = (format_number(others[end], 3) for end in _RANGE)
        return "" if low == high else f"seeds from {low} to {high}"
    return ", ".join(
        f"{words_of(key)} {format_number(number, 3)}" for key, number in others.items()
    )


def _span(values: Mapping[Any, Any]) -> str:
    """Say over what numbers range, if they are all numbers."""
    numbers = [value["value"] if is_estimate(value) else value for value in values.values()]
    count = f"{len(numbers)} value{'s' if len(numbers) > 1 else ''}"
    if len(numbers) == 1 or not all(_is_number(number) for number in numbers):
        return count
    return f"{count}, {format_number(min(numbers), 3)} to {format_number(max(numbers), 3)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
