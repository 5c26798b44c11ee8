"""What SGD, Adam and AdamW do to one parameter, as maps that are linear in the gradient.

Each function is the update of ``torch.optim`` line by line, with columns: ``G`` (size, columns)
stands in for the gradient, ``A`` for the weights, ``M`` for the momentum buffer.  The
preconditioner of Adam is an argument and stays fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer


def sgd_map(
    G: Tensor,
    A: Tensor,
    M: Tensor,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
    first: bool,
) -> tuple[Tensor, Tensor]:
    """Return (ΔA, M) of one SGD step; ``first`` says that no momentum buffer existed before."""
    if maximize:
        G = -G
    G = G + weight_decay * A
    if momentum == 0:
        return -lr * G, M
    M = G if first else momentum * M + (1 - dampening) * G
    if nesterov:
        return -lr * (G + momentum * M), M
    return -lr * M, M


def adam_map(
    G: Tensor,
    A: Tensor,
    M: Tensor,
    *,
    lr: float,
    beta1: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: float,
    preconditioner: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (ΔA, M) of one Adam step, AdamW's if ``decoupled``; the preconditioner is φ_t."""
    if maximize:
        G = -G
    decay = torch.zeros_like(A)
    if decoupled:
        decay = -lr * weight_decay * A
    else:
        G = G + weight_decay * A
    M = beta1 * M + (1 - beta1) * G
    corrected = M / (1 - beta1**step)
    return decay - lr * corrected / preconditioner[:, None], M


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
        options = self.options
        lr = float(options["lr"])
        if isinstance(self.optimizer, SGD):
            return sgd_map(
                G,
                A,
                M,
                lr=lr,
                momentum=options["momentum"],
                dampening=options["dampening"],
                nesterov=options["nesterov"],
                weight_decay=options["weight_decay"],
                maximize=options["maximize"],
                first=not self.had_buffer,
            )
        if isinstance(self.optimizer, Adam):  # AdamW is a subclass
            beta1, beta2 = options["betas"]
            state = self.optimizer.state[self.parameter]
            step = float(state["step"])
            second = state["max_exp_avg_sq"] if options["amsgrad"] else state["exp_avg_sq"]
            phi = (second / (1 - beta2**step)).sqrt() + options["eps"]
            return adam_map(
                G,
                A,
                M,
                lr=lr,
                beta1=beta1,
                weight_decay=options["weight_decay"],
                decoupled=options["decoupled_weight_decay"],
                maximize=options["maximize"],
                step=step,
                preconditioner=phi.reshape(-1),
            )
        raise TypeError(f"no rule for {type(self.optimizer).__name__}")


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
