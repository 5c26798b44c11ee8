"""One network, trained at the same time plainly and under lenses, each way on a copy of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.large_scale.schema import StreamedModel, StreamedTraining
from telescope_pipeline.study.training.measures import half_squared_error
from telescope_pipeline.study.training.optimizers import optimizer_of

Batch = tuple[Tensor, Tensor, Tensor]


def network(settings: StreamedModel, features: int, seed: int) -> nn.Sequential:
    """Linear layers with batch statistics, ReLU and dropout, and one output."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width in settings.hidden:
            layers.append(nn.Linear(features, width))
            if settings.batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers += [nn.ReLU(), nn.Dropout(settings.dropout)]
            features = width
        layers.append(nn.Linear(features, 1))
    return nn.Sequential(*layers)


class Way:
    """A copy of the network in training.

    Attributes:
        model: The copy.
        optimizer: Over its parameters.
        lens: What follows it, if anything.
        cpu_seconds: Processor time of a step, by block.
        wall_seconds: The same by the clock.
    """

    def __init__(self, model: nn.Module, training: StreamedTraining) -> None:
        self.model = model
        self.optimizer = optimizer_of(training.optimizer, model)
        self.lens: TelescopeLens | None = None
        self.cpu_seconds: list[float] = []
        self.wall_seconds: list[float] = []
        self._half = training.precision == "bfloat16"

    def train(self, block: Sequence[Batch], seed: int) -> None:
        """Take a step on every batch; the same masks for every way with the seed."""
        torch.manual_seed(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        for inputs, targets, ids in block:
            with self._followed(ids, targets):
                self.optimizer.zero_grad()
                with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._half):
                    outputs = self.model(inputs)
                half_squared_error(outputs.float(), targets).backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
        self.cpu_seconds.append((time.process_time() - cpu) / len(block))
        self.wall_seconds.append((time.perf_counter() - wall) / len(block))

    def _followed(self, ids: Tensor, targets: Tensor) -> AbstractContextManager[None]:
        if self.lens is None:
            return nullcontext()
        if self.lens.response is None:
            return self.lens.step()
        return self.lens.step(ids, targets=targets)
