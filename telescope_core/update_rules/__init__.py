"""Optimizer updates as linear maps, one file per family."""

from telescope_core.update_rules.base import Slot, UpdateRule
from telescope_core.update_rules.registry import register_rule, require_rule, rule_for

__all__ = ["Slot", "UpdateRule", "register_rule", "require_rule", "rule_for"]
