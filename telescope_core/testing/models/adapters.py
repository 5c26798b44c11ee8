"""Fine-tuning: a frozen backbone with few trained parameters on top, inside or before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import OTHER_COPY, ZooModel, real, tokens
from telescope_core.testing.models.perceptrons import zeroed


class _LoRA(nn.Module):
    # A frozen layer and a trained product of low rank beside it, one factor of which starts at 0.
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Linear(inputs, 1, bias=False)
        self.up = zeroed(nn.Linear(1, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


class _MergedLoRA(nn.Linear):
    # As in loralib: eval() adds the product to the frozen weight, train() takes it out again.
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(1, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, 1))
        self.merged = False

    def train(self, mode: bool = True) -> _MergedLoRA:
        super().train(mode)
        if self.merged == mode:
            with torch.no_grad():
                self.weight += (-1 if mode else 1) * self.lora_B @ self.lora_A
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.lora_A.T @ self.lora_B.T


class _Prompted(nn.Module):
    # Learned vectors in front of the tokens of a frozen transformer.
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.requires_grad_(False)
        self.prompt = nn.Parameter(torch.randn(2, 4) / 2)

    def forward(self, indices: Tensor) -> Tensor:
        h = torch.cat([self.prompt.expand(len(indices), -1, -1), self.embedding(indices)], dim=1)
        return self.head(self.layer(h)[:, 0])


class _IA3(nn.Module):
    # Trained vectors that scale keys, values and hidden features of a frozen block.
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down = nn.Linear(3, 9), nn.Linear(3, 4), nn.Linear(4, 2)
        self.requires_grad_(False)
        self.key, self.value = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.hidden = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(query @ (self.key * key).transpose(1, 2), dim=-1)
        h = (x + weights @ (self.value * value)).mean(1)
        return self.down(self.hidden * functional.gelu(self.up(h)))


def _biases_only() -> nn.Module:
    body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return body


def _linear_probe() -> nn.Module:
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    return nn.Sequential(backbone.requires_grad_(False), nn.Tanh(), nn.Linear(3, 2)).eval()


_x = real(3)
MODELS = (
    ZooModel("lora", lambda: nn.Sequential(_LoRA(3, 4), nn.Tanh(), _LoRA(4, 2)), _x, (2,)),
    ZooModel(
        # In train mode, where it is not merged; its biases are trained, too.
        "lora-that-merges",
        lambda: nn.Sequential(_MergedLoRA(3, 4), nn.Tanh(), _MergedLoRA(4, 2)),
        _x,
        (2,),
        refused_as_copy=OTHER_COPY,
    ),
    ZooModel("prompt-tuning", _Prompted, tokens(5, 3), (2,)),
    ZooModel("ia3", _IA3, real(3, 3), (2,)),
    ZooModel("biases-only", _biases_only, _x, (2,)),
    ZooModel("linear-probe", _linear_probe, _x, (2,)),
)
