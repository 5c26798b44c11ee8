"""The user's loss: its derivatives, and what a label is for it."""

from telescope_core.losses.calls import Loss, check_scalar, leaves_of
from telescope_core.losses.gradient import LossGradient
from telescope_core.losses.own import resolved
from telescope_core.losses.response import Kind, Response, ResponseSetting

__all__ = [
    "Kind",
    "Loss",
    "LossGradient",
    "Response",
    "ResponseSetting",
    "check_scalar",
    "leaves_of",
    "resolved",
]
