"""Random draws of a pass, kept by the order in which they were made.

A mask is filled in the order of memory, and the derivatives of a pass lay tensors out otherwise
than training did: the same stream would then give another mask.  So the draws are made once, in the
kernels and layouts of training, and used again wherever the pass is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from telescope_core.network import differentiable

_Call = Callable[..., Any]

# As they are when nothing is put in their place.
_DROPOUT = functional.dropout
_ATTENTION = functional.scaled_dot_product_attention
_ATTENTION_OF_TORCH = functional.multi_head_attention_forward

_DROPOUTS = (
    _DROPOUT,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
    torch.alpha_dropout,
    torch.feature_dropout,
    torch.feature_alpha_dropout,
)
# In which every entry is scaled by a drawn slope, or by 1.
_DRAWN_SLOPES = (functional.rrelu, torch.rrelu)
# New tensors whose values do not depend on what they are made from.
_DRAWS = (
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch.bernoulli,
    torch.multinomial,
    torch.poisson,
    Tensor.bernoulli,
    Tensor.multinomial,
)
_FILLS = (
    Tensor.bernoulli_,
    Tensor.uniform_,
    Tensor.normal_,
    Tensor.exponential_,
    Tensor.random_,
    Tensor.log_normal_,
    Tensor.geometric_,
    Tensor.cauchy_,
)


class Tape:
    """The draws of a pass."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._position = 0
        self._is_recording = True

    @contextmanager
    def running(self, *, natively: bool = False) -> Iterator[None]:
        """A run of the pass: the first one draws, later ones take what was drawn.

        Args:
            natively: In the kernels of training, which have not every derivative.
        """
        self._position = 0
        try:
            with _Mode(self, natively):
                yield
        finally:
            self._is_recording = False

    def repeated(self) -> AbstractContextManager[None]:
        """Inside of what this gives, the draws from here on are taken once more."""
        start = len(self._kept) if self._is_recording else self._position

        @contextmanager
        def again() -> Iterator[None]:
            held = self._is_recording, self._position
            self._is_recording, self._position = False, start
            try:
                yield
            finally:
                self._is_recording, self._position = held

        return again()

    def next(self, draw: Callable[[], Any]) -> Any:
        """The next draw."""
        if self._is_recording:
            drawn = draw()
            self._kept.append(drawn)
            return drawn
        self._position += 1
        return self._kept[self._position - 1]


class _Mode(TorchFunctionMode):
    def __init__(self, tape: Tape, natively: bool) -> None:
        super().__init__()
        self._tape = tape
        self._natively = natively

    @override
    def __torch_function__(
        self,
        func: _Call,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func in _DROPOUTS:
            return self._dropout(func, args, options)
        if func in _DRAWN_SLOPES:
            return self._sloped(func, args, options)
        if func in _DRAWS:
            drawn = self._tape.next(lambda: func(*args, **options).detach())
            return _in_precision(drawn, args, options)
        if func in _FILLS:
            return args[0].copy_(self._tape.next(lambda: func(*args, **options).detach().clone()))
        if func is _ATTENTION_OF_TORCH:
            with self._inside_attention():
                return func(*args, **options)
        if func is _ATTENTION:
            return differentiable.attention(*args, **options, dropout=self._dropped)
        if self._natively:
            return func(*args, **options)
        instead = differentiable.INSTEAD.get(func)
        if instead is not None:
            return instead(*args, **options)
        out = options.get("out")
        if isinstance(out, Tensor):
            rest = {name: value for name, value in options.items() if name != "out"}
            return out.copy_(func(*args, **rest))
        return func(*args, **options)

    def _dropout(self, func: _Call, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """Every dropout is affine in its input: its value at 0 and its slope are kept."""
        named = dict(options)
        x: Tensor = args[0] if args else named.pop("input")
        inplace = bool(named.pop("inplace", False))
        rest = args[1:]

        def draw() -> tuple[Tensor, Tensor]:
            like = x.detach()
            stream = torch.get_rng_state()
            at_zero = func(torch.zeros_like(like), *rest, **named)
            torch.set_rng_state(stream)
            return at_zero, func(torch.ones_like(like), *rest, **named) - at_zero

        at_zero, slope = self._tape.next(draw)
        dropped = torch.addcmul(at_zero.to(x), x, slope.to(x))
        return x.copy_(dropped) if inplace else dropped

    def _sloped(self, func: _Call, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        named = dict(options)
        x: Tensor = args[0] if args else named.pop("input")
        inplace = bool(named.pop("inplace", False))

        def draw() -> Tensor:
            like = x.detach()
            return torch.where(like == 0, 1, func(like.clone(), *args[1:], **named) / like)

        sloped = x * self._tape.next(draw).to(x)
        return x.copy_(sloped) if inplace else sloped

    def _dropped(self, x: Tensor, p: float) -> Tensor:
        return self._dropout(_DROPOUT, (x,), {"p": p, "training": True})

    @contextmanager
    def _inside_attention(self) -> Iterator[None]:
        """Functions that torch's own attention calls, where this mode is switched off by torch."""
        names = ("dropout", "scaled_dot_product_attention")
        held = {name: getattr(functional, name) for name in names}

        def bound(call: _Call) -> _Call:
            def instead(*args: Any, **kwargs: Any) -> Any:
                return self.__torch_function__(call, (), args, kwargs)

            return instead

        try:
            for name, call in held.items():
                setattr(functional, name, bound(call))
            yield
        finally:
            for name, call in held.items():
                setattr(functional, name, call)


def _in_precision(drawn: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A draw in the precision that is asked for now, which may be another than when drawn."""
    if not isinstance(drawn, Tensor) or not drawn.is_floating_point():
        return drawn
    like = args[0] if args else None
    dtype = like.dtype if isinstance(like, Tensor) else drawn.dtype
    asked = options.get("dtype") or dtype
    return drawn.to(asked) if asked.is_floating_point else drawn
