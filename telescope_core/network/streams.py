"""Random streams that passes of the lens must not draw from."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_guard = threading.local()


def in_own_pass() -> bool:
    """Whether the lens itself, and not training, is evaluating the model."""
    return bool(getattr(_guard, "is_up", False))


@contextmanager
def own_streams() -> Iterator[None]:
    """Put back the global random streams (torch on every device in use, Python, NumPy).

    Several passes are best guarded together: inside of another one this does nothing.
    """
    if getattr(_guard, "is_up", False):
        yield
        return
    _guard.is_up = True
    try:
        with kept_streams():
            yield
    finally:
        _guard.is_up = False


@contextmanager
def kept_streams() -> Iterator[None]:
    """Put back the global random streams, for training that the lens rehearses."""
    held = Streams.now()
    try:
        yield
    finally:
        held.put_back()


@dataclass(frozen=True)
class Streams:
    """The state of every global random stream.

    Attributes:
        cpu: torch's on the CPU.
        cuda: torch's on every device in use.
        python: That of :mod:`random`.
        numpy: That of ``numpy.random``; ``None`` where it is not loaded.
    """

    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    python: tuple[Any, ...]
    numpy: tuple[Any, ...] | None

    @classmethod
    def now(cls) -> Streams:
        """The state as it is."""
        used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        numpy: Any = sys.modules.get("numpy.random")
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if used else [],
            random.getstate(),
            None if numpy is None else numpy.get_state(),
        )

    def have_moved(self) -> bool:
        """Whether something was drawn since."""
        now = Streams.now()
        cuda = zip(self.cuda, now.cuda, strict=False)
        return not (
            torch.equal(self.cpu, now.cpu)
            and all(torch.equal(then, there) for then, there in cuda)
            and self.python == now.python
            and (self.numpy is None or _same(now.numpy, self.numpy))
        )

    def put_back(self) -> None:
        """Go on from this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        # Setting these two takes longer than looking.
        if random.getstate() != self.python:
            random.setstate(self.python)
        numpy: Any = sys.modules.get("numpy.random")
        if self.numpy is not None and not _same(numpy.get_state(), self.numpy):
            numpy.set_state(self.numpy)


def _same(now: Any, then: Any) -> bool:
    (_, key, *rest), (_, key_then, *rest_then) = now, then
    return rest == rest_then and bool((key == key_then).all())


def twin_of_generator(value: Any) -> Any:
    """A generator in the same state, if the value is one; the value itself otherwise."""
    if isinstance(value, torch.Generator):
        return value.clone_state()
    numpy: Any = sys.modules.get("numpy.random")
    kinds: tuple[type, ...] = (random.Random,)
    if numpy is not None:
        kinds += (numpy.Generator, numpy.RandomState)
    return copy.deepcopy(value) if isinstance(value, kinds) else value
