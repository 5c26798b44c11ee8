"""The one refusal of work that would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch

from telescope_core.errors import MemoryBudgetError

# Of what is free now; training needs some, too.
_USABLE_SHARE = 0.8


def check_memory(
    needed: int, device: torch.device, what: str, advice: Callable[[int], str]
) -> None:
    """Refuse work that would not fit into memory.

    Args:
        needed: Bytes.
        device: Where.
        what: What asks for them.
        advice: What to do about it, given the bytes that can be used.

    Raises:
        MemoryBudgetError: Naming the bytes needed and available, and what would help.
    """
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = psutil.virtual_memory().available
    usable = int(available * _USABLE_SHARE)
    if needed > usable:
        raise MemoryBudgetError(
            f"{what} needs {needed:,} bytes on {device}, {usable:,} can be used; {advice(usable)}"
        )
