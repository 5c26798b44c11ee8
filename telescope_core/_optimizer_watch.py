"""Hooks an optimizer for the duration of one training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from telescope_core.errors import TrainingMismatchError


class StepWatch:
    """What a training step did, as far as it can be seen from outside.

    Attributes:
        steps: Calls of ``optimizer.step()`` so far.
        autocast: The autocast that the model's forward ran under, to be entered again.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self.autocast = torch.autocast(device.type, enabled=False)
        self._seen = False

    def look_at_autocast(self, device: torch.device) -> None:
        """Take over the autocast of the caller, the first time."""
        if not self._seen:
            dtype = torch.get_autocast_dtype(device.type)
            enabled = torch.is_autocast_enabled(device.type)
            self.autocast = torch.autocast(device.type, dtype=dtype, enabled=enabled)
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


@contextmanager
def watch_step(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    before_update: Callable[[], None],
    after_update: Callable[[frozenset[str]], None],
) -> Iterator[StepWatch]:
    """Call back right before and after the optimizer's step, whatever else the block does.

    A closure given to the step makes the gradients inside it; then "before" is when it returns.

    Args:
        optimizer: The optimizer.
        model: Names the parameters.
        before_update: Called when the gradients are what the optimizer will use.
        after_update: Called when the optimizer's state is what it used; receives the names of
            parameters without a gradient, which torch skips.

    Yields:
        What was seen.
    """
    named = list(model.named_parameters())
    device = named[0][1].device
    watch = StepWatch(device)
    skipped: frozenset[str] = frozenset()
    depth = 0  # A step that calls its base class's step is hooked twice.

    def look() -> None:
        nonlocal skipped
        skipped = frozenset(name for name, p in named if p.grad is None)
        if watch.steps == 0:
            before_update()

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
            after_update(skipped)

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        model.register_forward_pre_hook(lambda *_: watch.look_at_autocast(device)),
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


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
