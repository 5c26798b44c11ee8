"""Norms of tangent-kernel rows over training (section 4.2 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from telescope_core.jacobians import Linearization
from telescope_core.smoother import LinearizedRows


def kernel_row_norms(
    rows: LinearizedRows, batch: Linearization, preconditioner: Tensor | None
) -> Tensor:
    r"""``‖k_t(x)‖`` with ``k_t(x) = [(1/|B|) J(x) P J(x_i)ᵀ]_{i∈B}``.

    Args:
        rows: Where the kernel is evaluated, linearised at ``θ_{t−1}``.
        batch: The batch linearised at ``θ_{t−1}``.
        preconditioner: Diagonal of P, shape ``(p,)``; ``None`` for the identity.

    Returns:
        The norm over training points and pairs of outputs, shape ``(rows,)``.
    """
    b, k = batch.outputs.shape
    eye = torch.eye(b * k, dtype=batch.outputs.dtype, device=batch.outputs.device)
    columns = batch.vjp(eye.view(b, k, b * k))
    if preconditioner is not None:
        columns *= preconditioner[:, None]
    kernel = rows.jvp(columns)
    norms: Tensor = torch.linalg.vector_norm(kernel, dim=(1, 2))
    return norms / b


class KernelNorms:
    """Running means over steps of kernel-row norms, one sample at the start of each block.

    Args:
        rows: Number of rows per set.
        like: Gives dtype and device.
    """

    def __init__(self, rows: Mapping[str, int], like: Tensor) -> None:
        self._sums = {name: like.new_zeros(count) for name, count in rows.items()}
        self._max_sums = dict.fromkeys(rows, 0.0)
        self._samples = 0

    def add(
        self,
        at_start: Mapping[str, LinearizedRows],
        batch: Linearization,
        preconditioner: Tensor | None,
    ) -> None:
        """Take one sample, all arguments at ``θ_{t−1}``."""
        for name, rows in at_start.items():
            norms = kernel_row_norms(rows, batch, preconditioner)
            self._sums[name] += norms
            self._max_sums[name] += float(norms.max())
        self._samples += 1

    def mean_per_point(self, name: str) -> Tensor:
        """Mean over steps of each row's norm, shape ``(rows,)``; NaN before the first sample."""
        return self._sums[name] / (self._samples or float("nan"))

    def record(self, name: str) -> dict[str, float]:
        """``kernel_norm_mean`` (over steps and rows) and ``kernel_norm_max`` (mean over steps)."""
        samples = self._samples or float("nan")
        return {
            f"{name}/kernel_norm_mean": float(self._sums[name].mean()) / samples,
            f"{name}/kernel_norm_max": self._max_sums[name] / samples,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        maxima = torch.tensor([*self._max_sums.values(), self._samples], dtype=torch.float64)
        return {"maxima": maxima, **{f"sums/{n}": t for n, t in self._sums.items()}}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        *maxima, samples = tensors["maxima"].tolist()
        self._max_sums = dict(zip(self._max_sums, maxima, strict=True))
        self._samples = int(samples)
        for name, sums in self._sums.items():
            sums.copy_(tensors[f"sums/{name}"])
