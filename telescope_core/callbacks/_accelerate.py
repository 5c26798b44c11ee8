"""What accelerate wraps: the model's own ``forward``, in an autocast, and the optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import MethodType
from typing import Any, Final, cast

import torch
from torch import nn

# By name, since accelerate carries no types.
_State: Final[Any] = import_module("accelerate.state").AcceleratorState
_Converter: Final[Any] = import_module("accelerate.utils.operations").ConvertOutputsToFp32
_Optimizer: Final[Any] = import_module("accelerate.optimizer").AcceleratedOptimizer
_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Let a model run as it did before accelerate put an autocast into its ``forward``.

    The lens follows the function that the weights define, as with an autocast around the call;
    derivatives by ``torch.func`` do not pass through an autocast that begins inside of them.  The
    model, prepared by accelerate or not, is wrapped again afterwards.
    """
    plain = _plain_forward(model)
    if plain is None:
        yield
        return
    own = vars(model)
    wrapped, own["forward"] = own["forward"], plain
    try:
        yield
    finally:
        own["forward"] = wrapped


def autocast_inside(model: nn.Module) -> torch.autocast | None:
    """One like the autocast that accelerate has put into a model's ``forward``, if it has."""
    wrapped = _plain_forward(model) is not None
    dtype = _DTYPES.get(_State().mixed_precision) if wrapped else None
    if dtype is None:
        return None
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that takes the step; accelerate's wrapper only hands over to it."""
    inner = optimizer.optimizer if isinstance(optimizer, _Optimizer) else optimizer
    return cast(torch.optim.Optimizer, inner)


def _plain_forward(model: nn.Module) -> Callable[..., Any] | None:
    """``forward`` without accelerate's wrappers, if it has any; every preparation adds one."""
    forward: Any = vars(model).get("forward")
    inner = forward
    while isinstance(converter := getattr(inner, "__wrapped__", None), _Converter):
        # Inside the conversion of outputs is the autocast, and inside that the forward before.
        inner = converter.model_forward.__wrapped__
    if inner is forward:
        return None
    # A method was taken apart before it was wrapped.
    taken_apart = inspect.ismethod(forward) and inspect.isfunction(inner)
    return MethodType(inner, model) if taken_apart else cast(Callable[..., Any], inner)
