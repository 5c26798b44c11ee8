"""What following a run will cost, measured on copies before it starts.

The cost depends on the model's layers, the batch, the sets and the engine in ways that counting
operations does not foretell (a small network's step is all overhead).  So a few steps are really
taken: of a copy of the model and its optimizer, once plainly and once under a lens of its own.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from telescope_core.arguments import check_integer
from telescope_core.errors import ConfigurationError, ModelError
from telescope_core.lens.settings import Settings
from telescope_core.network.inputs import Inputs, call_arguments, count_rows, take_rows
from telescope_core.network.outputs import Output, selected
from telescope_core.network.streams import kept_streams

if TYPE_CHECKING:
    from telescope_core.lens.lens import TelescopeLens
    from telescope_core.losses import Loss
    from telescope_core.network.training_set import TrainingSet

_PLAIN_STEPS = 200
# With a smoother: the first step of a block, one in the middle, and the one that closes it.
# Predictions cost little and are checked at the first four blocks, then at every fourth.
_STRIDE = {True: 3, False: 12}
_WARM_UP = {True: 2, False: 4}
_BLOCKS = {True: 4, False: 8}


@dataclass(frozen=True)
class Cost:
    """What a lens will cost, see :meth:`telescope_core.TelescopeLens.estimate_cost`.

    Attributes:
        batch_size: Rows of the batch.
        stride: Steps of a block.
        strategy: The smoother's engine, ``None`` for predictions only.
        plain_seconds: A step of plain training.
        lens_seconds: A step with the lens, averaged over a block.
        first_seconds: What the first step takes beyond that, once.
        record_seconds: Reading a record at the end of a block.
        smoother_bytes: The smoother's arrays.
    """

    batch_size: int
    stride: int
    strategy: str | None
    plain_seconds: float
    lens_seconds: float
    first_seconds: float
    record_seconds: float
    smoother_bytes: int

    @property
    def ratio(self) -> float:
        """The time of a step with the lens over that of plain training."""
        return self.lens_seconds / self.plain_seconds

    def __str__(self) -> str:
        engine = "predictions only" if self.strategy is None else self.strategy
        return (
            f"{self.ratio:.1f} times plain training: {_time(self.lens_seconds)} a step instead of "
            f"{_time(self.plain_seconds)} (batches of {self.batch_size}, blocks of {self.stride}, "
            f"{engine}); once {_time(self.first_seconds)}, a record {_time(self.record_seconds)}; "
            f"the smoother holds {self.smoother_bytes / 1e6:,.1f} MB"
        )


@dataclass(frozen=True)
class Rehearsal:
    """What a lens was made of, to make another one around copies."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    training: TrainingSet
    eval_sets: Mapping[str, Inputs]
    output: Output = None

    def cost(
        self, make: Callable[..., TelescopeLens], settings: Settings, batch_size: int | None
    ) -> Cost:
        """Take some steps on copies.

        Args:
            make: The class of the lens.
            settings: Its settings.
            batch_size: Rows of a batch; ``None`` for all.

        Returns:
            What they took.

        Raises:
            ConfigurationError: There are not so many rows.
            ModelError: Model or optimizer cannot be copied.
        """
        n = count_rows(self.training.inputs)
        rows = n if batch_size is None else batch_size
        check_integer("batch_size", rows, 1, "rows of a batch")
        if rows > n:
            raise ConfigurationError(
                f"batch_size={rows} exceeds the {n} rows of train_inputs; give the rows of a batch"
            )
        with kept_streams(), torch.enable_grad():
            return self._side_by_side(make, settings, rows)

    def _side_by_side(
        self, make: Callable[..., TelescopeLens], settings: Settings, rows: int
    ) -> Cost:
        step, (model, optimizer, loss) = self._training(rows)
        plain_step, _ = self._training(rows)
        has_smoother = settings.probes is not None
        short = replace(settings, stride=min(settings.stride, _STRIDE[has_smoother]))
        training = self.training
        lens = make(
            *(model, optimizer, loss, training.inputs, training.targets, self.eval_sets),
            train_rows=training.n if training.is_streamed else None,
            output=self.output,
            **asdict(short),
        )
        index = torch.arange(rows, device=self._targets.device)
        targets = self._targets[:rows] if training.is_streamed else None

        def followed() -> None:
            with lens.step(index, targets=targets):
                step()

        def block() -> list[float]:
            return [self._seconds(followed) for _ in range(short.stride)]

        first = block()[0]
        for _ in range(_WARM_UP[has_smoother] - 1):
            block()
        blocks, plain = [], []
        for _ in range(_BLOCKS[has_smoother]):
            blocks.append(block())
            plain.append(self._mean_seconds(plain_step, sum(blocks[-1])))
        # In a block of the real length there are more steps like the second.
        inside = [statistics.median(times) for times in zip(*blocks, strict=True)]
        closing = statistics.mean(times[-1] for times in blocks)
        middle = inside[1 if short.stride > 2 else 0]
        more = settings.stride - short.stride
        return Cost(
            batch_size=rows,
            stride=settings.stride,
            strategy=lens.strategy,
            plain_seconds=statistics.median(plain),
            lens_seconds=(sum(inside[:-1]) + more * middle + closing) / settings.stride,
            first_seconds=max(0.0, first - inside[0]),
            record_seconds=self._seconds(lens.snapshot),
            smoother_bytes=lens._run.smoother_bytes,
        )

    def _training(self, rows: int) -> tuple[Callable[[], None], tuple[Any, Any, Any]]:
        """A step of plain training on copies, and the copies."""
        try:
            copies = copy.deepcopy((self.model, self.optimizer, self.loss))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the model or its optimizer cannot be copied ({type(error).__name__}: {error}), "
                "and estimate_cost() trains a copy for some steps; time some steps of your own "
                "with and without the lens instead"
            ) from error
        model, optimizer, loss = copies
        index = torch.arange(rows, device=self._targets.device)
        seen = take_rows(self.training.inputs, index, self._device)
        targets = self._targets[index]
        inputs, named = call_arguments(model, seen)

        def step() -> None:
            optimizer.zero_grad()
            outputs = selected(model(*inputs, **named), self.output)
            value: Tensor = loss(outputs, targets)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step, copies

    @property
    def _targets(self) -> Tensor:
        assert self.training.targets is not None
        return self.training.targets

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _mean_seconds(self, act: Callable[[], object], at_least: float) -> float:
        """The mean over about as much time as the lens took, so that both see the same machine."""
        times = [self._seconds(act) for _ in range(2)]
        while sum(times) < at_least and len(times) < _PLAIN_STEPS:
            times.append(self._seconds(act))
        return statistics.mean(times)

    def _seconds(self, act: Callable[[], object]) -> float:
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self._device)
        started = time.perf_counter()
        act()
        if on_gpu:
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
