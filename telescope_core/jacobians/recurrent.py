"""Recurrent modules step by step, in operations that every kind of derivative knows.

The fused kernels behind ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` (oneDNN, cuDNN, MPS) have no
forward-mode derivative, and most no second one.  Unrolled, each set of gates is a linear map of
the input or of the hidden state at every step, which is what layer factors are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from telescope_core.network.packing import entries_of

Tap = Callable[[Tensor, Tensor], Tensor]
"""``(input, output) -> output`` of a linear map, called at every step."""

Watch = Callable[[nn.Module, str], Tap | None]
"""``(module, name of the map's weight) -> tap``, if any; asked once for each use of the map."""

Hidden = tuple[Tensor, ...]
"""The state of one layer and direction: ``(h,)``, or ``(h, c)`` for an LSTM."""


def can_be_unrolled(module: nn.Module) -> bool:
    """Whether it is a recurrent module of torch's own, its forward not replaced."""
    return type(module) in (nn.LSTM, nn.GRU, nn.RNN) and "forward" not in vars(module)


def linear_maps(module: nn.RNNBase) -> list[tuple[str, str]]:
    """Names of the weight and the bias of every linear map in the module."""
    kinds = ["ih", "hh"] + ["hr"] * (module.proj_size > 0)
    return [
        (f"weight_{kind}_{place}", f"bias_{kind}_{place}")
        for place in _places(module)
        for kind in kinds
    ]


def recurrent_modules(model: nn.Module) -> list[nn.RNNBase]:
    """The modules of a model that can run step by step."""
    every = (m for m in model.modules() if isinstance(m, nn.RNNBase))
    return [module for module in every if can_be_unrolled(module)]


@contextmanager
def unrolled(modules: Sequence[nn.RNNBase], watch: Watch | None = None) -> Iterator[None]:
    """Let these modules run step by step instead of in a fused kernel."""
    for module in modules:
        module.forward = partial(_run, module, watch)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _run(
    module: nn.RNNBase,
    watch: Watch | None,
    input: Tensor | PackedSequence,
    hx: Tensor | Hidden | None = None,
) -> tuple[Tensor | PackedSequence, Tensor | Hidden]:
    """``module(input, hx)``; a sequence without a batch goes to the module's own kernel."""
    packed = None
    if isinstance(input, PackedSequence):
        packed = input
        x, active = _unpack(packed)
    elif input.ndim == 3:
        x, active = input if module.batch_first else input.transpose(0, 1), None
    else:
        whole: tuple[Tensor, Tensor | Hidden] = type(module).forward(module, input, hx)
        return whole
    places = _places(module)
    starts = _initial(module, x, hx, len(places))
    finals: list[Hidden] = []
    for layer in range(module.num_layers):
        if layer and module.training and module.dropout > 0:
            x = _dropped(module, x, packed)
        sides = []
        for backwards in (False, True)[: 2 if module.bidirectional else 1]:
            here = len(finals)
            turn = _flipped if backwards else _unchanged
            exists = None if active is None else turn(active)
            outputs, final = _scan(module, places[here], turn(x), exists, starts[here], watch)
            sides.append(turn(outputs))
            finals.append(final)
        x = torch.cat(sides, dim=-1)
    last = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    state = last if len(last) > 1 else last[0]
    if packed is not None:
        return _pack(x, packed), state
    if module.training:
        x = _steps_first(x)
    return x if module.batch_first else x.transpose(0, 1), state


def _flipped(sequence: Tensor) -> Tensor:
    return sequence.flip(1)


def _unchanged(sequence: Tensor) -> Tensor:
    return sequence


def _dropped(module: nn.RNNBase, x: Tensor, packed: PackedSequence | None) -> Tensor:
    """Dropout between layers."""
    drop = partial(functional.dropout, p=module.dropout)
    if packed is not None:
        return _unpack(packed._replace(data=drop(_pack(x, packed).data)))[0]
    return drop(_steps_first(x))


def _steps_first(x: Tensor) -> Tensor:
    """The same laid out as torch's kernels do: masks are filled in the order of memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _unpack(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """The sequences in the caller's order, ``(batch, steps, features)``, and which steps exist."""
    rows, steps = _entries(packed)
    sizes = packed.batch_sizes.tolist()
    x = packed.data.new_zeros(sizes[0], len(sizes), packed.data.shape[-1])
    active = torch.zeros(sizes[0], len(sizes), dtype=torch.bool, device=x.device)
    x = x.index_put((rows, steps), packed.data)
    return x, active.index_put((rows, steps), torch.ones_like(rows, dtype=torch.bool))


def _pack(x: Tensor, like: PackedSequence) -> PackedSequence:
    rows, steps = _entries(like)
    return like._replace(data=x[rows, steps])


def _entries(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Row, in the caller's order, and step of every entry of the packed data."""
    rows, steps = entries_of(packed.batch_sizes, packed.data.device)
    return rows if packed.sorted_indices is None else packed.sorted_indices[rows], steps


def _scan(
    module: nn.RNNBase,
    place: str,
    x: Tensor,
    active: Tensor | None,
    state: Hidden,
    watch: Watch | None,
) -> tuple[Tensor, Hidden]:
    """One layer in one direction.

    Args:
        module: The recurrent module.
        place: The layer and direction, as in parameter names.
        x: Shape ``(batch, steps, features)``.
        active: Whether each step exists, ``(batch, steps)``; the state waits where it does not.
        state: Where to start.
        watch: Sees the linear maps.

    Returns:
        The outputs, ``(batch, steps, hidden)``, and the last state.
    """

    def linear(kind: str) -> Callable[[Tensor], Tensor]:
        name = f"weight_{kind}_{place}"
        weight, bias = getattr(module, name), getattr(module, f"bias_{kind}_{place}", None)
        tap = None if watch is None else watch(module, name)

        def apply(a: Tensor) -> Tensor:
            z = functional.linear(a, weight, bias)
            return z if tap is None else tap(a, z)

        return apply

    recurrent = linear("hh")
    project = linear("hr") if module.proj_size > 0 else None
    outputs = []
    for step, gates in enumerate(linear("ih")(x).unbind(1)):
        moved = _CELLS[type(module)](module, gates, recurrent(state[0]), state)
        if project is not None:
            moved = (project(moved[0]), *moved[1:])
        if active is not None:
            exists = active[:, step, None]
            moved = tuple(torch.where(exists, *pair) for pair in zip(moved, state, strict=True))
        state = moved
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


def _lstm(module: nn.RNNBase, from_x: Tensor, from_h: Tensor, state: Hidden) -> Hidden:
    i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(module: nn.RNNBase, from_x: Tensor, from_h: Tensor, state: Hidden) -> Hidden:
    r_x, z_x, n_x = from_x.chunk(3, dim=-1)
    r_h, z_h, n_h = from_h.chunk(3, dim=-1)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return (n + z * (state[0] - n),)


def _elman(module: nn.RNNBase, from_x: Tensor, from_h: Tensor, state: Hidden) -> Hidden:
    assert isinstance(module, nn.RNN)
    activation = torch.tanh if module.nonlinearity == "tanh" else torch.relu
    return (activation(from_x + from_h),)


_CELLS: dict[type[nn.RNNBase], Callable[[nn.RNNBase, Tensor, Tensor, Hidden], Hidden]] = {
    nn.LSTM: _lstm,
    nn.GRU: _gru,
    nn.RNN: _elman,
}


def _initial(
    module: nn.RNNBase, x: Tensor, hx: Tensor | Hidden | None, places: int
) -> list[Hidden]:
    """The state in which each layer and direction starts."""
    if hx is not None:
        return list(zip(*((hx,) if isinstance(hx, Tensor) else hx), strict=True))
    widths = [module.proj_size or module.hidden_size]
    if isinstance(module, nn.LSTM):
        widths.append(module.hidden_size)
    return [tuple(x.new_zeros(len(x), width) for width in widths)] * places


def _places(module: nn.RNNBase) -> list[str]:
    """Layers and directions in the order of the module's states, as in parameter names."""
    sides = ["", "_reverse"] if module.bidirectional else [""]
    return [f"l{layer}{side}" for layer in range(module.num_layers) for side in sides]
