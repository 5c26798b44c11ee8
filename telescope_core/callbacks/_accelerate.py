"""What accelerate wraps: the model's own ``forward``, in an autocast."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import MethodType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from telescope_core.network import Network
from telescope_core.network.indexed import INDEX_KEY
from telescope_core.network.inputs import call_arguments
from telescope_core.network.outputs import Output, selected
from telescope_core.network.samples import TARGETS
from telescope_core.network.streams import in_own_pass

# By name, since accelerate carries no types.
_State: Final[Any] = import_module("accelerate.state").AcceleratorState
_Converter: Final[Any] = import_module("accelerate.utils.operations").ConvertOutputsToFp32
_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ModelOutputs(nn.Module):
    """A model as a function to one of its outputs, without accelerate's mixed precision.

    An autocast that accelerate has put into the model's own forward (``bf16=True``) is left out;
    one around the call is not.

    Args:
        model: The model, prepared by accelerate or not; its parameters are shared.
        output: Which of its outputs: a name, a position, or what picks them.
    """

    def __init__(self, model: nn.Module, output: Output = "logits") -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.training = model.training

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The chosen outputs, rows first."""
        args, kwargs = call_arguments(self.model, named) if named else (inputs, {})
        with without_mixed_precision(self.model):
            outputs: Tensor = selected(self.model(*args, **kwargs), self.output)
        return outputs

    def listen(self) -> list[Any]:
        """Let hooks of this module see the passes that others make of the model inside.

        Returns:
            Handles with ``remove()``.
        """
        return [
            self.model.register_forward_pre_hook(self._before, with_kwargs=True),
            self.model.register_forward_hook(self._after),
        ]

    def _before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if not in_own_pass():
            self._tell(args, kwargs)

    def _tell(self, args: Any, kwargs: Any) -> None:
        """Call the hooks that stand before a pass, in the autocast that it will run in."""
        with autocast_inside(self.model) or nullcontext():
            for number, hook in tuple(self._forward_pre_hooks.items()):
                named = (kwargs,) if number in self._forward_pre_hooks_with_kwargs else ()
                hook(self, args, *named)

    def _after(self, model: nn.Module, args: Any, returned: Any) -> None:
        if in_own_pass():
            return
        for hook in tuple(self._forward_hooks.values()):
            hook(self, args, selected(returned, self.output))

    def announce(self) -> None:
        """Let whoever watches the calls of this module see the autocast of passes in training.

        The Trainer calls the model before a step of the lens begins.
        """
        self._tell((), {})


def model_inputs(
    model: ModelOutputs, batch: Mapping[str, Any], *, keep_targets: bool = False
) -> dict[str, Tensor]:
    """What of a batch the model needs to give its outputs: its tensors, labels only if need be."""
    device = next(model.parameters()).device
    tensors = {
        name: leaf.to(device)
        for name, leaf in batch.items()
        if isinstance(leaf, Tensor) and leaf.ndim and name != INDEX_KEY
    }
    if keep_targets:
        return tensors
    plain = {name: leaf for name, leaf in tensors.items() if name not in TARGETS}
    try:
        with torch.no_grad(), Network(model, training=False).at() as call:
            call(plain)
    except (TypeError, ValueError):
        # Encoder and decoder: inputs of the decoder are made from the labels.
        return tensors
    return plain


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
