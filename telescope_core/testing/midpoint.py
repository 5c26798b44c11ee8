"""The smoother with the midpoint rule in place of the trapezoid, dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from telescope_core.testing.dense import dense_jacobian, product
from telescope_core.testing.oracle import Blocks, DenseOracle, Path


class MidpointOracle(DenseOracle):
    r"""A :class:`DenseOracle` whose smoother takes J̄ at the middle of each block.

    ``S_e = S_s + J(½(θ_s + θ_e)) (A_e − A_s)``, and the batch rows inside a block likewise between
    s and t − 1.  Predictions are those of the base class; the order must be 2.
    """

    @contextmanager
    def step(self, index: Tensor) -> Iterator[None]:
        """Follow one training step on the training points at positions ``index``."""
        self._theta_before = self._theta()
        with super().step(index):
            yield

    def _batch_rows(self, path: Path, index: Tensor, J_now: Blocks) -> Tensor:
        batch = self.sets["train"][index]
        return path.rows_at_block["train"][self._positions(index)] + product(
            self._jacobian_between(self._theta_before, batch), self._moved(path)
        )

    def _rows_now(self, path: Path, name: str) -> Tensor:
        J = self._jacobian_between(self._theta(), self.sets[name])
        return path.rows_at_block[name] + product(J, self._moved(path))

    def _moved(self, path: Path) -> Blocks:
        return {name: A - path.weights_at_block[name] for name, A in path.weights.items()}

    def _jacobian_between(self, theta: Blocks, inputs: Tensor) -> Blocks:
        """J of some rows half-way from the start of the block to ``theta``."""
        held = self._theta()
        self._put({name: (self._theta_at_block[name] + theta[name]) / 2 for name in theta})
        jacobian = dense_jacobian(self.model, inputs)
        self._put(held)
        return jacobian

    def _put(self, theta: Blocks) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(theta[name].reshape(parameter.shape))
