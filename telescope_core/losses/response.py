r"""The response of a loss: the means that outputs stand for (docs/mathematics.md, section 5.1).

A classifier's outputs are logits, and what its labels are compared with are probabilities.  The
response is the map from the one to the other, and :math:`W(x) = ∂π/∂f` its derivative at a row.
Outputs that are the predictions themselves have the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Kind = Literal["identity", "softmax", "sigmoid", "exp"]
"""Names of responses."""

ResponseSetting = Literal["auto", "identity", "softmax", "sigmoid", "exp"]
"""A response, or to recognise it by what the loss does."""


@dataclass(frozen=True)
class Response:
    r"""The map from a row's outputs to its predicted means.

    Attributes:
        kind: ``identity``: outputs are predictions.  ``sigmoid``: every output is the logit of a
            label of its own.  ``softmax``: logits of classes.  ``exp``: log-probabilities of
            classes that sum to one, which are their own logits.
        shape: Of a row's outputs, as the model gives them.
        axis: The dimension of a row's outputs that runs over classes; ``None`` without classes.
    """

    kind: Kind
    shape: tuple[int, ...]
    axis: int | None = None

    @property
    def is_identity(self) -> bool:
        """Whether outputs are predictions."""
        return self.kind == "identity"

    @property
    def divisor(self) -> int:
        r"""What the trace over a row's outputs is divided by, so that a row counts for one.

        Probabilities of C classes have C − 1 free coordinates, of a sigmoid one: the number of
        these in a row.  1 for the identity, where the trace over all outputs is the definition.
        """
        if self.is_identity:
            return 1
        k = prod(self.shape)
        return k if self.axis is None else k - k // self.shape[self.axis]

    def means(self, outputs: Float[Tensor, "rows k"]) -> Float[Tensor, "rows k"]:
        """Predicted means of flat outputs."""
        if self.is_identity:
            return outputs
        if self.axis is None:
            return outputs.sigmoid()
        shaped = outputs.reshape(len(outputs), *self.shape)
        return shaped.softmax(1 + self.axis).reshape(outputs.shape)

    def derivative(
        self, outputs: Float[Tensor, "rows k"], columns: Float[Tensor, "rows k m"]
    ) -> Float[Tensor, "rows k m"]:
        r"""``W(x)`` times columns, one symmetric W for each row.

        Returns:
            The columns times :math:`\mathrm{diag}(π) - ππ^\top` over classes, times
            :math:`π (1 - π)` for a sigmoid.
        """
        if self.is_identity:
            return columns
        means = self.means(outputs)[..., None]
        if self.axis is None:
            return means * (1 - means) * columns
        shape = (len(columns), *self.shape, -1)
        pi, moved = means.reshape(shape), columns.reshape(shape)
        common = (pi * moved).sum(1 + self.axis, keepdim=True)
        return (pi * (moved - common)).reshape(columns.shape)
