"""Memory for the temporaries of products, used again and again.

A fresh array of a few megabytes costs as much to map into memory as to fill.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_buffers = threading.local()


def scratch(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised array, valid until the next call in this thread."""
    held: dict[tuple[torch.dtype, torch.device], Tensor] = _buffers.__dict__.setdefault("held", {})
    key = (like.dtype, like.device)
    size = math.prod(shape)
    buffer = held.get(key)
    if buffer is None or len(buffer) < size:
        buffer = held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
    return buffer[:size].view(shape)
