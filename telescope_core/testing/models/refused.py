"""Models that the telescoping model does not describe, which the lens has to say by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from telescope_core.errors import ModelError, TrainingMismatchError
from telescope_core.testing.models.entry import Refusal, ZooModel, real


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


# ------------------------------------------------------------------- gradients that are changed


def _hooked_parameter(change: str) -> nn.Module:
    body = _body()
    layer = body[0]
    assert isinstance(layer, nn.Linear)
    mask = (torch.arange(12).reshape(4, 3) % 2).double()
    if change == "scale":  # A lower learning rate for one layer.
        _hook(layer.weight, lambda gradient: 0.2 * gradient)
    elif change == "mask":  # Pruning: some entries are not trained.
        _hook(layer.weight, lambda gradient: gradient * mask)
    else:

        def keep(parameter: Tensor) -> None:
            assert parameter.grad is not None
            parameter.grad.mul_(mask)

        layer.weight.register_post_accumulate_grad_hook(keep)  # type: ignore[no-untyped-call]
    return body


def _hook(parameter: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    parameter.register_hook(change)  # type: ignore[no-untyped-call]


def _deeper_body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def _backward_hook(*, before: bool) -> nn.Module:
    # Never on the last layer: a factor common to all gradients would be followed as loss scaling.
    body = _deeper_body()
    if before:
        body[2].register_full_backward_pre_hook(lambda _, outer: (3.0 * _only(outer),))
    else:
        # Gradients that flow on are clipped, as in guided backpropagation.
        body[1].register_full_backward_hook(lambda _, inner, __: (_only(inner).clamp(min=0),))
    return body


def _only(gradients: Tensor | tuple[Tensor, ...]) -> Tensor:
    return gradients if isinstance(gradients, Tensor) else gradients[0]


class _Reversed(torch.autograd.Function):
    # Gradient reversal of adversarial domain adaptation.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -0.5 * gradients[0]


class _Straight(torch.autograd.Function):
    # Binarised activations with a straight-through derivative.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


class _ReversedHalfway(nn.Module):
    # The function is from torch.func's point of view a new-style one: vmap and jvp may exist.
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        h = self.function.apply(torch.tanh(self.features(x)))  # type: ignore[no-untyped-call]
        return self.head(h)


class _DetachTrick(nn.Module):
    # Straight-through without a function of its own: x + (round(x) − x).detach().
    def __init__(self) -> None:
        super().__init__()
        self.first, self.quantised = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.quantised(h + ((4 * h).round() / 4 - h).detach())


# ------------------------------------------------------------------------- rows that are coupled


class _ForgotBatchFirst(nn.Module):
    # (rows, steps, features) in a recurrent module that takes the first dimension for the steps.
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _Coupled(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.how == "cumulative":
            h = h.cumsum(0)
        elif self.how == "shifted":
            h = h.roll(1, dims=0)
        elif self.how == "last":  # Only the last row sees another.
            h = torch.cat([h[:-1], h[-1:] + h[:1]])
        elif self.how == "softmax":  # Over rows for over features.
            h = torch.softmax(h, dim=0)
        else:
            h = h - h.mean(0)
        return self.head(h)


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


# --------------------------------------------------------------------------------------- random


class _Random(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.how == "dropout":  # Training mode is the default of the function, not the module's.
            h = functional.dropout(h, 0.3)
        elif self.how == "noise":
            h = h + 0.05 * torch.randn_like(h)
        else:
            h = torch.stack([h, -h])[int(torch.rand(()) < 0.5)]
        return self.head(h)


def _dropout_in_train_mode() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 2))


def _spectral_norm_in_train_mode() -> nn.Module:
    # Every pass moves the vectors of the power iteration, which enter the next.
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
    )


# ------------------------------------------------------------------------- what torch.func lacks


class _ComplexLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.to(self.weight.dtype) @ self.weight).abs())


def _scripted() -> nn.Module:
    scripted: nn.Module = torch.jit.script(_body())
    return scripted


_x = real(3)
_GRADIENT = (ModelError, TrainingMismatchError)
_RANDOM = Refusal((ModelError,), "random|different outputs")


def _changed_gradient(
    name: str, build: Any, pattern: str, reference: Callable[[], nn.Module] = _body
) -> ZooModel:
    # Predictions need no gradients of training, so that a lens without probes follows the model.
    return ZooModel(name, build, _x, (2,), reference=reference, refused=Refusal(_GRADIENT, pattern))


def _refused(name: str, build: Any, refusal: Refusal, draw: Any = _x) -> ZooModel:
    return ZooModel(name, build, draw, (2,), refused=refusal, refused_without_probes=refusal)


def _no_function_of_rows(name: str, build: Any, pattern: str, draw: Any = _x) -> ZooModel:
    # Followed by replayed passes and for predictions; refused by engines for functions of rows.
    return ZooModel(name, build, draw, (2,), refused=Refusal((ModelError,), pattern))


MODELS = (
    _changed_gradient("parameter-hook", lambda: _hooked_parameter("scale"), r"0\.weight"),
    _changed_gradient("parameter-hook-mask", lambda: _hooked_parameter("mask"), r"0\.weight"),
    _changed_gradient("accumulated-mask", lambda: _hooked_parameter("accumulated"), r"0\.weight"),
    _changed_gradient(
        "backward-hook", lambda: _backward_hook(before=False), r"\b1\b|0\.weight", _deeper_body
    ),
    _changed_gradient(
        "backward-pre-hook", lambda: _backward_hook(before=True), r"\b2\b", _deeper_body
    ),
    _refused(
        "gradient-reversal",
        lambda: _ReversedHalfway(_Reversed),
        Refusal(_GRADIENT, r"_Reversed|features"),
    ),
    _refused(
        "straight-through",
        lambda: _ReversedHalfway(_Straight),
        Refusal(_GRADIENT, r"_Straight|features"),
    ),
    _refused("straight-through-detach", _DetachTrick, Refusal(_GRADIENT, r"first|detach")),
    _no_function_of_rows("forgot-batch-first", _ForgotBatchFirst, "rows", real(4, 2)),
    _no_function_of_rows("cumulative-over-rows", lambda: _Coupled("cumulative"), "rows"),
    _no_function_of_rows("shifted-rows", lambda: _Coupled("shifted"), "rows"),
    _no_function_of_rows("last-row-coupled", lambda: _Coupled("last"), "rows"),
    _no_function_of_rows("softmax-over-rows", lambda: _Coupled("softmax"), "rows"),
    _no_function_of_rows("batch-mean", lambda: _Coupled("mean"), "rows"),
    _no_function_of_rows("batch-norm-train", _batch_norm, r"1 \(BatchNorm1d\)"),
    _refused("functional-dropout", lambda: _Random("dropout"), _RANDOM),
    _refused("noise", lambda: _Random("noise"), _RANDOM),
    _refused("stochastic-depth", lambda: _Random("branch"), _RANDOM),
    _no_function_of_rows("dropout-train", _dropout_in_train_mode, r"1 \(Dropout\)"),
    ZooModel(
        # Without probes the change of function is taken as one between steps.
        "spectral-norm-train",
        _spectral_norm_in_train_mode,
        _x,
        (2,),
        refused=Refusal(_GRADIENT, r"0\.parametrizations\.weight\.0"),
    ),
    _refused("complex-parameters", _ComplexLayer, Refusal((ModelError,), r"weight")),
    _refused("scripted", _scripted, Refusal((ModelError,), r"(?i)script")),
    _refused(
        "data-parallel", lambda: nn.DataParallel(_body()), Refusal((ModelError,), "DataParallel")
    ),
)
