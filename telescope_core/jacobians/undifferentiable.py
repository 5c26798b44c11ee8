"""What torch says when it cannot differentiate a model, as an error of this library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from telescope_core.errors import ModelError, TelescopeError


@contextmanager
def or_model_error() -> Iterator[None]:
    """Turn torch's errors about derivatives into a :class:`ModelError` that says what to do."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, TelescopeError | torch.OutOfMemoryError):
            raise
        raise ModelError(_reason(str(error) or type(error).__name__)) from error


def _reason(message: str) -> str:
    first = message.splitlines()[0]
    if "checkpoint" in message:
        return (
            f"the model recomputes activations, and torch cannot differentiate it so: {first}; "
            "use torch.utils.checkpoint with use_reentrant=False, or switch it off"
        )
    return (
        f"torch.func cannot differentiate the model, nor can plain autograd: {first}; replace the "
        "operation (a custom autograd.Function whose backward cannot be differentiated?), or hold "
        "the parameters that it depends on fixed"
    )
