"""Which of the things that a model returns are its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from telescope_core.errors import ConfigurationError, ModelError

Output = str | int | Callable[[Any], Tensor] | None
"""A key or attribute, a position, what picks the outputs, or ``None`` for all that is returned."""


def check_output(output: object) -> None:
    """Refuse what names no output.

    Raises:
        ConfigurationError: Neither a name, a position, a callable nor ``None``.
    """
    known = output is None or isinstance(output, str | int) or callable(output)
    if isinstance(output, bool) or not known:
        raise ConfigurationError(
            f"output must be a name ('logits'), a position (0), a callable that picks a tensor "
            f"from what the model returns, or None, got {output!r}"
        )


def selected(returned: Any, output: Output) -> Any:
    """The outputs among what a model has returned (a mapping, a tuple, an object).

    Returns:
        What is named; all of it where nothing is.

    Raises:
        ModelError: There is no such output.
    """
    if output is None:
        return returned
    if callable(output):
        return output(returned)
    try:
        if isinstance(output, str) and not isinstance(returned, Mapping):
            return getattr(returned, output)
        return returned[output]
    except (LookupError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the model returned {described(returned)}, which has no {output!r}; name one that "
            "is there by output="
        ) from error


def described(returned: Any) -> str:
    """What a model has returned, in a few words."""
    if isinstance(returned, Tensor):
        return f"a tensor of shape {tuple(returned.shape)}"
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} with {', '.join(repr(key) for key in returned)}"
    if isinstance(returned, tuple | list):
        return f"{kind} of {len(returned)}"
    return kind
