"""The running check: at every block, a few rows as the lens has them against the model itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from telescope_core.errors import ModelError, listed
from telescope_core.jacobians import agreement
from telescope_core.jacobians.linearization import Linearization
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.rows import RowSet
from telescope_core.network.inputs import Rows

_ROWS = 4
# A kink may put one draw on another side; three draws it cannot.
_DRAWS = 3


def spot_check(
    function: ModelFunction,
    rows: RowSet,
    made_of: Callable[[Tensor], Linearization],
    name: str,
    seed: int,
    *,
    pushes_only: bool = False,
) -> None:
    """Compare outputs and a random projection of J with the model's own, on some random rows.

    The rows are given to the model on their own, with its own parameters, in the kernels that
    training runs; the linearisation was made of all rows at once.

    Args:
        function: The model; its parameters now are where the rows were linearised.
        rows: The set.
        made_of: Its linearisation restricted to some rows.
        name: The set, for the message.
        seed: Of the draws.
        pushes_only: Whether only ``J v`` is used, as for predictions; half the work.

    Raises:
        ModelError: They disagree in every draw; naming the parameters concerned.
    """
    generator = torch.Generator().manual_seed(seed)
    trouble = ""
    for draw in range(_DRAWS):
        index = rows.drawn(_ROWS, generator)
        at = (function, made_of(index), rows.take(index), seed + draw)
        trouble = _trouble(*at, pushes_only)
        if not trouble:
            return
    raise ModelError(
        f"on rows {sorted(index.tolist())[:10]} of {name} {trouble}, so no number of this block "
        "would be right; report the model, or try form='functional'"
    )


def _trouble(
    function: ModelFunction, made: Linearization, inputs: Rows, seed: int, pushes_only: bool
) -> str:
    cotangents = agreement.random_cotangents(made.outputs, seed)
    expected, outputs = agreement.backpropagated_as_trained(function, inputs, cotangents)
    eps = max(torch.finfo(d).eps for d in (function.own_precision, function.precision))
    tolerance = eps**0.5
    gap = (made.outputs - outputs.to(made.outputs)).abs().max()
    if not float(gap) <= tolerance * (1 + float(made.outputs.abs().max())):
        return (
            f"the outputs differ by {float(gap):.3g} from those of the same rows on their own "
            "(rows that depend on each other, or a model that is random)"
        )
    # A frozen parameter is not in what was expected, and does not move.
    agrees = agreement.is_adjoint(made, cotangents, expected, eps)
    if agrees and pushes_only:
        return ""
    pulled = made.vjp(cotangents)[:, 0]
    for rows in function.frozen_rows():
        pulled[rows] = 0
    wrong = agreement.differing(function.layout, pulled, expected, tolerance, 20 * eps)
    if wrong:
        return f"the derivative differs from backpropagation in {listed(wrong)}"
    return "" if agrees else "forward and reverse derivatives disagree"
