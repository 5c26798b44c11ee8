"""Chooses the smoother's label directions and its engine."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError, RefusalWarning
from telescope_core.jacobians import Layers, LinearizedRows, ModelFunction
from telescope_core.lens.settings import Settings
from telescope_core.losses import Loss, LossGradient
from telescope_core.memory import check_memory
from telescope_core.network.training_set import TrainingSet
from telescope_core.probes import (
    Directions,
    LabelDirections,
    StreamedDirections,
    exact_directions,
    leading_eigenvectors,
    random_directions,
)
from telescope_core.smoother import (
    Batch,
    FunctionSpaceSmoother,
    MomentumSpaceSmoother,
    ParameterSpaceSmoother,
    Problem,
    Replay,
    ReplayedSmoother,
    Smoother,
    below,
    quadrature_of,
)
from telescope_core.update_rules import rule_for

_ENGINES: dict[str, type[Smoother]] = {
    "parameter-space": ParameterSpaceSmoother,
    "midpoint": ParameterSpaceSmoother,
    "function-space": FunctionSpaceSmoother,
    "replayed": ReplayedSmoother,
}


class EngineFactory:
    """Makes the smoother's engine once the first batch is known.

    Attributes:
        problem: What engines are made from.
        layers: The layers whose contributions are followed; ``None`` for none.

    Raises:
        ConfigurationError: More probes than labels, or a strategy or a response that does not
            apply.
        LossError: The loss has no derivative with respect to the labels.
        MemoryBudgetError: The engine would not fit into memory.
    """

    def __init__(
        self,
        settings: Settings,
        function: ModelFunction,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        training: TrainingSet,
        f: Tensor,
        initial: Mapping[str, Tensor],
        replay: Replay | None = None,
    ) -> None:
        assert settings.probes is not None
        assert training.targets is not None
        self._settings = settings
        self._like = f
        targets = training.targets
        f = f.reshape(len(f), *function.output_shape)
        gradient = LossGradient(loss, f, targets, settings.response)
        if gradient.response is None:
            _warn_of_no_response()
        layout, parameters = function.layout, function.parameters
        split = settings.layer_shares
        whole = layout if replay is None else replay.linearizer.function.layout
        self.layers = Layers.by_module(whole, self._like.device) if split else None
        self.problem = Problem(
            labels=gradient.labels.flat(targets),
            n=training.n,
            loss=gradient,
            initial=initial,
            theta=function.theta(),
            layout=layout,
            eps=torch.finfo(next(iter(parameters.values())).dtype).eps,
            make_rule=partial(rule_for, optimizer, layout, parameters),
            quadrature=quadrature_of(settings.order),
            layers=self.layers,
            replay=replay,
            is_streamed=training.is_streamed,
            sample=training.ids,
        )
        self.label_count = training.n * gradient.labels.width
        self._count: int = self.label_count if settings.probes == "exact" else settings.probes
        if self._count > self.label_count:
            raise ConfigurationError(
                f"probes={self._count} exceeds the {self.label_count} labels (n times label "
                f'width); use at most {self.label_count}, or probes="exact"'
            )
        self._before_training: Smoother | None = None
        self._candidates = self._applicable()
        self._check_memory(self._candidates)

    def for_first_batch(self, batch: Batch, at_start: Mapping[str, LinearizedRows]) -> Smoother:
        """The engine for a run that starts with this batch, its first block opened."""
        *special, general = self._candidates
        name = next((n for n in special if self._class_of(n).suits(self.problem, batch)), general)
        self._check_memory([name])
        engine = self._make(name, self._choose_directions(at_start))
        engine.open_block(at_start)
        self._before_training = None
        return engine

    def before_training(self, at_start: Mapping[str, LinearizedRows]) -> Smoother:
        """An engine for reading at step 0, when the first batch is not known yet."""
        if self._before_training is None:
            name = "parameter-space" if self.problem.replay is None else "replayed"
            engine = self._make(name, self._choose_directions(at_start))
            engine.open_block(at_start)
            self._before_training = engine
        return self._before_training

    def marks_gradients(self, engine: Smoother | None) -> bool:
        """Whether the engine, or one that may be chosen, asks if gradients were written to."""
        if engine is not None:
            return engine.marks_gradients
        return any(self._class_of(name).marks_gradients for name in self._candidates)

    def restore(
        self,
        name: str,
        deflated: int,
        tensors: Mapping[str, Tensor],
        theta_0: Tensor,
        initial: Mapping[str, Tensor],
    ) -> Smoother:
        """The engine of a checkpoint."""
        weights = tensors["directions/weights"].clone()
        directions: Directions
        if self.problem.is_streamed:
            directions = self._streamed_directions()
        else:
            basis = tensors["directions/basis"].clone()
            directions = LabelDirections(basis, weights, deflated)
        self.problem = replace(self.problem, theta=theta_0, initial=initial)
        engine = self._make(name, directions)
        engine.load(below("engine/", tensors))
        return engine

    def _make(self, name: str, directions: Directions) -> Smoother:
        return self._class_of(name)(self._problem_of(name), directions)

    def _class_of(self, name: str) -> type[Smoother]:
        if name == "function-space" and not self.problem.make_rule(0, 0).is_plain:
            return MomentumSpaceSmoother
        return _ENGINES[name]

    def _problem_of(self, name: str) -> Problem:
        halfway = name == "midpoint" or (name == "replayed" and self._settings.order == 2)
        return replace(self.problem, quadrature="midpoint") if halfway else self.problem

    def _streamed_directions(self) -> StreamedDirections:
        m = self._count
        weights = self._like.new_full((m,), 1 / m)
        width = self.problem.labels.shape[1]
        return StreamedDirections(self.problem.n, width, weights, self._settings.seed)

    def _choose_directions(self, at_start: Mapping[str, LinearizedRows]) -> Directions:
        if self.problem.is_streamed:
            return self._streamed_directions()
        n, width = self.problem.labels.shape
        if self._count == self.label_count:
            return exact_directions(n, width, self._like)
        k, seed = self._like.shape[1], self._settings.seed
        count = min(self._settings.deflate, self._count // 2) if width == k else 0
        leading = None
        if count:
            leading = leading_eigenvectors(at_start["train"], (n, k), count, seed, self._like)
        return random_directions(n, width, self._count, leading, seed, self._like)

    def _applicable(self) -> list[str]:
        """The engines that may be used, the one for any run last."""
        strategy = self._settings.strategy
        if self.problem.replay is not None:
            return ["replayed"]
        if strategy != "auto":
            reason = self._class_of(strategy).reason_against(self.problem)
            if reason is not None:
                raise ConfigurationError(reason)
            return [strategy]
        estimates = self._count < self.label_count
        anywhere = "midpoint" if estimates and self._settings.order == 2 else "parameter-space"
        special = FunctionSpaceSmoother.reason_against(self.problem) is None
        return ["function-space", anywhere] if special else [anywhere]

    def bytes_of(self, name: str, count: int | None = None) -> int:
        """Bytes of all arrays of an engine, by default with the directions of this run."""
        directions = self._count if count is None else count
        entries = self._class_of(name).entries(self._problem_of(name), directions)
        return entries * self._like.dtype.itemsize

    def _check_memory(self, names: Sequence[str]) -> None:
        """Refuse label directions that fit into none of the named engines."""

        def needed(count: int) -> int:
            return min(self.bytes_of(name, count) for name in names)

        def advice(usable: int) -> str:
            fitting = max(0, bisect_right(range(self._count), usable, key=needed) - 1)
            return (
                f"probes={fitting} would fit" if fitting else "use probes=None or a smaller model"
            )

        what = f"probes={self._settings.probes!r} with {self.problem.layout.size:,} parameters"
        check_memory(needed(self._count), self._like.device, what, advice)


def _warn_of_no_response() -> None:
    warnings.warn(
        "the loss does not tell what the outputs stand for (predictions, or logits of which "
        "probabilities?), so degrees of freedom are left out and the smoother is measured as a "
        'sensitivity only; pass response="identity", "softmax", "sigmoid" or "exp" to the lens',
        RefusalWarning,
        stacklevel=2,
    )
