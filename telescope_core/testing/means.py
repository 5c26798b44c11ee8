"""Degrees of freedom and the hat form of a classifier, with every matrix written out.

Shares nothing with :mod:`telescope_core.losses.response`: the derivative of the means is that of
autograd, one row at a time, and square roots are taken of whole matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Means = Callable[[Tensor], Tensor]
"""The means that the k outputs of one row stand for."""

MEANS: Mapping[str, tuple[Means, Callable[[int], int]]] = {
    "softmax": (lambda f: f.softmax(0), lambda k: k - 1),
    "exp": (lambda f: f.softmax(0), lambda k: k - 1),
    "sigmoid": (torch.sigmoid, lambda k: k),
}
"""By response, the means and their free coordinates; log-probabilities stay normalised."""


def mean_jacobian(response: str, outputs: Tensor) -> Tensor:
    """Return W = ∂π/∂f of all rows, block by block, shape (rows·k, rows·k).

    Args:
        response: A name in ``MEANS``.
        outputs: Shape (rows, k).
    """
    means, _ = MEANS[response]
    jacobian = torch.func.jacrev(means)
    blocks: Tensor = torch.block_diag(*(jacobian(row) for row in outputs))  # type: ignore[no-untyped-call]
    return blocks


def degrees_of_freedom(response: str, outputs: Tensor, smoother: Tensor) -> float:
    """Return tr(W S) on the training set, per free coordinate of a row's means.

    Args:
        response: A name in ``MEANS``.
        outputs: Of the training set, (n, k).
        smoother: S_train, (n, k, n, k) or (n, n).
    """
    n, k = outputs.shape
    S = smoother.reshape(n * k, n * k)
    return float(torch.trace(mean_jacobian(response, outputs) @ S)) / MEANS[response][1](k)


def hat_sensitivity(
    response: str, outputs: Tensor, train_outputs: Tensor, smoother: Tensor
) -> float:
    """Return n/|I| Σ ‖h‖² of H = W^½ S W_train^½, per free coordinate of a row's means."""
    (rows, k), n = outputs.shape, len(train_outputs)
    roots = [_root(mean_jacobian(response, f)) for f in (outputs, train_outputs)]
    H = roots[0] @ smoother.reshape(rows * k, n * k) @ roots[1]
    return n / rows * float((H**2).sum()) / MEANS[response][1](k)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
