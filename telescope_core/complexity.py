"""Measures of model complexity read off the smoother (docs/mathematics.md, section 5).

Computed in float64 on the CPU, since not every device has it.

Each is a sum over a complete basis of label space.  Deflated columns enter as they are, random ones
stand for the rest with their weight.  Where a low-rank model Ŝ of the smoother is at hand, random
columns estimate only the difference to it (a control variate): its own sum is known.

Throughout, S are smoother rows along the label directions, and ``model`` is Ŝ on the same rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from telescope_core.losses import Response
from telescope_core.probes import Directions, LabelDirections
from telescope_core.smoother.low_rank import Control, LowRankSmoother

if TYPE_CHECKING:
    from jaxtyping import Float


def effective_parameters(
    S: Float[Tensor, "rows k m"], directions: Directions, model: LowRankSmoother | None = None
) -> tuple[float, float]:
    r"""Effective parameters on a set of rows (Curth et al. 2023; section 4.1 of the paper).

    :math:`p(I) = \frac{n}{|I|\,k} \sum_{j∈I} \|s(x_j)\|^2`, the norm running over all pairs of an
    output and a label.

    Returns:
        The estimate and its standard error over random directions (0 when exact).
    """
    rows, k = S.shape[:2]
    factor = directions.n / (rows * k)
    squares = S.cpu().double().square().sum(dim=(0, 1))
    total, error = _sum_with_error(squares, directions, _control_of_set(S, directions, model))
    return factor * total, factor * error


def layer_shares(
    S: Float[Tensor, "layers rows k m"], directions: Directions
) -> Float[Tensor, " layers"]:
    r"""How the squared norm of the smoother splits over layers that add up to it.

    With :math:`S = \sum_l S^l`, layer l has the share
    :math:`\sum_j ⟨s^l(x_j), s(x_j)⟩ / \sum_j \|s(x_j)\|^2`; a share is negative where a layer works
    against the others.

    Returns:
        Float64, shape ``(layers,)``, summing to 1; NaN where S is zero.
    """
    parts = S.cpu().double()
    products = (parts * parts.sum(dim=0)).sum(dim=(1, 2)) @ directions.weights.cpu().double()
    return products / products.sum()


def effective_parameters_per_example(
    S: Float[Tensor, "rows k m"], directions: Directions, model: LowRankSmoother | None = None
) -> Float[Tensor, " rows"]:
    r"""Each row's share ``n/k · ‖s(x_j)‖²``; their mean is the set's effective parameters."""
    n, k = directions.n, S.shape[1]
    squares = S.cpu().double().square().sum(dim=1)
    control = None
    if (trusted := _trusted(S, directions, model)) is not None:
        control = trusted[0].squares(trusted[1])
    return _weighted_sum(squares, directions, control) * (n / k)


def degrees_of_freedom(
    S_train: Float[Tensor, "rows k m"],
    V_train: Float[Tensor, "rows k m"],
    directions: Directions,
    model: LowRankSmoother | None = None,
) -> tuple[float, float]:
    r"""``tr S_train``: the generalised degrees of freedom (Ye 1998) of the telescoped fit.

    Given :math:`W S` for S, those of the fitted means (docs/mathematics.md, section 5.1), before
    the division by what a row counts for.  Some of the training rows stand for all.

    Args:
        S_train: On training rows.
        V_train: The directions on the same rows.
        directions: The label directions.
        model: Ŝ on all training rows.

    Returns:
        The estimate and its standard error over random directions (0 when exact).
    """
    products = (S_train.cpu().double() * V_train.cpu().double()).sum(dim=(0, 1))
    control = None
    if (trusted := _trusted(S_train, directions, model)) is not None:
        control = trusted[0].products(trusted[1])
    total, error = _sum_with_error(products, directions, control)
    share = directions.n / len(S_train)
    return share * total, share * error


def layer_traces(
    S_train: Float[Tensor, "layers rows k m"],
    V_train: Float[Tensor, "rows k m"],
    directions: Directions,
) -> Float[Tensor, " layers"]:
    """The trace of what each layer contributes; they add up to that of the sum, without a model."""
    products = (S_train.cpu().double() * V_train.cpu().double()).sum(dim=(1, 2))
    return products @ directions.weights.cpu().double() * (directions.n / len(V_train))


def hat_norm(
    S: Float[Tensor, "rows k m"],
    outputs: Float[Tensor, "rows k"],
    train_outputs: Float[Tensor, "n k"],
    response: Response,
) -> float:
    r"""``n/|I| Σ ‖h(x_j)‖²`` of the hat form :math:`H = W^{1/2} S W_{train}^{1/2}`, per coordinate.

    The norm does not depend on the choice of the roots: it is
    :math:`\mathrm{tr}(S^\top W S W_{train})`.

    Args:
        S: Along all labels in their order (an exact smoother).
        outputs: The network's on these rows.
        train_outputs: The network's on the training set.
        response: What these stand for.

    Returns:
        The number, divided by the free coordinates of a row's means.
    """
    n, k = train_outputs.shape
    train = train_outputs.cpu().double()
    total = 0.0
    # Weighing labels takes a transposed copy of S.
    for start in range(0, len(S), 64):
        rows = S[start : start + 64].cpu().double()
        f = outputs[start : start + 64].cpu().double()
        by_label = rows.flatten(0, 1).T.reshape(n, k, -1)
        weighted = response.derivative(train, by_label).reshape(n * k, -1).T.reshape(rows.shape)
        total += float((response.derivative(f, rows) * weighted).sum())
    return total * n / (len(S) * response.divisor)


def classical_degrees_of_freedom(
    S_train: Float[Tensor, "rows k m"],
    V_train: Float[Tensor, "rows k m"],
    directions: Directions,
    model: LowRankSmoother | None = None,
) -> float:
    r"""``tr(2S − SSᵀ)``, the residual degrees of freedom subtracted from n (Hastie et al. 2009)."""
    squares = S_train.cpu().double().square().sum(dim=(0, 1))
    total = _weighted_sum(squares, directions, _control_of_set(S_train, directions, model))
    trace, _ = degrees_of_freedom(S_train, V_train, directions, model)
    return 2 * trace - float(total) * (directions.n / len(S_train))


def _trusted(
    S: Tensor, directions: Directions, model: LowRankSmoother | None
) -> tuple[LowRankSmoother, LabelDirections] | None:
    """The model where it explains S, and the directions, which are then kept."""
    if model is None or not isinstance(directions, LabelDirections):
        return None
    return (model, directions) if model.explains(S, directions) else None


def _control_of_set(
    S: Tensor, directions: Directions, model: LowRankSmoother | None
) -> Control | None:
    """The control variate of the sum of squares over rows, if the model explains S."""
    trusted = _trusted(S, directions, model)
    if trusted is None:
        return None
    known = trusted[0].squares(trusted[1])
    return Control(known.columns.sum(dim=0), known.outside.sum())


def _weighted_sum(contributions: Tensor, directions: Directions, control: Control | None) -> Tensor:
    """The sum over a complete basis of what is known per column, over the last dimension."""
    weights = directions.weights.cpu().double()
    if control is None:
        return contributions @ weights
    d = directions.deflated
    differences = contributions[..., d:] - control.columns[..., d:]
    return contributions[..., :d].sum(dim=-1) + control.outside + differences @ weights[d:]


def _sum_with_error(
    contributions: Tensor, directions: Directions, control: Control | None
) -> tuple[float, float]:
    """The same for one number per column, with the standard error of its random part.

    Returns:
        The sum and its error: 0 if nothing is random, NaN if a single column is.
    """
    total = float(_weighted_sum(contributions, directions, control))
    d = directions.deflated
    drawn = directions.count - d
    if directions.is_exact or drawn == 0:
        return total, 0.0
    if drawn == 1:
        return total, math.nan
    values = contributions if control is None else contributions - control.columns
    return total, directions.error(values[d:])
