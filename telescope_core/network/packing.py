"""Packed sequences by indexing: torch's own kernels for them have no forward derivative."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def entries_of(batch_sizes: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sequence, in the packed order, and step of every entry of packed data.

    Args:
        batch_sizes: How many sequences have each step, falling.
        device: Of the data.

    Returns:
        Two vectors as long as the data.
    """
    sizes = batch_sizes.tolist()
    sequences = torch.cat([torch.arange(size, device=device) for size in sizes])
    steps = torch.cat([torch.full((size,), t, device=device) for t, size in enumerate(sizes)])
    return sequences, steps


def pack_padded(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """``torch._VF._pack_padded_sequence``: data and batch sizes of sorted sequences."""
    x = input if batch_first else input.transpose(0, 1)
    lengths = lengths.cpu()
    batch_sizes = (lengths[None] > torch.arange(int(lengths[0]))[:, None]).sum(dim=1)
    return x[entries_of(batch_sizes, x.device)], batch_sizes


def pad_packed(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """``torch._VF._pad_packed_sequence``: padded sequences and their lengths."""
    sequences, steps = entries_of(batch_sizes, data.device)
    count, longest = int(batch_sizes[0]), len(batch_sizes)
    padded = data.new_full((count, longest, *data.shape[1:]), padding)
    padded = padded.index_put((sequences, steps), data)
    if total_length > longest:
        sides = [0, 0] * (data.ndim - 1) + [0, total_length - longest]
        padded = functional.pad(padded, sides, value=padding)
    lengths = (batch_sizes[:, None] > torch.arange(count)).sum(dim=0)
    return padded if batch_first else padded.transpose(0, 1), lengths
