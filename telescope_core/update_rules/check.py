"""Whether the parameters move by the optimizer's rule, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError, listed
from telescope_core.layout import ParameterLayout
from telescope_core.update_rules.base import UpdateRule

_ROUNDINGS = 16.0


class UpdateCheck:
    """Pushes the real gradient and θ through the rule, as one more column, at every step.

    What the smoother believes about the optimizer is so compared with what the optimizer did: a
    clamp in a hook of the step, a norm constraint after it or a step that unscales its gradients
    itself would otherwise move θ, but not its derivatives.

    Args:
        make_rule: Builds the optimizer's rule for a number of columns, the last so many of which
            follow the parameters themselves.
        layout: Order of the parameters.
        theta: θ now, shape ``(p,)``; not copied.
        precision: Dtype of the model's parameters.
    """

    def __init__(
        self,
        make_rule: Callable[[int, int], UpdateRule],
        layout: ParameterLayout,
        theta: Tensor,
        precision: torch.dtype,
    ) -> None:
        # Made when it is needed: its buffers start at the optimizer's of that moment.
        self._make_rule = make_rule
        self._rule: UpdateRule | None = None
        self._layout = layout
        self._eps = torch.finfo(precision).eps
        # Options may be given in single precision.
        self._tolerance = max(self._eps**0.5, 1e-6)
        self._theta = theta
        self._gradient = theta

    def require_unmoved(self, theta: Tensor, moment: str) -> None:
        """Refuse parameters that are not where the last step left them.

        Args:
            theta: θ as it is now, shape ``(p,)``.
            moment: When they are looked at, for the message.

        Raises:
            TrainingMismatchError: Naming those that moved.
        """
        if torch.equal(theta, self._theta):
            return
        moved = [s.name for s in self._layout.segments if not self._is_same(theta, s.rows)]
        raise TrainingMismatchError(
            f"{listed(moved)} moved outside of the optimizer's step (seen {moment}): a norm "
            "constraint, a projection, loaded or averaged weights? The smoother follows the "
            "optimizer alone; put the change into an optimizer with a rule of its own "
            "(telescope_core.update_rules.register_rule), or use probes=None"
        )

    def before_update(self, gradient: Tensor) -> None:
        """Take in the gradient that the optimizer is about to use, shape ``(p,)``; kept."""
        self._gradient = gradient
        if self._rule is None:
            self._rule = self._make_rule(1, 1)
        self._rule.before_update()

    def after_update(self, theta: Tensor, skipped: frozenset[str]) -> None:
        """Compare where the parameters are now with where the rule puts them.

        Args:
            theta: ``θ_t``, shape ``(p,)``; not copied.
            skipped: Parameters without a gradient.

        Raises:
            TrainingMismatchError: Naming the parameters that moved otherwise.
        """
        assert self._rule is not None
        path = self._theta[:, None].clone()
        self._rule.push(self._gradient[:, None].clone(), path, skipped)
        # NaN and infinity are the network's outputs' to report.
        gap = (path[:, 0] - theta).abs_().nan_to_num_()
        # One look at all parameters is enough as long as it is fine.
        step = (theta - self._theta).abs_()
        allowed = step.mul_(self._tolerance).add_(theta.abs(), alpha=_ROUNDINGS * self._eps)
        wrong = []
        if bool((gap > allowed).any()):
            wrong = [s.name for s in self._layout.segments if self._differs(gap, allowed, s.rows)]
        self._theta = theta
        if wrong:
            optimizer = type(self._rule.optimizer).__name__
            raise TrainingMismatchError(
                f"{listed(wrong)} did not move by {optimizer}'s update of the gradient (a clamp "
                "or a constraint in a hook of the step, gradients changed inside it?); the "
                "smoother follows the optimizer alone: register a rule for what is done "
                "(telescope_core.update_rules.register_rule), or use probes=None"
            )

    def _is_same(self, theta: Tensor, rows: slice) -> bool:
        return torch.equal(theta[rows], self._theta[rows])

    @staticmethod
    def _differs(gap: Tensor, allowed: Tensor, rows: slice) -> bool:
        # A parameter as a whole: single entries may round otherwise.
        return bool(gap[rows].max() > allowed[rows].max()) if gap[rows].numel() else False
