"""What a module holds, copied as deep as a forward pass may write to it."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from telescope_core.network.sparse import copied
from telescope_core.network.streams import twin_of_generator

_MAPPINGS = (dict, OrderedDict, defaultdict)
_SEQUENCES = (list, deque)
# Nothing but a value: most of what a module holds.
_PLAIN = frozenset([bool, int, float, str, type(None)])
# What saving and loading use; sharing it saves half the time.
_NEVER_WRITTEN = frozenset(
    [
        "_non_persistent_buffers_set",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    ]
)
# Reverse mode through these would not be the derivative of the forward pass.
_HOOKS_OF_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


@contextmanager
def twins(
    model: nn.Module,
    tensors: Mapping[int, Tensor],
    modes: Mapping[nn.Module, bool],
    raised: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """Let every submodule live on a copy of its attributes, and give it back its own afterwards.

    Whatever the forward pass writes then (buffers, counters, kept activations, hooks, modes) goes
    to the copies, so there is nothing to put back.  A tensor has one copy however many names it
    has.  Backward hooks of modules are left out.

    Args:
        model: The model.
        tensors: What stands in for a tensor, by ``id``: the parameters.
        modes: Whether a module is in train mode; modules not named keep theirs.
        raised: The precision to evaluate a buffer in.
    """
    copies = dict(tensors)

    def of_tensor(value: Tensor) -> Tensor:
        made = copies.get(id(value))
        if made is None:
            made = value if isinstance(value, nn.Parameter) else raised(copied(value.detach()))
            copies[id(value)] = made
        return made

    held = [(module, vars(module)) for module in model.modules()]
    try:
        for module, own in held:
            twin = own.copy()
            for name, value in own.items():
                if type(value) not in _PLAIN and name not in _NEVER_WRITTEN:
                    twin[name] = _twin(value, of_tensor)
            if "training" in own:
                twin["training"] = modes.get(module, own["training"])
            for name in _HOOKS_OF_BACKWARD:
                twin[name] = OrderedDict()
            _run_eagerly(module, own, twin)
            object.__setattr__(module, "__dict__", twin)
        yield
    finally:
        for module, own in held:
            object.__setattr__(module, "__dict__", own)


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to the model or to a part of it."""
    return any(
        module._compiled_call_impl is not None or "_orig_mod" in module._modules
        for module in model.modules()
    )


def _twin(value: Any, of_tensor: Callable[[Tensor], Tensor]) -> Any:
    kind = type(value)
    if kind in _MAPPINGS and not value and kind is not defaultdict:
        return kind()
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return of_tensor(value)
    if kind in _MAPPINGS:
        twin = copy.copy(value)
        if not _PLAIN.issuperset(map(type, value.values())):
            for name, entry in twin.items():
                twin[name] = _twin(entry, of_tensor)
        return twin
    if kind in _SEQUENCES:
        if _PLAIN.issuperset(map(type, value)):
            return copy.copy(value)  # A vocabulary may be long.
        entries = [_twin(entry, of_tensor) for entry in value]
        return entries if kind is list else deque(entries, value.maxlen)
    if kind is tuple:
        return tuple(_twin(entry, of_tensor) for entry in value)
    if kind in (set, bytearray) or kind.__name__ == "ndarray":
        return copy.copy(value)
    return twin_of_generator(value)


def _run_eagerly(module: nn.Module, own: dict[str, Any], twin: dict[str, Any]) -> None:
    """Leave out ``torch.compile``, which derivatives of the lens cannot pass through."""
    twin["_compiled_call_impl"] = None
    if "_orig_mod" in own["_modules"]:
        twin["forward"] = own["_modules"]["_orig_mod"].__call__
