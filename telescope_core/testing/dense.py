"""Derivatives written out in full: Jacobians row by row, loss derivatives entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, each once, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Evaluate the model without gradients, with one column per output, shape (rows, k)."""
    with torch.no_grad():
        outputs: Tensor = model(inputs)
    return outputs.reshape(len(inputs), -1).clone()


def dense_jacobian(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Differentiate every output of every row with respect to every parameter.

    Args:
        model: The network at its current parameters.
        inputs: The rows, shape (rows, ...).

    Returns:
        For each parameter name a matrix of shape (rows·k, size), the row of output j of input i
        being i·k + j.
    """
    parameters = trained_parameters(model)
    jacobian: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for row in range(len(inputs)):
        outputs = model(inputs[row : row + 1]).reshape(-1)
        for output in outputs:
            gradients = torch.autograd.grad(
                output, list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                full = torch.zeros_like(parameter) if gradient is None else gradient
                jacobian[name].append(full.detach().reshape(-1))
    return {name: torch.stack(rows) for name, rows in jacobian.items()}


def product(jacobian: dict[str, Tensor], directions: dict[str, Tensor]) -> Tensor:
    """Return J·D = Σ over parameters of J_θ D_θ, shape (rows·k, columns)."""
    return torch.stack([jacobian[name] @ directions[name] for name in jacobian]).sum(dim=0)


def mean(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ½(J + J'), by parameter."""
    return {name: (first[name] + second[name]) / 2 for name in first}


def label_directions(targets: Tensor, outputs_per_row: int) -> Tensor:
    """Return the targets as real numbers, shape (n, k): class indices become one-hot rows."""
    if targets.dtype.is_floating_point:
        return targets.reshape(len(targets), -1)
    one_hot = nn.functional.one_hot(targets, outputs_per_row)
    return one_hot.to(torch.get_default_dtype())


def loss_derivatives(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate the loss gradient g = ∂loss/∂f, one entry at a time.

    Args:
        loss: The training loss.
        outputs: The network's real outputs f(X_B), in the shape the loss is called with.
        targets: The real targets Y_B, in the shape the loss is called with; class indices are
            replaced by one-hot rows, which the loss must accept as probabilities.

    Returns:
        ``(g, ∂g/∂f, ∂g/∂Y)`` of shapes (rows·k,), (rows·k, rows·k) and (rows·k, rows·k).

    Raises:
        ValueError: If one-hot targets do not give the gradient that the class indices give.
    """
    f = outputs.detach().clone().requires_grad_()
    y = targets.detach().clone()
    if not y.dtype.is_floating_point:
        y = nn.functional.one_hot(y, f.shape[-1]).to(f.dtype)
        (by_index,) = torch.autograd.grad(loss(f, targets), f)
        (by_row,) = torch.autograd.grad(loss(f, y), f)
        if not torch.allclose(by_index, by_row, rtol=1e-12, atol=1e-12):
            raise ValueError("the loss treats one-hot rows and class indices differently")
    y.requires_grad_()
    (g,) = torch.autograd.grad(loss(f, y), f, create_graph=True)
    along_f, along_y = [], []
    for entry in g.reshape(-1):
        if entry.requires_grad:
            df, dy = torch.autograd.grad(entry, (f, y), retain_graph=True, allow_unused=True)
        else:
            df, dy = None, None
        along_f.append(torch.zeros_like(f).reshape(-1) if df is None else df.reshape(-1))
        along_y.append(torch.zeros_like(y).reshape(-1) if dy is None else dy.reshape(-1))
    return g.detach().reshape(-1), torch.stack(along_f), torch.stack(along_y)
