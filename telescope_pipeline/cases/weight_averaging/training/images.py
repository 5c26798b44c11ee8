"""Random crops and mirror images, decided by a seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, crop: int, flip: bool, seed: int) -> Tensor:
    """Shift every image by up to ``crop`` pixels and mirror half of them.

    The usual augmentation for CIFAR-10 (He et al. 2016, section 4.2, with ``crop=4``).

    Args:
        images: (rows, channels, h, w).
        crop: Pixels of zero padding around the image out of which it is cut; 0 for no shift.
        flip: Whether to mirror left and right with probability one half.
        seed: Decides shifts and mirrors; the same on every device.

    Returns:
        Images of the same shape; the given tensor if nothing is to be done.
    """
    if not crop and not flip:
        return images
    rows, channels, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(2 * crop + 1, (2, rows, 1), generator=generator)
    mirrored = torch.rand(rows, generator=generator) < 0.5
    if crop:
        padded = functional.pad(images, (crop, crop, crop, crop))
        y = (down + torch.arange(height)).to(images.device)
        x = (right + torch.arange(width)).to(images.device)
        row = torch.arange(rows, device=images.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
        images = padded[row, channel, y[:, None, :, None], x[:, None, None, :]]
    if flip:
        images = torch.where(mirrored.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    return images
