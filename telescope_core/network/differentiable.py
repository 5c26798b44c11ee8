"""Operations of networks by others that every derivative goes through.

The kernels of normalisation layers write running statistics on the side, where no derivative
follows; fused attention, bags of rows, packed sequences and products with sparse
matrices have no forward derivative; ``detach`` stops forward derivatives along with those of
backpropagation, though training moves what was detached as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from telescope_core.network import lookups, packing, sparse

Table = Mapping[Callable[..., Any], Callable[..., Any]]
"""What is called in place of what."""


class Instead(TorchFunctionMode):
    """Inside, other operations are called in place of some."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dropout: Callable[[Tensor, float], Tensor],
) -> Tensor:
    """``functional.scaled_dot_product_attention`` by its formula, with a dropout of one's own."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(repeats, dim=-3)
        value = value.repeat_interleave(repeats, dim=-3)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.softmax(scores, dim=-1)
    return (dropout(weights, dropout_p) if dropout_p > 0 else weights) @ value


class _Detached(torch.autograd.Function):
    """Stops backpropagation and lets forward derivatives through."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return tangents[0].view_as(tangents[0])


def _detached(x: Tensor) -> Tensor:
    detached: Tensor = _Detached.apply(x)  # type: ignore[no-untyped-call]
    return detached


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    value = torch.clamp(input / 6 + 0.5, 0, 1)
    return input.copy_(value) if inplace else value


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    dims = [d for d in range(v.ndim) if d != dim % v.ndim] if dim != -1 else None
    scale: Tensor = g / torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    return v * scale


def _batch_norm(
    input: Tensor,  # torch's names
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training and running_mean is not None and running_var is not None:
        shape = (1, -1) + (1,) * (input.ndim - 2)
        centred = input - running_mean.view(shape)
        return _scaled(centred, (running_var.view(shape) + eps).rsqrt(), weight, bias)
    dims = [d for d in range(input.ndim) if d != 1]
    centred, scale, mean, var = _normed(input, dims, eps)
    count = input.numel() // input.shape[1]
    for running, value in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            running.mul_(1 - momentum).add_(value.flatten().to(running.dtype) * momentum)
    return _scaled(centred, scale, weight, bias)


def _batch_norm_of_torch(
    input: Tensor,  # torch's names
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    input: Tensor,  # torch's names
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = list(range(2, input.ndim))
    centred, scale, mean, var = _normed(input, dims, eps)
    count = input[0, 0].numel()
    for running, value in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            average = value.flatten(1).mean(dim=0).to(running.dtype)
            running.mul_(1 - momentum).add_(average * momentum)
    return _scaled(centred, scale, weight, bias)


def _normed(x: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre rows over some dimensions.

    Written for as few derivatives of the size of x as can be: those of sums and of a negative mean
    are small, and a scale is applied once.

    Returns:
        Centred x, the scale that it is to have, mean and variance.
    """
    count = math.prod(x.shape[d] for d in dims)
    mean = x.sum(dim=dims, keepdim=True) / count
    centred = x + mean.neg()
    var = centred.square().sum(dim=dims, keepdim=True) / count
    return centred, (var + eps).rsqrt(), mean, var


def _scaled(centred: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1) + (1,) * (centred.ndim - 2)
    scaled = centred * (scale if weight is None else scale * weight.view(shape))
    return scaled if bias is None else scaled + bias.view(shape)


_batches: Any = torch._VF  # kernels behind packed sequences

INSTEAD_OF_STATISTICS: Table = {
    functional.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm_of_torch,
    functional.instance_norm: _instance_norm,
}
"""What has derivatives with respect to running statistics, in place of what has none."""

INSTEAD_OF_RENORM: Table = {
    functional.embedding: lookups.embedding,
    functional.embedding_bag: lookups.embedding_bag,
}
"""What looks rows up without writing to their table, in place of what may."""


def _cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",  # how it is rounded
) -> Tensor:
    apart = x1[..., :, None, :] - x2[..., None, :, :]
    if p != 2:
        distances: Tensor = torch.linalg.vector_norm(apart, p, dim=-1)
        return distances
    # As torch has it, a distance of zero has no derivative.
    squares = apart.square().sum(dim=-1)
    return torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)


INSTEAD_OF_KERNELS: Table = {
    torch.cdist: _cdist,
    **sparse.INSTEAD_OF_SPARSE,
    functional.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,
    functional.embedding_bag: lookups.embedding_bag,
    _batches._pack_padded_sequence: packing.pack_padded,
    _batches._pad_packed_sequence: packing.pad_packed,
}
"""What has forward derivatives, in place of what has none."""

INSTEAD: Table = {
    **INSTEAD_OF_STATISTICS,
    **INSTEAD_OF_RENORM,
    **INSTEAD_OF_KERNELS,
    torch.Tensor.detach: _detached,
    torch.detach: _detached,
    torch.Tensor.data.__get__: _detached,  # type: ignore[attr-defined]
}
"""All of these, with everything else that a pass of training needs."""
