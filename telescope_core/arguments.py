"""Refuses single arguments of the wrong type, or out of range."""

from __future__ import annotations

from collections.abc import Sequence

from telescope_core.errors import ConfigurationError


def check_integer(name: str, value: object, least: int, meaning: str) -> None:
    """Refuse anything but an integer of at least ``least``; a bool is none.

    Raises:
        ConfigurationError: Naming the argument, its value and the expectation.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{name} must be an integer of at least {least} ({meaning}), got {value!r}"
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ConfigurationError: Naming the argument, its value and the choices.
    """
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
