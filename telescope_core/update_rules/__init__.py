"""Optimizer updates as linear maps, one file per family.

:func:`register_rule` teaches the smoother an optimizer of one's own.
"""

from telescope_core.update_rules.base import Recursion, Slot, UpdateRule
from telescope_core.update_rules.check import UpdateCheck
from telescope_core.update_rules.registry import (
    inner_optimizer,
    register_rule,
    require_rule,
    rule_for,
)

__all__ = [
    "Recursion",
    "Slot",
    "UpdateCheck",
    "UpdateRule",
    "inner_optimizer",
    "register_rule",
    "require_rule",
    "rule_for",
]
