"""The user's loss: its derivatives, and what a label is for it."""

from __future__ import annotations

from telescope_core.losses.gradient import LossGradient, check_scalar, leaves_of
from telescope_core.losses.labels import Loss

__all__ = ["Loss", "LossGradient", "check_scalar", "leaves_of"]
