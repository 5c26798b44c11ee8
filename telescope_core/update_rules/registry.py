"""Which update rule belongs to which optimizer."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError, UnsupportedOptimizerError
from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules import adam, adaptive, lion, muon, sgd
from telescope_core.update_rules.base import UpdateRule

_RULES: dict[type[torch.optim.Optimizer], type[UpdateRule]] = {
    torch.optim.SGD: sgd.SGDRule,
    torch.optim.Adam: adam.AdamRule,
    torch.optim.AdamW: adam.AdamRule,
    torch.optim.NAdam: adam.NAdamRule,
    torch.optim.RAdam: adam.RAdamRule,
    torch.optim.RMSprop: adaptive.RMSpropRule,
    torch.optim.Adagrad: adaptive.AdagradRule,
}
if hasattr(torch.optim, "Muon"):
    _RULES[torch.optim.Muon] = muon.MuonRule

# Optimizers of other packages, which need not be installed.
_RULES_BY_NAME: dict[str, type[UpdateRule]] = {"lion_pytorch.lion_pytorch.Lion": lion.LionRule}

_Optimizer = TypeVar("_Optimizer", torch.optim.Optimizer, torch.optim.Optimizer | None)

# Wrappers that hand a step over as it is.
_FRAMEWORKS = {
    "accelerate": "AcceleratedOptimizer",
    "lightning": "LightningOptimizer",
    "pytorch_lightning": "LightningOptimizer",
}


def register_rule(optimizer: type[torch.optim.Optimizer], rule: type[UpdateRule]) -> None:
    """Teach the smoother an optimizer.

    A rule repeats the optimizer's step on columns, its preconditioner held at the value it had.
    What it says is compared with what the optimizer did at every step of a training, as for
    built-in rules; parameters that move otherwise end it with an error that names them.

    Args:
        optimizer: The optimizer class; subclasses need their own entry, since they may change the
            update.
        rule: A subclass of :class:`UpdateRule` whose ``push`` repeats the optimizer's step.

    Raises:
        ConfigurationError: Not two such classes.

    Example:
        >>> class HalfSGD(torch.optim.SGD):
        ...     "Descends at half the rate that it is given."
        >>> class HalfRule(UpdateRule):
        ...     def push(self, gradient, path, skipped):
        ...         for slot, group in self.active(skipped):
        ...             rows = slot.segment.rows
        ...             path[rows].add_(gradient[rows], alpha=-0.5 * group["lr"])
        ...
        ...     def preconditioner(self):
        ...         return None
        >>> register_rule(HalfSGD, HalfRule)
    """
    for given, expected in ((optimizer, torch.optim.Optimizer), (rule, UpdateRule)):
        if not (isinstance(given, type) and issubclass(given, expected)):
            raise ConfigurationError(f"expected a subclass of {expected.__name__}, got {given!r}")
    _RULES[optimizer] = rule


def inner_optimizer(optimizer: _Optimizer) -> _Optimizer:
    """The optimizer that takes the step, inside of a framework's wrapper that only hands over.

    Returns:
        The inner optimizer of Accelerate's and Lightning's wrappers; otherwise the same.
    """
    for kind in type(optimizer).__mro__:
        framework = kind.__module__.partition(".")[0]
        if framework in _FRAMEWORKS and kind.__name__ == _FRAMEWORKS[framework]:
            return cast(_Optimizer, cast(Any, optimizer).optimizer)
    return optimizer


def rule_for(
    optimizer: torch.optim.Optimizer,
    layout: ParameterLayout,
    parameters: dict[str, Tensor],
    columns: int,
    affine_columns: int,
) -> UpdateRule:
    """The update rule of an optimizer.

    Returns:
        The rule, ready to carry ``columns`` columns.

    Raises:
        UnsupportedOptimizerError: No rule is registered for the optimizer's class.
    """
    require_rule(optimizer)
    rule = _known(type(optimizer))
    assert rule is not None
    return rule(optimizer, layout, parameters, columns, affine_columns)


def require_rule(optimizer: object) -> None:
    """Refuse an optimizer without an update rule.

    Raises:
        UnsupportedOptimizerError: No rule is registered for the optimizer's class.
    """
    if _known(type(optimizer)) is not None:
        return
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        wrapper = type(optimizer).__name__
        raise UnsupportedOptimizerError(
            f"{wrapper} wraps a {type(inner).__name__}; the smoother follows the optimizer that "
            f"takes the step: pass the inner optimizer, {wrapper}.optimizer. If the wrapper "
            "changes the step (Lookahead, averaging), use probes=None, or register a rule for it "
            "with telescope_core.update_rules.register_rule"
        )
    by_name = (name.rpartition(".")[2] for name in _RULES_BY_NAME)
    supported = ", ".join(sorted([*(cls.__name__ for cls in _RULES), *by_name]))
    raise UnsupportedOptimizerError(
        f"no update rule is known for {type(optimizer).__name__}; the smoother supports "
        f"{supported}. Use probes=None for predictions with any optimizer, or register a rule with "
        "telescope_core.update_rules.register_rule"
    )


def _known(kind: type) -> type[UpdateRule] | None:
    named = _RULES_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
    return _RULES.get(kind, named)
