"""Normalisation of activations and of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from telescope_core.errors import ModelError
from telescope_core.testing.models.entry import Refusal, ZooModel, real


def _with_statistics(norm: nn.Module) -> nn.Module:
    """The norm in eval mode with statistics and weights as after some training."""
    norm.eval()
    with torch.no_grad():
        for name, tensor in [*norm.named_buffers(), *norm.named_parameters()]:
            if name.endswith("var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.normal_()
    return norm


def _batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False),
        _with_statistics(nn.BatchNorm2d(2)),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8, 3, bias=False),
        _with_statistics(nn.BatchNorm1d(3)),
        nn.Tanh(),
        nn.Linear(3, 2),
    ).eval()


def _instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 2),
        _with_statistics(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)),
        nn.Tanh(),
        nn.Conv1d(3, 2, 2),
        nn.InstanceNorm1d(2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()


def _group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(12, 2)
    )


def _layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.Tanh(),
        nn.Linear(4, 3),
        nn.LayerNorm(3, bias=False),
        nn.Linear(3, 2),
    )


def _rms_norm() -> nn.Module:
    return nn.Sequential(nn.RMSNorm(3), nn.Linear(3, 4), nn.SiLU(), nn.RMSNorm(4), nn.Linear(4, 2))


def _weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(4, 2), dim=1),
    )


def _hooked_weight_norm() -> nn.Module:
    # The deprecated form: a forward pre-hook writes the weight as a plain attribute.
    return nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


def _spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
    ).eval()


def _orthogonal() -> nn.Module:
    return nn.Sequential(
        parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley"),
        nn.Tanh(),
        nn.Linear(3, 2),
    )


class _Symmetric(nn.Module):
    # A parametrization of the user's own.
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def _symmetric() -> nn.Module:
    layer = nn.Linear(3, 3)
    nn.utils.parametrize.register_parametrization(layer, "weight", _Symmetric())
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 1))


class _StandardisedWeights(nn.Module):
    # Weight standardisation before a norm, and a learned norm of features per row.
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
        self.g = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-3)
        h = nn.functional.linear(x, weight, self.layer.bias)
        return self.head(self.g * h / h.norm(dim=1, keepdim=True))


_x = real(3)
MODELS = (
    ZooModel("batch-norm-eval", _batch_norm, real(1, 3, 3), (2,)),
    ZooModel("instance-norm-eval", _instance_norm, real(2, 4), (2,)),
    ZooModel("group-norm", _group_norm, real(2, 4), (2,)),
    ZooModel("layer-norm-no-affine", _layer_norm, _x, (2,)),
    ZooModel("rms-norm", _rms_norm, _x, (2,)),
    ZooModel("weight-norm", _weight_norm, _x, (2,)),
    ZooModel(
        "weight-norm-hook",
        _hooked_weight_norm,
        _x,
        (2,),
        refused_as_copy=Refusal((ModelError,), "copied"),
    ),
    ZooModel("spectral-norm-eval", _spectral_norm, _x, (2,)),
    ZooModel("orthogonal", _orthogonal, _x, (2,)),
    ZooModel("symmetric-weight", _symmetric, _x, (1,)),
    ZooModel("weight-standardisation", _StandardisedWeights, real(4), (2,)),
)
