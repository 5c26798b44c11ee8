"""What autograd has recorded behind some outputs, and what torch cannot differentiate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint

from telescope_core.errors import ModelError, TelescopeError

_Call = Callable[..., Any]


def graph_of(outputs: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Every node of the graph behind some outputs, each once, in the order it is met."""
    seen = set()
    waiting = [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in reversed(node.next_functions))


def leaves_behind(outputs: Tensor) -> list[Tensor]:
    """The leaves that require a gradient behind some outputs, each once, in the order met."""
    if outputs.requires_grad and outputs.is_leaf:
        return [outputs]
    held = (getattr(node, "variable", None) for node in graph_of(outputs))
    return list({id(leaf): leaf for leaf in held if leaf is not None}.values())


@contextmanager
def without_remarks() -> Iterator[None]:
    """Leave out torch's remarks on operations that it batches by a loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


@contextmanager
def or_model_error() -> Iterator[None]:
    """Turn torch's errors about derivatives into a :class:`ModelError` that says what to do."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, TelescopeError | torch.OutOfMemoryError):
            raise
        raise ModelError(_reason(str(error) or type(error).__name__)) from error


@contextmanager
def without_checkpoints(
    repeated: Callable[[], AbstractContextManager[None]] | None,
) -> Iterator[None]:
    """Keep activations instead of computing them again, which ``torch.func`` cannot follow.

    What the second computation does on the side (running statistics move twice) is done at once.

    Args:
        repeated: Called before a checkpointed part is run; what it gives is entered to run the part
            again with the random draws of the first time.  ``None`` not to run it again.
    """

    def around(function: _Call, *options: Any, **kwargs: Any) -> Iterator[None]:
        """What torch does before a checkpointed function, and after it."""
        again = repeated and repeated()
        yield
        if again:
            with again:
                function(*options[5:], **kwargs)

    class Kept:
        """Stands for the reentrant kind."""

        @staticmethod
        def apply(function: _Call, preserve: bool, *args: Any) -> Any:
            whole = around(function, *[None] * 5, *args)
            next(whole)
            outputs = function(*args)
            next(whole, None)
            return outputs

    names = ("_checkpoint_without_reentrant_generator", "CheckpointFunction")
    held = {name: getattr(checkpoint, name) for name in names}
    try:
        for name, instead in zip(names, (around, Kept), strict=True):
            setattr(checkpoint, name, instead)
        yield
    finally:
        for name, value in held.items():
            setattr(checkpoint, name, value)


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
