"""Whether the parameters move by the optimizer's rule, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError, listed
from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules.base import UpdateRule

_ROUNDINGS = 16.0
# Of the layout's precision; what differs by no more needs no closer look.
_FEW_ROUNDINGS = 4.0


class UpdateCheck:
    """Pushes the real gradient and θ through the rule, as one more column, at every step.

    What the smoother believes about the optimizer is so compared with what the optimizer did: a
    clamp in a hook of the step, a norm constraint after it or a step that unscales its gradients
    itself would otherwise move θ, but not its derivatives.
    """

    def __init__(
        self,
        make_rule: Callable[[int, int], UpdateRule],
        layout: ParameterLayout,
        parameters: Mapping[str, Tensor],
        theta: Tensor,
    ) -> None:
        # Made when it is needed: its buffers start at the optimizer's of that moment.
        self._make_rule = make_rule
        self._rule: UpdateRule | None = None
        self._plain = make_rule(0, 0)
        self._layout = layout
        self._parameters = {name: parameters[name] for name in layout.by_name}
        views = layout.unflatten(theta)
        self._held = {n: views[n].to(p).contiguous().clone() for n, p in self._parameters.items()}
        self._flat: Tensor | None = None
        self._gradient: Tensor | None = None

    def require_unmoved(self, moment: str) -> None:
        """Refuse parameters that are not where the last step left them.

        Raises:
            TrainingMismatchError: Naming those that moved.
        """
        moved = [n for n, p in self._parameters.items() if not torch.equal(p, self._held[n])]
        if moved:
            raise TrainingMismatchError(
                f"{listed(moved)} moved outside of the optimizer's step (seen {moment}): a norm "
                "constraint, a projection, loaded or averaged weights? The smoother follows the "
                "optimizer alone; put the change into an optimizer with a rule of its own "
                "(telescope_core.update_rules.register_rule), or use probes=None"
            )

    def before_update(self, gradient: Callable[[], Tensor]) -> None:
        """Look at what the optimizer is about to do.

        Args:
            gradient: Gives the gradient it will use, shape ``(p,)``; not asked for plain descent.
        """
        self._gradient = None
        if self._plain.is_plain:
            return
        self._gradient = gradient()
        if self._rule is None:
            self._rule = self._make_rule(1, 1)
        self._rule.before_update()

    def after_update(self, skipped: frozenset[str], pushed: UpdateRule | None = None) -> None:
        """Compare where the parameters are now with where the rule puts them.

        Raises:
            TrainingMismatchError: Naming the parameters that moved otherwise.
        """
        if self._gradient is None:
            wrong = self._wrong_in_plain_descent(skipped)
        else:
            if pushed is not None and self._rule is not None:
                self._rule.borrow(pushed)
            wrong = self._wrong_by_rule(self._gradient, skipped)
        if wrong:
            optimizer = type(self._plain.optimizer).__name__
            raise TrainingMismatchError(
                f"{listed(wrong)} did not move by {optimizer}'s update of the gradient (a clamp "
                "or a constraint in a hook of the step, gradients changed inside it?); the "
                "smoother follows the optimizer alone: register a rule for what is done "
                "(telescope_core.update_rules.register_rule), or use probes=None"
            )

    def _wrong_in_plain_descent(self, skipped: frozenset[str]) -> list[str]:
        """Repeat ``θ − γ G`` on what is held, in the parameters' own precision and layout."""
        self._flat = None
        rate = self._plain.learning_rate
        wrong = []
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                held, gradient = self._held[name], parameter.grad
                if name not in skipped and gradient is not None:
                    held.add_(gradient.to_dense() if gradient.is_sparse else gradient, alpha=-rate)
                if torch.equal(held, parameter):
                    continue
                step = torch.zeros_like(held) if gradient is None else rate * gradient.to_dense()
                if self._differs(held, parameter, step):
                    wrong.append(name)
                held.copy_(parameter)
        return wrong

    def _wrong_by_rule(self, gradient: Tensor, skipped: frozenset[str]) -> list[str]:
        assert self._rule is not None
        path = self._flat if self._flat is not None else self._layout.flatten(self._held)
        # Both are overwritten: nobody looks at them after the step.
        self._rule.push(gradient[:, None], path[:, None], skipped)
        theta = self._layout.flatten(self._parameters)
        sizes = [segment.size for segment in self._layout.segments]
        gaps, largest = (
            torch.stack([part.abs().max() if len(part) else part.sum() for part in parts])
            for parts in (torch.split(path - theta, sizes), torch.split(theta, sizes))
        )
        suspects = (gaps > _FEW_ROUNDINGS * torch.finfo(theta.dtype).eps * largest).tolist()
        wrong = []
        for segment, is_suspect in zip(self._layout.segments, suspects, strict=True):
            if is_suspect:
                parameter, rows = self._parameters[segment.name], segment.rows
                start = self._layout.rows_of(segment, self._held[segment.name])
                if self._differs(path[rows], theta[rows], theta[rows] - start, parameter):
                    wrong.append(segment.name)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._held[name].copy_(parameter)
        self._flat = theta
        return wrong

    @staticmethod
    def _differs(
        expected: Tensor, actual: Tensor, step: Tensor, parameter: Tensor | None = None
    ) -> bool:
        """Whether a parameter is elsewhere than expected by more than roundings of it."""
        if not actual.numel():
            return False
        eps = torch.finfo((actual if parameter is None else parameter).dtype).eps
        # As a whole, since single entries may round otherwise.  Options may be given in single
        # precision.  NaN and infinity are the network's outputs' to report.
        gap = float((expected - actual).abs().nan_to_num(0.0, 0.0).max())
        allowed = max(eps**0.5, 1e-6) * float(step.abs().nan_to_num().max())
        roundings = _ROUNDINGS * eps * float(actual.abs().nan_to_num().max())
        return bool(gap > allowed + roundings)
