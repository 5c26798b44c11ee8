"""Random streams that passes of the lens must not draw from."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_guard = threading.local()


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
        with _streams_put_back():
            yield
    finally:
        _guard.is_up = False


@contextmanager
def _streams_put_back() -> Iterator[None]:
    cpu = torch.get_rng_state()
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else []
    python = random.getstate()
    numpy: Any = sys.modules.get("numpy.random")
    legacy = None if numpy is None else numpy.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        # Setting these two takes longer than looking.
        if random.getstate() != python:
            random.setstate(python)
        if numpy is not None and not _same(numpy.get_state(), legacy):
            numpy.set_state(legacy)


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
