"""Forward hooks that are a part of the function, and hooks that only watch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.testing.models.entry import OTHER_COPY, ZooModel, real


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def _scaled_output() -> nn.Module:
    body = _body()
    body[0].register_forward_hook(lambda _module, _inputs, output: 1.7 * output)
    return body


def _changed_input() -> nn.Module:
    body = _body()
    body[2].register_forward_pre_hook(lambda _module, inputs: (inputs[0] ** 2 - inputs[0],))
    return body


def _steered() -> nn.Module:
    # A learned vector added to a layer's output by a hook, as in activation steering.
    body = _body()
    steer = nn.Parameter(torch.zeros(4))
    body.register_parameter("steer", steer)
    body[0].register_forward_hook(lambda _module, _inputs, output: output + body.steer)
    return body


class _Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Linear(3, 2)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * torch.tanh(self.gain(x))


def _changed_keywords() -> nn.Module:
    inner = _Keywords()

    def before(
        _: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, keywords | {"scale": 2.5}

    inner.register_forward_pre_hook(before, with_kwargs=True)
    return nn.Sequential(nn.Linear(3, 3), inner)


class _Watched(nn.Module):
    # Features kept by hooks, as feature extractors do.
    def __init__(self) -> None:
        super().__init__()
        self.body = _body()
        self.features: dict[str, Tensor] = {}
        for name, module in self.body.named_children():
            module.register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            self.features[name] = output

        return keep

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


_x = real(3)
MODELS = (
    ZooModel("hook-scales-output", _scaled_output, _x, (2,)),
    ZooModel("hook-changes-input", _changed_input, _x, (2,)),
    ZooModel("hook-steers", _steered, _x, (2,), refused_as_copy=OTHER_COPY),
    ZooModel("hook-changes-keywords", _changed_keywords, _x, (2,)),
    ZooModel("hook-watches", _Watched, _x, (2,)),
)
