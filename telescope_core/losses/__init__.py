"""The user's loss: its derivatives, and what a label is for it."""

from telescope_core.losses.calls import Loss, check_scalar, leaves_of
from telescope_core.losses.gradient import LossGradient

__all__ = ["Loss", "LossGradient", "check_scalar", "leaves_of"]
