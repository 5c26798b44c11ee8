"""The straightforward way, as the reference that speeds are measured against.

Per-sample Jacobians of all rows by ``torch.func`` at every step, and a dense ``p × n`` state: what
one writes first from the paper's equations.  First order, every step; squared loss ½(f − y)²
averaged over the batch; one output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Straightforward:
    """Exact smoother of a one-output network by dense linear algebra.

    Args:
        model: Network with outputs of shape ``(rows,)``.
        optimizer: SGD (with momentum) or AdamW over ``model.parameters()``.
        x: All rows, training rows first, shape ``(N, d)``.
        n: Number of training rows.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, n: int
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._x = x
        self._n = n
        p = sum(parameter.numel() for parameter in model.parameters())
        self._A = x.new_zeros(p, n)
        self._M = x.new_zeros(p, n)
        self.S = x.new_zeros(len(x), n)
        self._steps = 0

    def step(self, index: Tensor, y: Tensor) -> None:
        """Train on one batch and follow it."""
        J = self._jacobians()
        residual = self.S[index].clone()
        residual[torch.arange(len(index)), index] -= 1
        G = J[index].T @ (residual / len(index))
        self._optimizer.zero_grad()
        outputs = self._model(self._x[index])
        (0.5 * (outputs - y[index]).square()).mean().backward()
        self._optimizer.step()
        dA = self._push(G)
        self.S += J @ dA
        self._A += dA

    def effective_parameters(self) -> tuple[float, float]:
        """On the training rows and on the others."""
        squares = self.S.square().sum(dim=1)
        return float(squares[: self._n].sum()), float(squares[self._n :].mean() * self._n)

    def _jacobians(self) -> Tensor:
        parameters = {name: p.detach() for name, p in self._model.named_parameters()}

        def output(values: dict[str, Tensor], row: Tensor) -> Tensor:
            return torch.func.functional_call(self._model, values, (row[None],))[0]

        per_sample = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))
        gradients = per_sample(parameters, self._x)
        return torch.cat([g.reshape(len(self._x), -1) for g in gradients.values()], dim=1)

    def _push(self, G: Tensor) -> Tensor:
        self._steps += 1
        group = self._optimizer.param_groups[0]
        if "betas" not in group:
            first = self._steps == 1 or not group["momentum"]
            self._M = G if first else group["momentum"] * self._M + G
            return -group["lr"] * self._M
        beta1, beta2 = group["betas"]
        self._M = beta1 * self._M + (1 - beta1) * G
        v = torch.cat([self._optimizer.state[p]["exp_avg_sq"].flatten() for p in group["params"]])
        phi = (v / (1 - beta2**self._steps)).sqrt() + group["eps"]
        step = self._M / (1 - beta1**self._steps) / phi[:, None]
        return -group["lr"] * (step + group["weight_decay"] * self._A)
