"""Chooses the smoother's label directions and its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import Layers
from telescope_core.losses.gradient import LossGradient
from telescope_core.losses.labels import Loss
from telescope_core.network import checks as check
from telescope_core.network.layout import ParameterLayout
from telescope_core.probes import (
    LabelDirections,
    exact_directions,
    leading_eigenvectors,
    random_directions,
)
from telescope_core.smoother import (
    Batch,
    FunctionSpaceSmoother,
    LinearizedRows,
    MidpointSmoother,
    ParameterSpaceSmoother,
    Smoother,
    below,
)
from telescope_core.smoother.gradient_check import GradientCheck
from telescope_core.update_rules import rule_for

Strategy = Literal["auto", "parameter-space", "midpoint", "function-space"]

# Arrays of shape (p, columns) alive at once in parameter space: A, its block start, a difference,
# the gradient, a momentum buffer and, for the trapezoid, the start of the block before.
_PARAMETER_SPACE_ARRAYS = {"parameter-space": 6, "midpoint": 5}


class EngineFactory:
    """Makes the smoother's engine once the first batch is known.

    Args:
        optimizer: The optimizer in use.
        layout: Order of the trained parameters.
        parameters: The trained parameters by name.
        loss: The training loss.
        output_shape: Shape of one row of the model's output.
        train_targets: All training targets.
        initial: Per set, the outputs ``f_{θ_0}``, shape ``(rows, k)``.
        order: 1 or 2.
        probes: ``"exact"`` or a number of label directions.
        deflate: Upper bound on the deflated ones.
        seed: Seed of the random ones.
        strategy: The engine, or ``"auto"``.
        layers: To follow the contributions of layers; ``None`` not to.

    Raises:
        ConfigurationError: More probes than labels, or a strategy that does not apply.
        LossError: The loss has no derivative with respect to the labels.
        MemoryBudgetError: The engine would not fit into memory.
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        layout: ParameterLayout,
        parameters: dict[str, Tensor],
        loss: Loss,
        output_shape: tuple[int, ...],
        train_targets: Tensor,
        initial: Mapping[str, Tensor],
        order: int,
        probes: int | Literal["exact"],
        deflate: int,
        seed: int,
        strategy: Strategy,
        layers: Layers | None = None,
    ) -> None:
        self.probes = probes
        self.deflate = deflate
        self.seed = seed
        self.layers = layers
        self._order = order
        self._initial = initial
        self._layout = layout
        self._like = initial["train"]
        self.make_rule = partial(rule_for, optimizer, layout, parameters)
        self._is_plain = self.make_rule(0, 0).is_plain
        self._gradient = LossGradient(
            loss, self._like.reshape(len(self._like), *output_shape), train_targets
        )
        self._labels = self.flat_labels(train_targets)
        if probes != "exact":
            check.check_probe_count(probes, self.label_count)
        self._theta = layout.flatten(parameters)
        self._precision = next(iter(parameters.values())).dtype
        self._before_training: Smoother | None = None
        self._candidates = self._applicable(strategy)
        self._check_memory(self._candidates)

    @property
    def is_quadratic(self) -> bool:
        """Whether ``S·Y + c`` exists."""
        return self._gradient.is_quadratic

    @property
    def label_count(self) -> int:
        """Number of labels, ``n`` times the label width."""
        return self._labels.numel()

    def flat_labels(self, targets: Tensor) -> Tensor:
        """Targets as labels of shape ``(rows, label_width)``."""
        return self._gradient.labels.flat(targets)

    def for_first_batch(self, batch: Batch, at_start: Mapping[str, LinearizedRows]) -> Smoother:
        """The engine for a run that starts with this batch, its first block opened."""
        full = len(batch.index) == len(self._labels) and int(batch.index.bincount().max()) == 1
        name = self._candidates[0]
        if len(self._candidates) > 1 and full and batch.stored and self._has_scale(batch):
            name = "function-space"
        self._check_memory([name])
        engine = self._make(name, self._choose_directions(at_start["train"]))
        engine.open_block(at_start)
        self._before_training = None
        return engine

    def before_training(self, at_start: Mapping[str, LinearizedRows]) -> Smoother:
        """An engine for reading at step 0, when the first batch is not known yet."""
        if self._before_training is None:
            engine = self._make("parameter-space", self._choose_directions(at_start["train"]))
            engine.open_block(at_start)
            self._before_training = engine
        return self._before_training

    def restore(
        self,
        name: str,
        deflated: int,
        tensors: Mapping[str, Tensor],
        theta_0: Tensor,
        initial: Mapping[str, Tensor],
    ) -> Smoother:
        """The engine of a checkpoint."""
        basis, weights = tensors["directions/basis"], tensors["directions/weights"]
        self._theta, self._initial = theta_0, initial
        engine = self._make(name, LabelDirections(basis.clone(), weights.clone(), deflated))
        engine.load(below("engine/", tensors))
        return engine

    def _make(self, name: str, directions: LabelDirections) -> Smoother:
        gradient_check = GradientCheck(self._precision, self._layout)
        if name == "function-space":
            return FunctionSpaceSmoother(
                directions,
                self._labels,
                self._gradient,
                self._initial,
                gradient_check,
                self._order,
                self.make_rule(0, 0),
            )
        kind = MidpointSmoother if name == "midpoint" else ParameterSpaceSmoother
        return kind(
            directions,
            self._labels,
            self._gradient,
            self._initial,
            gradient_check,
            self._order,
            self._theta,
            self.make_rule,
            self.layers,
        )

    def _choose_directions(self, train: LinearizedRows) -> LabelDirections:
        n, width = self._labels.shape
        if self.probes == "exact" or self.probes == n * width:
            return exact_directions(n, width, self._like)
        k = self._like.shape[1]
        count = min(self.deflate, self.probes // 2) if width == k else 0
        leading = None
        if count:
            leading = leading_eigenvectors(train, (n, k), count, self.seed, self._like)
        return random_directions(n, width, self.probes, leading, self.seed, self._like)

    def _has_scale(self, batch: Batch) -> bool:
        return self._gradient.scale(batch.targets) is not None

    def _applicable(self, strategy: Strategy) -> list[str]:
        """The engines that may be used, the one for any run first."""
        if strategy == "function-space":
            self._require_function_space()
        if strategy == "midpoint" and self._order != 2:
            raise ConfigurationError(
                f"strategy='midpoint' is second order, but order={self._order}; use order=2, or "
                "strategy='auto' or 'parameter-space'"
            )
        if strategy != "auto":
            return [strategy]
        estimates = self.probes not in ("exact", self.label_count)
        anywhere = "midpoint" if estimates and self._order == 2 else "parameter-space"
        if self._is_plain and self.is_quadratic and self.layers is None:
            return [anywhere, "function-space"]
        return [anywhere]

    def _require_function_space(self) -> None:
        if self.layers is not None:
            raise ConfigurationError(
                "layer_shares=True needs the parameters, which strategy='function-space' does not "
                "follow; use strategy='auto' or 'parameter-space'"
            )
        if not (self._is_plain and self._gradient.is_quadratic):
            raise ConfigurationError(
                "strategy='function-space' is for plain SGD (no momentum, no weight decay, one "
                "learning rate) on a squared loss; use strategy='auto' or 'parameter-space'"
            )

    def _check_memory(self, names: Sequence[str]) -> None:
        """Refuse label directions that fit into none of the named engines."""
        asked = self.label_count if self.probes == "exact" else self.probes

        def needed(count: int) -> int:
            return min(self._bytes(name, count) for name in names)

        what = f"probes={self.probes!r} with {self._layout.size:,} parameters"
        check.check_memory(needed, asked, self._like.device, what)

    def _bytes(self, name: str, count: int) -> int:
        """Memory of an engine with so many label directions."""
        columns = count + (2 if self.is_quadratic else 0)
        outputs = sum(f.numel() for f in self._initial.values())
        entries = self.label_count * count
        if name in _PARAMETER_SPACE_ARRAYS:
            arrays = _PARAMETER_SPACE_ARRAYS[name]
            split = 0 if self.layers is None else self.layers.count
            entries += columns * (arrays * self._layout.size + (2 + split) * outputs)
        else:
            kernels = 3 * outputs * self.label_count
            entries += kernels + columns * (2 * outputs + 4 * self.label_count)
        return entries * self._like.dtype.itemsize
