"""Small training scripts with the lens in three lines, and what each of them has to show.

A script takes the lens's class as an argument, so that the very same lines run with a lens that
follows, with one that does nothing, and with labels moved to either side.  All in float64.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from telescope_core.lens import TelescopeLens

STEP = 1e-5


class NoLens:
    """In place of a lens: does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def step(self, *arguments: Any, **options: Any) -> Any:
        return nullcontext()

    def batches(self, loader: Any) -> Any:
        return loader


@dataclass
class Ended:
    """A training that has ended.

    Attributes:
        model: The model.
        optimizer: Its optimizer, or several.
        lens: What followed.
        outputs: What the script itself evaluates at the end, by set.
    """

    model: torch.nn.Module
    optimizer: Any
    lens: Any
    outputs: dict[str, torch.Tensor]

    def everything(self) -> list[torch.Tensor]:
        """All that training leaves behind."""
        optimizers = self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)
        state = [v for o in optimizers for s in o.state.values() for v in s.values()]
        tensors = [*self.model.state_dict().values(), *(p.grad for p in self.model.parameters())]
        kept = [torch.as_tensor(v) for v in (*tensors, *state) if v is not None]
        dense = [v.to_dense() if v.layout is not torch.strided else v for v in kept]
        return [*dense, torch.get_rng_state()]


Script = Callable[..., Ended]
"""``script(Lens)``, with probes ``script(Lens, shift)``: labels are moved by ``shift``."""


def run(script: Script, *arguments: Any) -> Ended:
    """A run from the same streams as every other one."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # what scripts use
    return script(*arguments)


def followed(**options: Any) -> Callable[..., TelescopeLens]:
    """A lens with these options."""
    return partial(TelescopeLens, **options)


def assert_predictions(
    script: Script, *, share: float = 0.1, stride: int = 4, has_kinks: bool = False
) -> None:
    """Training is the same to the bit, and f̃ follows the network: closer with shorter blocks.

    Where few units decide, one kink may outweigh that.
    """
    alone, every, some = (
        run(script, lens)
        for lens in (NoLens, followed(probes=None, stride=1), followed(probes=None, stride=stride))
    )
    for other in (every, some):
        assert all(
            torch.equal(a, b) for a, b in zip(alone.everything(), other.everything(), strict=True)
        )
    for name, outputs in alone.outputs.items():
        f = outputs.reshape(len(outputs), -1)
        torch.testing.assert_close(every.lens.predictions(name).flatten(1), f)
        gaps = [
            float((lens.telescoped(name).flatten(1) - f).abs().mean())
            for lens in (every.lens, some.lens)
        ]
        lazy = float((every.lens.linearized(name).flatten(1) - f).abs().mean())
        assert lazy > 1e-6
        assert gaps[0] < share * lazy
        assert has_kinks or gaps[0] <= gaps[1] + 1e-9 * lazy


def assert_derivative(
    script: Script, labels: torch.Tensor, name: str = "test", **options: Any
) -> None:
    """With curvature S is the derivative of the trained network: by retraining, and to the bit."""
    generator = torch.Generator().manual_seed(8)
    v = torch.randn(labels.shape, generator=generator, dtype=torch.float64)
    up, down = (run(script, NoLens, sign * STEP * v).outputs[name] for sign in (1, -1))
    expected = (up - down) / (2 * STEP)
    ended = run(script, followed(probes="exact", curvature="full", stride=2, **options))
    S = ended.lens.smoother(name, reading="end-to-end")
    along = S.reshape(expected.numel(), v.numel()) @ v.flatten()
    assert (along - expected.flatten()).norm() < 1e-5 * expected.norm()
    alone = run(script, NoLens).everything()
    assert all(torch.equal(a, b) for a, b in zip(alone, ended.everything(), strict=True))
