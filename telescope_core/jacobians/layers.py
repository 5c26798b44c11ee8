"""Which layers have factors, and how to read them off one forward and backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians.factors import DenseFactor, EmbeddingFactor, Factor, OuterFactor
from telescope_core.jacobians.recurrent import can_be_unrolled, linear_maps
from telescope_core.network.layout import ParameterLayout, Segment


@dataclass(frozen=True)
class Layer:
    """A module with factors, or one linear map of it, and the rows of θ of its parameters.

    Attributes:
        module: The layer.
        weight_name: Name of the weight in the module, which tells apart the linear maps of a
            recurrent one.
        weight: Rows of its weight, or ``None`` when it has none or it is not trained.
        bias: Rows of its bias, or ``None`` when it has none or it is not trained.
        shares: Whether another layer uses one of them, too.
    """

    module: nn.Module
    weight_name: str
    weight: Segment | None
    bias: Segment | None
    shares: bool = False

    @property
    def names(self) -> set[str]:
        """Names of the parameters it covers."""
        return {segment.name for segment in (self.weight, self.bias) if segment is not None}

    @property
    def is_registered(self) -> bool:
        """Whether its factors come from :func:`register_layer`."""
        return _KINDS[type(self.module)].is_registered

    def factors(self, x: Tensor, delta: Tensor) -> Iterable[Factor]:
        """Factors of one use of the layer.

        Args:
            x: Its input, first dimension rows (or a multiple, rows first).
            delta: ``∂f/∂z`` for its output z, shape ``(rows, k, *z.shape[1:])``.

        Returns:
            The Jacobian of f in parts, one or more for each parameter of the layer.
        """
        return _KINDS[type(self.module)].factors(self, x, delta)


Factors = Callable[[Layer, Tensor, Tensor], Iterable[Factor]]
"""``(layer, x, delta) -> factors`` of one use, as :meth:`Layer.factors`."""


@dataclass(frozen=True)
class _Kind:
    """What is known of a class of modules.

    Attributes:
        factors: Gives the factors of one use.
        maps: Names of the weight and the bias of its linear maps; none if the module has a setting
            that the factors do not know.
        is_registered: Whether it is the user's own.
    """

    factors: Factors
    maps: Callable[[Any], list[tuple[str, str]]] = lambda _: [("weight", "bias")]
    is_registered: bool = False


def register_layer(
    module: type[nn.Module], factors: Factors, *, weight: str = "weight", bias: str = "bias"
) -> None:
    r"""Teach layer factors a module of one's own, which goes through ``torch.func`` otherwise.

    The factors say how the module's parameters enter the Jacobian of the network's outputs, given
    its input x and the backpropagated ``δ = ∂f/∂z`` of its output z.  They are compared with
    backpropagation wherever built-in ones are: when a lens is attached, at every new shape and, on
    some rows, at every block.  A network in which they disagree is refused.

    Args:
        module: The class; subclasses need their own entry.  It is called with one tensor, returns
            one, and its outputs depend on its parameters through this call alone.
        factors: ``(layer, x, delta) -> factors``, with δ of shape ``(rows, k, *z.shape[1:])``, for
            ``layer.weight`` and ``layer.bias`` where these are not ``None``.
            :class:`OuterFactor` is for linear maps, :meth:`DenseFactor.of` for anything with few
            parameters.  ``layer.module`` holds the parameters at which J is asked for.
        weight: The attribute that holds the weight.
        bias: The attribute that holds the bias, if there is one.

    Raises:
        ConfigurationError: Not a class of modules.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(size))
        ...
        ...     def forward(self, x):
        ...         return x * self.weight
        >>> def factors(layer, x, delta):
        ...     yield DenseFactor.of(layer.weight, delta * x[:, None])
        >>> register_layer(Scale, factors)
    """
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise ConfigurationError(f"expected a subclass of torch.nn.Module, got {module!r}")
    _KINDS[module] = _Kind(factors, lambda _: [(weight, bias)], is_registered=True)


def find_layers(model: nn.Module, layout: ParameterLayout) -> list[Layer]:
    """The layers of a model that have factors and hold trained parameters."""
    # Of buffers, too, which a layout may hold.
    names = {id(p): n for n, p in (*model.named_parameters(), *model.named_buffers())}
    layers = []
    for module in model.modules():
        kind = _KINDS.get(type(module))
        for weight_name, bias_name in [] if kind is None else kind.maps(module):
            weight, bias = (
                layout.by_name.get(names.get(id(getattr(module, attribute, None)), ""))
                for attribute in (weight_name, bias_name)
            )
            if weight is not None or bias is not None:
                layers.append(Layer(module, weight_name, weight, bias))
    uses = Counter(name for layer in layers for name in layer.names)
    return [replace(layer, shares=any(uses[name] > 1 for name in layer.names)) for layer in layers]


def _linear(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    rows, k = delta.shape[:2]
    a = x.reshape(rows, -1, x.shape[-1])
    yield from _outer(layer, a, delta.reshape(rows, k, -1, delta.shape[-1]))


def _convolution(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    rows, k = delta.shape[:2]
    d_out, groups = module.out_channels, module.groups
    unfolded = _unfold(module, x)  # (rows, channels * taps, s)
    delta = delta.reshape(rows, k, d_out, -1)
    if groups == 1:
        a = unfolded.transpose(1, 2).contiguous()
        yield from _outer(layer, a, delta.transpose(2, 3).contiguous())
        return
    if layer.weight is not None:
        a = unfolded.view(rows, groups, -1, unfolded.shape[-1])
        grouped = delta.view(rows, k, groups, d_out // groups, -1)
        jacobian = torch.einsum("rgis,rkgos->rkigo", a, grouped)
        yield DenseFactor(layer.weight.rows, jacobian.reshape(rows, k, -1))
    if layer.bias is not None:
        yield DenseFactor(layer.bias.rows, delta.sum(-1))


def _unfold(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module.padding, str):
        total = [0] * len(kernel)
        if module.padding == "same":
            total = [d * (size - 1) for d, size in zip(dilation, kernel, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in module.padding]
    x = functional.pad(x, [side for pair in reversed(sides) for side in pair])
    if len(kernel) == 1:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), (1, *stride), (1, *dilation)
    unfolded: Tensor = functional.unfold(x, kernel, dilation, 0, stride)
    return unfolded


def _embedding(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.Embedding)
    assert layer.weight is not None
    rows, k = delta.shape[:2]
    index = x.reshape(rows, -1)
    delta = delta.reshape(rows, k, -1, module.embedding_dim)
    yield EmbeddingFactor(layer.weight.rows, module.num_embeddings, index, delta)


def _layer_norm(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.LayerNorm)
    normalised = functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    yield from _scale_last(layer, normalised, delta, len(module.normalized_shape))


def _rms_norm(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.RMSNorm)
    normalised = functional.rms_norm(x, list(module.normalized_shape), eps=module.eps)
    yield from _scale_last(layer, normalised, delta, len(module.normalized_shape))


def _group_norm(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.GroupNorm)
    normalised = functional.group_norm(x, module.num_groups, eps=module.eps)
    yield from _scale_channels(layer, normalised, delta)


def _batch_norm(layer: Layer, x: Tensor, delta: Tensor) -> Iterator[Factor]:
    module = layer.module
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    assert module.running_mean is not None
    assert module.running_var is not None
    mean, variance = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
    normalised = functional.batch_norm(x, mean, variance, eps=module.eps)
    if layer.weight_name == "weight":
        yield from _scale_channels(layer, normalised, delta)
        return
    # y = γ (x − μ) / √(v + ε) + β, so that ∂y/∂v = −½ γ x̂ / (v + ε) and ∂y/∂μ = −γ / √(v + ε)
    scale = (variance + module.eps).rsqrt()
    slope = -scale if module.weight is None else -scale * module.weight
    by_channel = (-1, *[1] * (x.ndim - 2))
    half = normalised * (scale / 2).view(by_channel)
    yield from _scale_channels(layer, half, delta * slope.to(delta).view(by_channel))


def _scale_last(layer: Layer, normalised: Tensor, delta: Tensor, width: int) -> Iterator[Factor]:
    """Scales and shifts over the last ``width`` dimensions."""
    rows, k = delta.shape[:2]
    shape = normalised.shape[-width:]
    x = normalised.reshape(rows, 1, -1, shape.numel())
    yield from _scale(layer, x, delta.reshape(rows, k, -1, shape.numel()), 2, shape)


def _scale_channels(layer: Layer, normalised: Tensor, delta: Tensor) -> Iterator[Factor]:
    """Scales and shifts over the second dimension."""
    rows, k = delta.shape[:2]
    channels = normalised.shape[1]
    x = normalised.reshape(rows, 1, channels, -1)
    yield from _scale(layer, x, delta.reshape(rows, k, channels, -1), 3, torch.Size((channels,)))


def _scale(
    layer: Layer, x: Tensor, delta: Tensor, over: int, shape: torch.Size
) -> Iterator[Factor]:
    """Scales and shifts of one shape, summed over the dimension of the places they are used at."""
    rows, k = delta.shape[:2]
    if layer.weight is not None:
        yield DenseFactor.of(layer.weight, (delta * x).sum(over).view(rows, k, *shape))
    if layer.bias is not None:
        yield DenseFactor.of(layer.bias, delta.sum(over).view(rows, k, *shape))


def _outer(layer: Layer, a: Tensor, delta: Tensor) -> Iterator[Factor]:
    """A linear map at every position, its bias folded in where the layout allows."""
    weight, bias = layer.weight, layer.bias
    adjacent = weight is not None and bias is not None and weight.stop == bias.start
    if weight is not None and bias is not None and adjacent and not layer.shares:
        yield OuterFactor(slice(weight.start, bias.stop), a, delta, has_bias=True)
        return
    if weight is not None:
        yield OuterFactor(weight.rows, a, delta)
    if bias is not None:
        yield DenseFactor(bias.rows, delta.sum(2))


def _plain_table(module: nn.Embedding) -> list[tuple[str, str]]:
    plain = module.max_norm is None and not module.scale_grad_by_freq
    return [("weight", "bias")] if plain and module.padding_idx is None else []


def _zero_padded(module: nn.Conv1d | nn.Conv2d) -> list[tuple[str, str]]:
    return [("weight", "bias")] if module.padding_mode == "zeros" else []


def _with_statistics(_: nn.Module) -> list[tuple[str, str]]:
    return [("weight", "bias"), ("running_var", "running_mean")]


def _unrolled(module: nn.RNNBase) -> list[tuple[str, str]]:
    return linear_maps(module) if can_be_unrolled(module) else []


_KINDS: dict[type[nn.Module], _Kind] = {
    nn.Linear: _Kind(_linear),
    nn.LSTM: _Kind(_linear, _unrolled),
    nn.GRU: _Kind(_linear, _unrolled),
    nn.RNN: _Kind(_linear, _unrolled),
    nn.Conv1d: _Kind(_convolution, _zero_padded),
    nn.Conv2d: _Kind(_convolution, _zero_padded),
    nn.Embedding: _Kind(_embedding, _plain_table),
    nn.LayerNorm: _Kind(_layer_norm),
    nn.RMSNorm: _Kind(_rms_norm),
    nn.GroupNorm: _Kind(_group_norm),
    nn.BatchNorm1d: _Kind(_batch_norm, _with_statistics),
    nn.BatchNorm2d: _Kind(_batch_norm, _with_statistics),
}
