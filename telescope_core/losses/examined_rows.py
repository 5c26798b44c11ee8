"""Which training rows the loss is examined on before training."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_ROWS = 256
_MOST_ENTRIES = 2**17
# A table of first occurrences is kept for class indices in a range up to this.
_MOST_CLASSES = 2**20


def examined_rows(targets: Tensor, outputs_per_row: int) -> Tensor:
    """A bounded number of rows that show the loss every kind of target.

    For class indices the rows hold every value, those out of range (``-100``) first, as far as
    the bound allows; the rest is spread evenly, as for other targets.

    Args:
        targets: All training targets, one row for each.
        outputs_per_row: k, since rows with many outputs are dear.

    Returns:
        Positions, int64, ascending; at most 256, with some 100,000 outputs in all (or two rows).
    """
    n = len(targets)
    count = min(n, _MOST_ROWS, max(2, _MOST_ENTRIES // max(1, outputs_per_row)))
    if targets.is_floating_point() or targets.is_complex():
        return _spread(n, count, targets.device)
    first = _first_rows(targets)
    if len(first) >= count:
        return first[_spread(len(first), count, targets.device)].sort().values
    # Those that have been taken already are made up for by others.
    rest = torch.cat([_spread(n, k, targets.device) for k in (count - len(first), count)])
    chosen = list(dict.fromkeys([*first.tolist(), *rest.tolist()]))[:count]
    return torch.tensor(sorted(chosen), device=targets.device)


def _spread(n: int, count: int, device: torch.device) -> Tensor:
    """``count`` of ``n`` positions, evenly spread, the ends among them."""
    return torch.arange(count, device=device) * (n - 1) // max(1, count - 1)


def _first_rows(targets: Tensor) -> Tensor:
    """The first row with each value, in the order of the values, each row once."""
    least, most = (int(end) for end in targets.long().aminmax())
    if most - least >= _MOST_CLASSES:
        return targets.new_empty(0, dtype=torch.int64)
    n = len(targets)
    value = targets.reshape(n, -1).long() - least
    row = torch.arange(n, device=targets.device)[:, None].expand_as(value)
    first = torch.full((most - least + 1,), n, device=targets.device)
    first.scatter_reduce_(0, value.flatten(), row.flatten(), "amin")
    ordered = first[first < n].tolist()
    return torch.tensor(list(dict.fromkeys(ordered)), device=targets.device, dtype=torch.int64)
