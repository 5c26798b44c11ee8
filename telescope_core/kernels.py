"""The tangent kernel, and norms of its rows over training (section 4.2 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from telescope_core.jacobians import (
    Form,
    Linearization,
    LinearizedRows,
    Linearizer,
    RowSet,
    check_representation,
    spot_check,
)
from telescope_core.memory import check_memory
from telescope_core.network import Network, outside_inference_mode
from telescope_core.network.checks import check_inputs, check_model, check_sets
from telescope_core.network.inputs import Inputs
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.trained_parameters import requiring_gradients

if TYPE_CHECKING:
    from jaxtyping import Float


def tangent_kernel(
    model: nn.Module,
    inputs: Inputs,
    others: Inputs | None = None,
    *,
    chunk_size: int | None = None,
    form: Form = "auto",
) -> Float[Tensor, "rows k others k"]:
    r"""The empirical neural tangent kernel ``K(x, x') = J(x) J(x')ᵀ`` at the model's parameters.

    The Jacobian J is with respect to every parameter that requires a gradient, and the kernel is
    summed over them.  Outputs are not reduced: K has an entry for every pair of outputs, neither
    summed nor averaged nor divided by their number.  For a model with one output
    ``kernel[:, 0, :, 0]`` is the familiar matrix, and ``kernel.flatten(0, 1).flatten(1)`` is the
    Gram matrix of all outputs of all rows for any k.

    Layers with factors need no per-sample Jacobian (docs/mathematics.md, section 7): a linear layer
    costs two products of Gram matrices, however many parameters it has.  The model is left as it
    is.  To follow a kernel over training, make one :class:`TangentKernel` and call it again.

    Args:
        model: Any module whose outputs have rows in the first dimension and whose rows do not
            influence each other.
        inputs: Rows x, as the model is called with them: a tensor, a mapping or tuple of tensors,
            or a map-style dataset.
        others: Rows x'; ``None`` for the kernel of ``inputs`` with themselves.
        chunk_size: Rows of either side linearised at once, to bound memory; ``None`` for all (1024
            of a dataset).  The result is the same to rounding.
        form: How the Jacobian is represented, see :class:`telescope_core.jacobians.Linearizer`.

    Returns:
        Shape ``(rows, k, rows_other, k)``, with k the number of outputs of one row (all dimensions
        of the output but the first, flattened), on the model's device in its dtype, at least
        float32.

    Raises:
        ConfigurationError: ``chunk_size`` or ``form`` is not usable.
        ModelError: The model is random, couples rows or has no trained parameters, or
            ``form="factors"`` does not describe it.
        ShapeError: Inputs that the model does not take, or of the wrong dtype or device.
        NonFiniteError: Inputs or outputs contain NaN or infinities.
        MemoryBudgetError: The kernel does not fit into memory.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> tangent_kernel(model, torch.randn(5, 3), torch.randn(4, 3)).shape
        torch.Size([5, 2, 4, 2])
    """
    return TangentKernel(model, inputs, chunk_size=chunk_size, form=form)(inputs, others)


class TangentKernel:
    """The tangent kernel of one model, checked once and evaluated as often as asked.

    Args:
        model: As for :func:`tangent_kernel`.  Parameters that require a gradient now are those
            that the kernel is summed over, also later.
        sample: Rows of input; a few are used to check the model and its layer factors.
        chunk_size: Rows of either side linearised at once; ``None`` for all.
        form: How the Jacobian is represented.

    Raises:
        ConfigurationError: ``chunk_size`` or ``form`` is not usable.
        ModelError: The model is random, couples rows or has no trained parameters, or
            ``form="factors"`` does not describe it.
        ShapeError: A sample that the model does not take, or of the wrong dtype or device.
        NonFiniteError: The sample or outputs contain NaN or infinities.
    """

    @outside_inference_mode()
    def __init__(
        self,
        model: nn.Module,
        sample: Inputs,
        *,
        chunk_size: int | None = None,
        form: Form = "auto",
    ) -> None:
        check_representation(form, chunk_size)
        check_model(model)
        parameters = requiring_gradients(model)
        self._like = next(iter(parameters.values()))
        self._network = Network(model)
        self._chunk_size = chunk_size
        few = check_sets(self._network, {"given": sample}, self._like)["given"]
        self._linearizer = Linearizer(self._network, ParameterLayout(parameters), few, form)

    @outside_inference_mode()
    def __call__(
        self, inputs: Inputs, others: Inputs | None = None
    ) -> Float[Tensor, "rows k others k"]:
        """The kernel at the parameters that the model has now.

        Returns:
            Shape ``(rows, k, rows_other, k)``; nothing is summed or averaged over outputs.

        Raises:
            ModelError: The model was put into train mode and is random there.
            ShapeError: Inputs that the model does not take, or of the wrong dtype or device.
            NonFiniteError: Inputs or outputs contain NaN or infinities.
            MemoryBudgetError: The kernel does not fit into memory.
        """
        check_model(self._network.module)
        rows = self._set("given", inputs)
        columns = rows if others is None else self._set("other", others)
        function = self._linearizer.function
        theta, k = function.theta(), function.k
        check_memory(
            len(rows) * k * len(columns) * k * theta.dtype.itemsize,
            theta.device,
            f"a tangent kernel of {len(rows)} × {len(columns)} rows and {k} outputs",
            lambda _: "ask for fewer rows at once",
        )
        if rows.in_one_chunk and columns.in_one_chunk:
            at_rows = rows.linearize(theta)
            spot_check(function, rows, at_rows.rows, "the given rows", len(rows))
            return at_rows.gram(at_rows if rows is columns else columns.linearize(theta))
        return _by_chunks(theta, rows, columns, k)

    def _set(self, name: str, inputs: Inputs) -> RowSet:
        check_inputs(self._network, name, inputs, self._like)
        return RowSet(self._linearizer, inputs, self._chunk_size, self._like.device)


def _by_chunks(theta: Tensor, rows: RowSet, columns: RowSet, k: int) -> Tensor:
    """The kernel block by block, the blocks above the diagonal by symmetry where there is one."""
    symmetric = rows is columns
    kernel = theta.new_empty(len(rows), k, len(columns), k)
    at_columns = columns.linearize(theta)
    top = 0
    for part in rows.linearize(theta).parts():
        bottom = top + len(part.outputs)
        left = 0
        for other in at_columns.parts():
            right = left + len(other.outputs)
            kernel[top:bottom, :, left:right] = block = part.gram(other)
            if symmetric and left == top:
                break
            if symmetric:
                kernel[left:right, :, top:bottom] = block.permute(2, 3, 0, 1)
            left = right
        top = bottom
    return kernel


def kernel_row_norms(
    rows: LinearizedRows, batch: Linearization, preconditioner: Float[Tensor, " p"] | None
) -> Float[Tensor, " rows"]:
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
    """Running means over steps of kernel-row norms, one sample at the start of each block."""

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
