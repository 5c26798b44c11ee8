"""Forward passes of training, taken down so that they can be run again.

What a pass in train mode computes depends on more than its inputs: the random streams at its start
(dropout masks, noise), the buffers that it reads (running statistics) and the mode of every module.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from telescope_core.network.inputs import Rows, call_arguments, rebuilt
from telescope_core.network.outputs import Output, selected
from telescope_core.network.replicas import Replicas
from telescope_core.network.streams import Streams, in_own_pass


@dataclass
class Pass:
    """One forward pass of training.

    Attributes:
        args: Positional arguments, detached copies.
        kwargs: Keyword arguments, detached copies.
        streams: The random streams when it began.
        buffers: Every buffer when it began, by name; copies.
        modes: The mode of every module.
        autocast: The precision of an autocast around it; ``None`` without one.
        outputs: What it returned, flat, ``(rows, k)``, without history.
        cotangent: ``∂(what was backpropagated)/∂outputs``, flat; ``None`` before that, and where
            what was backpropagated was thrown away.
        has_moved_buffers: Whether buffers are others since.
        shares_buffers: Whether it began with the buffers of the first of several processes.
        is_given_back: Whether an input is what the pass before returned: a state that is carried.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    streams: Streams
    buffers: dict[str, Tensor]
    modes: dict[nn.Module, bool]
    autocast: torch.dtype | None = None
    outputs: Tensor | None = None
    cotangent: Tensor | None = None
    has_moved_buffers: bool = False
    shares_buffers: bool = False
    is_given_back: bool = False

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that the model was given."""
        flat, _ = tree_flatten((self.args, self.kwargs))
        return [leaf for leaf in flat if isinstance(leaf, Tensor)]

    @property
    def rows(self) -> int:
        """Number of rows of the outputs."""
        return 0 if self.outputs is None else len(self.outputs)


def autocast_now(device: torch.device) -> torch.dtype | None:
    """The precision of the autocast that is on, for a device; ``None`` without one."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


class _AroundCompiled:
    """What hooks would do, around a model that was compiled in place: hooks would be traced."""

    def __init__(self, model: nn.Module, before: Callable[..., Any], after: Callable[..., Any]):
        self._model = model
        self._before, self._after = before, after
        self._inner: Any = model._compiled_call_impl
        model._compiled_call_impl = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._before(self._model, args, kwargs)
        returned = self._inner(*args, **kwargs)
        self._after(self._model, args, returned)
        return returned

    def remove(self) -> None:
        """Take it off, also below others that came later."""
        above: Any = self._model._compiled_call_impl
        if above is self:
            self._model._compiled_call_impl = self._inner
        while isinstance(above, _AroundCompiled):
            if above._inner is self:
                above._inner = self._inner
            above = above._inner


def around_passes(
    model: nn.Module, before: Callable[..., Any], after: Callable[..., Any]
) -> list[Any]:
    """Call back around every pass of a model that ``torch.compile`` does not trace.

    Args:
        model: The model; it may be what ``torch.compile`` returned, or compiled in place.
        before: Called with model, arguments and keyword arguments, before all other hooks.
        after: Called with model, arguments and what was returned.

    Returns:
        Handles with ``remove()``.
    """
    if model._compiled_call_impl is not None:
        return [_AroundCompiled(model, before, after)]
    return [
        model.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        model.register_forward_hook(after),
    ]


class PassRecorder:
    """Takes down the passes of a model that training makes, from one step to the next.

    With an optimizer it listens all the time, since a loop may run passes before a step of the lens
    begins; without one only where it is told to.  A pass counts if something was backpropagated
    through its outputs, or if it has moved buffers (also without gradients, or where these were
    thrown away).

    Args:
        model: The model; copies and pickles of it are not listened to.
        output: Which of the things that it returns are its outputs.
        optimizer: After its step there are no passes any more; ``None`` to listen within
            :meth:`listening` only, and leave no hooks behind.
        replicas: Other processes that train the same model.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Output,
        optimizer: torch.optim.Optimizer | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        self.model = model
        self._replicas = replicas
        self._output = output
        self._begun: tuple[Pass, list[Any]] | None = None
        self._count = 0
        self._returned: list[Tensor] = []
        self._passes: dict[int, Pass] = {}
        self._handles: list[Any] = []
        self._is_always_on = optimizer is not None
        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(_Hook(self, "forget")))
            self._listen()
        weakref.finalize(self, _remove, self._handles)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take down the passes in here, if it does not listen all the time."""
        if self._is_always_on:
            yield
            return
        self._passes.clear()
        self._listen()
        try:
            yield
        finally:
            _remove(self._handles)

    @property
    def passes(self) -> list[Pass]:
        """The passes since the last step, in the order of training."""
        return [self._passes[number] for number in sorted(self._passes)]

    @property
    def differentiated(self) -> list[Pass]:
        """Those through which something was backpropagated."""
        return [made for made in self.passes if made.cotangent is not None]

    def moved_buffers(self) -> list[str]:
        """Names of the buffers that are others than when the first pass began."""
        first = next(iter(self.passes), None)
        then = {} if first is None else first.buffers
        now = dict(self.model.named_buffers())
        return [name for name, held in then.items() if not torch.equal(held, now[name])]

    def forget(self, *_: Any) -> None:
        """Begin anew after a step."""
        self._passes.clear()
        # Once more the first before the pass and the last after it.
        _remove(self._handles, keep=1)
        self._listen()

    def discard_gradients(self) -> None:
        """Take note that what was backpropagated so far leads to no step."""
        for number, made in tuple(self._passes.items()):
            made.cotangent = None
            if not made.has_moved_buffers:
                del self._passes[number]

    def _listen(self) -> None:
        # Before other hooks, which a second run repeats.
        self._handles += around_passes(self.model, _Hook(self, "begin"), _Hook(self, "end"))

    def begin(self, args: Any, kwargs: Any) -> None:
        """Take down what a pass starts from."""
        modes = {module: module.training for module in self.model.modules()}
        if in_own_pass() or not (torch.is_grad_enabled() or any(modes.values())):
            return
        if self._passes and all(p.grad is None for p in self.model.parameters()):
            self.discard_gradients()
        copied: Callable[[Any], Any] = lambda leaf: (  # noqa: E731
            leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
        )
        begun = Pass(
            tree_map(copied, args),
            tree_map(copied, kwargs),
            Streams.now(),
            {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()},
            modes,
            autocast_now(next(self.model.parameters()).device),
            shares_buffers=self._replicas is not None and self._replicas.shares_buffers(),
            is_given_back=bool(_places(self._returned) & _places(_floats_in((args, kwargs)))),
        )
        self._begun = begun, self._marks()

    def end(self, args: Any, returned: Any) -> None:
        """Take down what a pass came to, and wait for what is backpropagated through it."""
        taken, self._begun = self._begun, None
        if taken is None or in_own_pass():
            return
        outputs = selected(returned, self._output)
        if not isinstance(outputs, Tensor):
            return
        begun, marks = taken
        # Held until the next pass, so that their memory is nobody else's.
        self._returned = [leaf.detach() for leaf in _floats_in(returned)]
        begun.outputs = outputs.detach().reshape(len(outputs), -1).clone()
        begun.has_moved_buffers = marks != self._marks()
        self._count += 1
        number = self._count
        if begun.has_moved_buffers:
            self._passes[number] = begun

        def take(cotangent: Tensor) -> None:
            flat = cotangent.detach().reshape(len(cotangent), -1)
            begun.cotangent = flat if begun.cotangent is None else begun.cotangent + flat
            self._passes[number] = begun

        if outputs.requires_grad:
            _on_gradient(outputs, take, through_casts=begun.autocast is not None)

    def _marks(self) -> list[tuple[int, int]]:
        """What changes when a buffer is written to or replaced."""
        return [(id(buffer), buffer._version) for buffer in self.model.buffers()]


def _floats_in(tree: Any) -> list[Tensor]:
    every = (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))
    return [t for t in every if t.is_floating_point() and t.layout is torch.strided and t.numel()]


def _places(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class _Hook:
    """Tells a recorder, as long as there is one, of a module that is its model.

    A copy of a hooked model, or a pickle of it, has a hook that does nothing.
    """

    def __init__(self, recorder: PassRecorder | None, act: str) -> None:
        self._recorder: Callable[[], PassRecorder | None]
        self._recorder = (lambda: None) if recorder is None else weakref.ref(recorder)
        self._act = act

    def __call__(self, caller: Any, *given: Any) -> None:
        if torch.compiler.is_compiling():
            return
        recorder = self._recorder()
        if recorder is not None and (self._act == "forget" or caller is recorder.model):
            getattr(recorder, self._act)(*given)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None, str]]:
        return _Hook, (None, self._act)


def _on_gradient(outputs: Tensor, take: Callable[[Tensor], None], *, through_casts: bool) -> None:
    """Call with the gradient of some outputs once it is known.

    A framework may convert what a model returns to another precision, after the model's own loss
    has used it: then the gradient is that of what was converted.
    """
    node: Any = outputs.grad_fn
    if not through_casts or node is None or node.name() != "ToCopyBackward0":
        outputs.register_hook(take)  # type: ignore[no-untyped-call]
        return
    number = 0
    while node.name() == "ToCopyBackward0":
        node, number = node.next_functions[0]

    def look(gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[number]
        if gradient is not None:
            take(gradient.reshape(outputs.shape))

    node.register_prehook(look)


def _remove(handles: list[Any], keep: int = 0) -> None:
    """Take hooks off again."""
    while len(handles) > keep:
        handles.pop().remove()


def seen_in_place_of(stored: Rows, model: nn.Module, passes: Sequence[Pass]) -> Rows | None:
    """What a model saw in passes over some rows, where that differs from these.

    Args:
        stored: The rows.
        model: The model.
        passes: Its passes, over as many rows in the same order.

    Returns:
        The rows as they were seen; ``None`` if they are the same, or of another kind (which the
        comparison of gradients judges).
    """
    expected, form = tree_flatten(call_arguments(model, stored))
    flat = [tree_flatten((made.args, made.kwargs)) for made in passes]
    if not flat or any(structure != form for _, structure in flat):
        return None
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    if not all(
        _is_alike(part, leaf)
        for parts, leaf in zip(columns, expected, strict=True)
        for part in parts
    ):
        return None
    seen = [torch.cat(parts) for parts in columns]
    if any(a.shape != b.shape for a, b in zip(seen, expected, strict=True)):
        return None
    return None if all(map(torch.equal, seen, expected)) else rebuilt(stored, seen)


def _is_alike(part: object, leaf: Tensor) -> bool:
    """Whether something that a model was given is rows like these."""
    return (
        isinstance(part, Tensor)
        and (part.dtype, part.device) == (leaf.dtype, leaf.device)
        and part.ndim > 0
        and part.shape[1:] == leaf.shape[1:]
    )
