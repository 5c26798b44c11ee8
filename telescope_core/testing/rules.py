"""What SGD, Adam and AdamW do to one parameter, as maps that are linear in the gradient.

Each map is the update of ``torch.optim`` line by line, with columns: ``G`` (size, columns) stands
in for the gradient, ``A`` for the weights, ``M`` for the momentum buffer.  The preconditioner of
Adam is read after the step and stays fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer


@dataclass(frozen=True)
class ObservedUpdate:
    """The options one parameter was really updated with, read at the optimizer's own step."""

    optimizer: Optimizer
    parameter: nn.Parameter
    options: dict[str, Any]
    had_buffer: bool

    def push(self, G: Tensor, A: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        """Push a gradient derivative through the update; call after the optimizer's step.

        Args:
            G: Derivative of the gradient, (size, columns).
            A: Derivative of the parameter before the step, (size, columns).
            M: Derivative of the momentum buffer before the step, (size, columns).

        Returns:
            ΔA and the new M.

        Raises:
            TypeError: If the optimizer is neither SGD, Adam nor AdamW.
        """
        if isinstance(self.optimizer, SGD):
            return self._sgd(G, A, M)
        if isinstance(self.optimizer, Adam):  # AdamW is a subclass
            return self._adam(G, A, M)
        raise TypeError(f"no rule for {type(self.optimizer).__name__}")

    def _sgd(self, G: Tensor, A: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        o, lr = self.options, float(self.options["lr"])
        if o["maximize"]:
            G = -G
        G = G + o["weight_decay"] * A
        if o["momentum"] == 0:
            return -lr * G, M
        M = o["momentum"] * M + (1 - o["dampening"]) * G if self.had_buffer else G
        return -lr * (G + o["momentum"] * M if o["nesterov"] else M), M

    def _adam(self, G: Tensor, A: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        o, lr = self.options, float(self.options["lr"])
        (beta1, beta2), state = o["betas"], self.optimizer.state[self.parameter]
        step = float(state["step"])
        second = state["max_exp_avg_sq"] if o["amsgrad"] else state["exp_avg_sq"]
        preconditioner = (second / (1 - beta2**step)).sqrt() + o["eps"]
        if o["maximize"]:
            G = -G
        decay = torch.zeros_like(A)
        if o["decoupled_weight_decay"]:
            decay = -lr * o["weight_decay"] * A
        else:
            G = G + o["weight_decay"] * A
        M = beta1 * M + (1 - beta1) * G
        corrected = M / (1 - beta1**step)
        return decay - lr * corrected / preconditioner.reshape(-1)[:, None], M


def observe(optimizer: Optimizer) -> dict[nn.Parameter, ObservedUpdate]:
    """Read what the optimizer is about to do; parameters without a gradient are left out."""
    return {
        parameter: ObservedUpdate(
            optimizer,
            parameter,
            {key: value for key, value in group.items() if key != "params"},
            actual_buffer(optimizer, parameter) is not None,
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    }


def actual_buffer(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """Return the optimizer's first-moment buffer of a parameter, if it has one by now."""
    state = optimizer.state.get(parameter, {})
    buffer = state.get("momentum_buffer", state.get("exp_avg"))
    assert buffer is None or isinstance(buffer, Tensor)
    return buffer
