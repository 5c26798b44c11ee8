"""Hooks an optimizer for the duration of one training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.errors import TrainingMismatchError
from telescope_core.network.passes import around_passes, autocast_now


@dataclass(frozen=True)
class Update:
    """What the optimizer is about to do with the gradients.

    Attributes:
        skipped: Names of parameters without a gradient, which torch leaves alone.
        divisor: What a fused optimizer divides the gradients by (the scale of a ``GradScaler``).
        is_void: Whether a fused optimizer will leave everything as it is, since a ``GradScaler``
            found infinities.
        touched: Whether a gradient was written to after backpropagation had made it.
        in_autocast: Whether an autocast is on, which then keeps rounded copies of the weights.
    """

    skipped: frozenset[str]
    divisor: float
    is_void: bool
    touched: bool
    in_autocast: bool


class StepWatch:
    """What a training step did, as far as it can be seen from outside.

    Attributes:
        steps: Calls of ``optimizer.step()`` so far.
        autocast: The autocast that the model's forward ran under, to be entered again.
        autocast_dtype: Its precision; ``None`` without one.
        left_out: Whether the optimizer has moved nothing, since a ``GradScaler`` found infinities.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self.left_out = False
        self.autocast = torch.autocast(device.type, enabled=False)
        self.autocast_dtype: torch.dtype | None = None
        self._seen = False

    def look_at_autocast(self, device: torch.device) -> None:
        """Take over the autocast of the caller, the first time."""
        if not self._seen and not torch.compiler.is_compiling():
            dtype = self.autocast_dtype = autocast_now(device)
            self.autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
            self._seen = True

    def require_one_step(self) -> None:
        """Refuse anything but exactly one step.

        Raises:
            TrainingMismatchError: None, or several.
        """
        if self.steps != 1:
            raise TrainingMismatchError(
                f"optimizer.step() ran {self.steps} times inside lens.step(); expected once: wrap "
                "every optimizer step in a lens.step() of its own, with the batch that made its "
                "gradient"
            )


class _Marks:
    """Which gradient backpropagation has left in each parameter, to see later changes."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._marks: dict[int, tuple[int, int]] = {}
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.handles = [
            parameter.register_post_accumulate_grad_hook(self._mark)  # type: ignore[no-untyped-call]
            for parameter in self._parameters
        ]

    def _mark(self, parameter: Tensor) -> None:
        self._marks[id(parameter)] = _mark_of(parameter.grad)

    def touched(self) -> bool:
        """Whether some gradient is not what was left there."""
        return any(
            _mark_of(p.grad) != self._marks.get(id(p), _mark_of(None)) for p in self._parameters
        )


def _mark_of(gradient: Tensor | None) -> tuple[int, int]:
    return (0, 0) if gradient is None else (id(gradient), gradient._version)


@contextmanager
def watch_step(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    before_update: Callable[[Update], None],
    after_update: Callable[[Update], None],
    *,
    mark_gradients: bool = False,
) -> Iterator[StepWatch]:
    """Call back right before and after the optimizer's step, whatever else the block does.

    A closure given to the step makes the gradients inside it; then "before" is when it returns.

    Args:
        optimizer: The optimizer.
        model: Names the parameters.
        before_update: Called when the gradients are what the optimizer will use.
        after_update: Called when the optimizer's state is what it used.
        mark_gradients: Look whether gradients are written to after backpropagation.

    Yields:
        What is seen of the step, complete once the block has ended.
    """
    named = list(model.named_parameters())
    device = named[0][1].device
    watch = StepWatch(device)
    marks = _Marks([p for _, p in named] if mark_gradients else [])
    seen = Update(frozenset(), 1.0, False, False, False)
    depth = 0  # A step that calls its base class's step is hooked twice.

    def look() -> None:
        nonlocal seen
        skipped = frozenset(name for name, p in named if p.grad is None)
        scale, found = (getattr(optimizer, key, None) for key in ("grad_scale", "found_inf"))
        seen = Update(
            skipped,
            1.0 if scale is None else float(scale),
            found is not None and bool(found),
            marks.touched(),
            autocast_now(device) is not None,
        )
        if watch.steps == 0:
            before_update(seen)

    def before(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        nonlocal depth
        depth += 1
        if depth > 1:
            return None
        # The optimizer itself is the first argument.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            look()
            return None
        watched = _then(closure, look)
        if len(args) > 1:
            return (args[0], watched, *args[2:]), kwargs
        return args, kwargs | {"closure": watched}

    def after(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth > 0:
            return
        watch.steps += 1
        if watch.steps == 1:
            after_update(seen)

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        *around_passes(model, lambda *_: watch.look_at_autocast(device), lambda *_: None),
        *marks.handles,
    ]
    try:
        yield watch
        watch.left_out = seen.is_void or (watch.steps == 0 and _has_infinities(model))
    finally:
        for handle in handles:
            handle.remove()


def _has_infinities(model: nn.Module) -> bool:
    """Whether some gradient is not finite, for which a ``GradScaler`` leaves out the step."""
    gradients = (p.grad for p in model.parameters() if p.grad is not None)
    return any(not bool(torch.isfinite(gradient.sum())) for gradient in gradients)


def _then(closure: Callable[[], Any], look: Callable[[], None]) -> Callable[[], Any]:
    """The closure of a step, followed by a look at the gradients it has made."""
    calls = 0

    def watched() -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise TrainingMismatchError(
                "the optimizer evaluated its closure twice within one step (a line search?); the "
                "lens follows optimizers that do so once: use probes=None"
            )
        value = closure()
        look()
        return value

    return watched
