r"""The smoother of boosted trees, with the structure of the trees held fixed.

A tree predicts weighted means of residuals, so it is a kernel (section 4.2 of
arXiv 2411.00247; Curth et al. 2023):

.. math:: K_h(x, x_i) = w_i\,1\{x_i ∈ leaf(x)\} / (\sum_{j ∈ leaf(x)} w_j + λ),

and a round of boosting on the squared error moves smoother and constant part by

.. math:: S ← S + γ K_h (I − S_{train}), \qquad c ← c − γ K_h c_{train},

starting from ``S = wᵀ/Σw, c = 0`` for the mean and from ``S = 0, c = offset`` otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from telescope_core.boosting.trees import BoostedTrees, Floats, Integers

_PART_ENTRIES = 2**16


@dataclass
class SmootherState:
    """Smoother and constant part of every set after some rounds.

    Attributes:
        round: Rounds done.
        S: For each set the smoother, shape ``(rows, n)``.
        c: For each set the constant part, shape ``(rows,)``.
        kernel_norms: For each set ‖row of K_h‖ of the last round, shape ``(rows,)``; empty before
            the first.
    """

    round: int
    S: dict[str, Floats]
    c: dict[str, Floats]
    kernel_norms: dict[str, Floats]

    @classmethod
    def initial(cls, trees: BoostedTrees, weights: Floats, rows: dict[str, int]) -> SmootherState:
        """The state before the first round."""
        row = weights / weights.sum() if trees.offset is None else np.zeros_like(weights)
        offset = trees.offset or 0.0
        return cls(
            round=0,
            S={name: np.tile(row, (count, 1)) for name, count in rows.items()},
            c={name: np.full(count, offset) for name, count in rows.items()},
            kernel_norms={},
        )

    def advance(
        self, trees: BoostedTrees, weights: Floats, leaves: dict[str, Integers], train: str
    ) -> None:
        """Do one more round, in place.

        Args:
            trees: Gives γ and λ.
            weights: Weights of the training rows, shape ``(n,)``.
            leaves: For each set the leaf of each row in every round, ``(rounds, rows)``.
            train: Name of the training set.
        """
        current = {name: leaf[self.round] for name, leaf in leaves.items()}
        # All rows of a leaf share one row of K_h, so everything is done once a leaf.
        numbers, places = np.unique(np.concatenate(list(current.values())), return_inverse=True)
        ends = np.cumsum([len(leaf) for leaf in current.values()])[:-1]
        place = dict(zip(current, np.split(places.reshape(-1), ends), strict=True))
        K = _leaf_kernels(place[train], len(numbers), weights, trees.leaf_regularization)
        norms = np.sqrt(np.square(K).sum(axis=1))
        S_step = trees.learning_rate * (K - K @ self.S[train])
        c_step = -trees.learning_rate * (K @ self.c[train])
        for name, leaf in place.items():
            self.c[name] += c_step[leaf]
            for part in _parts(len(leaf), S_step.shape[1]):
                self.S[name][part] += S_step[leaf[part]]
        self.kernel_norms = {name: norms[leaf] for name, leaf in place.items()}
        self.round += 1


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Some rows after the others, whose gathered steps stay in a cache."""
    size = max(1, _PART_ENTRIES // width)
    for start in range(0, rows, size):
        yield slice(start, start + size)


def _leaf_kernels(
    leaf: Integers, count: int, weights: Floats, leaf_regularization: float
) -> Floats:
    """Each leaf's row of K_h, shape ``(count, n)``; zero where no training row falls."""
    K = np.zeros((count, len(leaf)))
    K[leaf, np.arange(len(leaf))] = weights
    mass = K.sum(axis=1) + leaf_regularization
    return np.asarray(np.divide(K, mass[:, None], out=K, where=mass[:, None] > 0))
