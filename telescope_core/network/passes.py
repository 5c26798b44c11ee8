"""Forward passes of training, taken down so that they can be run again.

What a pass in train mode computes depends on more than its inputs: the random streams at its start
(dropout masks, noise), the buffers that it reads (running statistics) and the mode of every module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from telescope_core.network.outputs import Output, selected
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
        outputs: What it returned, flat, ``(rows, k)``, without history.
        cotangent: ``∂(what was backpropagated)/∂outputs``, flat; ``None`` before that.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    streams: Streams
    buffers: dict[str, Tensor]
    modes: dict[nn.Module, bool]
    outputs: Tensor | None = None
    cotangent: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of rows of the outputs."""
        return 0 if self.outputs is None else len(self.outputs)


class PassRecorder:
    """Takes down the passes of a model that training differentiates.

    Args:
        model: The model.
        output: Which of the things that it returns are its outputs.
    """

    def __init__(self, model: nn.Module, output: Output) -> None:
        self._model = model
        self._output = output
        self._begun: Pass | None = None
        self.passes: list[Pass] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take down every pass in here, forgetting earlier ones."""
        self.passes = []
        handles = [
            # Before other hooks, which a second run repeats.
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            self._model.register_forward_hook(self._end),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if in_own_pass() or not torch.is_grad_enabled():
            return
        copied: Callable[[Any], Any] = lambda leaf: (  # noqa: E731
            leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
        )
        self._begun = Pass(
            tree_map(copied, args),
            tree_map(copied, kwargs),
            Streams.now(),
            {name: buffer.detach().clone() for name, buffer in model.named_buffers()},
            {module: module.training for module in model.modules()},
        )

    def _end(self, model: nn.Module, args: Any, returned: Any) -> None:
        begun, self._begun = self._begun, None
        if begun is None or in_own_pass():
            return
        outputs = selected(returned, self._output)
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            return
        begun.outputs = outputs.detach().reshape(len(outputs), -1).clone()

        def take(cotangent: Tensor) -> None:
            flat = cotangent.detach().reshape(len(cotangent), -1)
            begun.cotangent = flat if begun.cotangent is None else begun.cotangent + flat

        outputs.register_hook(take)  # type: ignore[no-untyped-call]
        self.passes.append(begun)
