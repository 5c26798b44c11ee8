"""Measures of model complexity read off the smoother (MATH section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.probes import LabelDirections


def effective_parameters(S: Tensor, directions: LabelDirections) -> tuple[float, float]:
    r"""Effective parameters on a set of rows (Curth et al. 2023; section 4.1 of the paper).

    :math:`p(I) = \frac{n}{|I|\,k} \sum_{j∈I} \|s(x_j)\|^2`, the norm running over all pairs of an
    output and a label.

    Args:
        S: Smoother rows along the directions, shape ``(rows, k, m)``.
        directions: The label directions.

    Returns:
        The estimate and its standard error over random directions (0 when exact).
    """
    rows, k = S.shape[:2]
    n = directions.basis.shape[0]
    squares = S.double().square().sum(dim=(0, 1)) * (n / (rows * k))
    return directions.sum_with_error(squares)


def effective_parameters_per_example(S: Tensor, directions: LabelDirections) -> Tensor:
    r"""Each row's share ``n/k · ‖s(x_j)‖²``; its mean over a set is the set's effective parameters.

    Args:
        S: Smoother rows along the directions, shape ``(rows, k, m)``.
        directions: The label directions.

    Returns:
        Float64, shape ``(rows,)``.
    """
    n = directions.basis.shape[0]
    squares = S.double().square() @ directions.weights.double()
    return squares.sum(dim=1) * (n / S.shape[1])


def degrees_of_freedom(S_train: Tensor, directions: LabelDirections) -> float:
    r"""``tr S_train``: the generalised degrees of freedom (Ye 1998) of the telescoped fit.

    Args:
        S_train: Smoother of the training rows along the directions, ``(n, k, m)`` with k equal to
            the label width.
        directions: The label directions.
    """
    products = (S_train.double() * directions.basis.double()).sum(dim=(0, 1))
    return directions.sum_with_error(products)[0]


def classical_degrees_of_freedom(S_train: Tensor, directions: LabelDirections) -> float:
    r"""``tr(2S − SSᵀ)``, the residual degrees of freedom subtracted from n (Hastie et al. 2009).

    Args:
        S_train: Smoother of the training rows along the directions, ``(n, k, m)``.
        directions: The label directions.
    """
    products = (S_train.double() * directions.basis.double()).sum(dim=(0, 1))
    squares = torch.as_tensor(S_train).double().square().sum(dim=(0, 1))
    return directions.sum_with_error(2 * products - squares)[0]
