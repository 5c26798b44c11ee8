"""Puts a lens together from what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from telescope_core.lens.cost import Rehearsal
from telescope_core.lens.feed import Feed, SampleId, picked
from telescope_core.lens.refusals import Refusals
from telescope_core.lens.run import Run
from telescope_core.lens.settings import DEFAULT_PROBES, Probes, Settings
from telescope_core.lens.sight import Sight
from telescope_core.lens.step import StepFollower
from telescope_core.lens.training import Training
from telescope_core.losses import Loss, resolved
from telescope_core.network import Network
from telescope_core.network.checks import check_set_names, check_targets
from telescope_core.network.inputs import Inputs, count_rows, for_model
from telescope_core.network.outputs import Output, check_output
from telescope_core.network.replicas import Replicas, checked_model
from telescope_core.network.samples import (
    Source,
    check_eval_rows,
    is_call,
    is_loader,
    sampled,
    spaced_batch,
)
from telescope_core.network.trained_parameters import TrainedParameters
from telescope_core.network.training_set import TrainingSet, training_set_of
from telescope_core.update_rules import require_rule

_ROWS_OF_A_LOSS = 8


@dataclass(frozen=True)
class Asked:
    """What a lens is to follow, as :class:`telescope_core.TelescopeLens` describes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    loss: Loss | str | int | None
    train_inputs: Source | None
    train_targets: Tensor | None
    eval_sets: Mapping[str, Source]
    eval_rows: int | None
    train_rows: int | None
    sample_id: SampleId
    output: Output
    replicas: Replicas | None = None

    def with_own_loss(self) -> Asked:
        """The same with the model itself, and with the loss as a function and its targets.

        Returns:
            What is asked for.

        Raises:
            TelescopeError: The model's own loss cannot be recognised.
        """  # what it calls raises
        check_output(self.output)
        model, replicas = checked_model(self.model)
        asked = replace(self, model=model, replicas=replicas)
        return asked if self.loss is None or callable(self.loss) else asked._with_recognised_loss()

    def _with_recognised_loss(self) -> Asked:
        rows, targets = self.train_inputs, self.train_targets
        is_batched = is_loader(rows)
        if is_batched:
            rows = spaced_batch(rows, _ROWS_OF_A_LOSS)
        loss, found = resolved(self.loss, self.model, self.output, cast(Inputs, rows), targets)
        return replace(self, loss=loss, train_targets=None if is_batched else found)

    @property
    def criterion(self) -> Loss | None:
        """The loss as a function."""
        return self.loss if callable(self.loss) else None

    def probes(self, setting: Probes | Literal["auto"]) -> Probes:
        """The number of probes, which depends on what was given."""
        if setting == "auto":
            return None if self.missing() else DEFAULT_PROBES
        return setting

    def for_model(self, rows: Inputs) -> Inputs:
        """Rows of a loader without what it gives beside the model's inputs."""
        return for_model(self.model, rows, self.sample_id)

    def missing(self, *, has_targets: bool | None = None) -> list[str]:
        """What a smoother needs and was not given.

        Args:
            has_targets: Whether the training set has targets; ``None`` where a loader may hold
                them.

        Returns:
            Names of arguments.
        """
        inputs = self.train_inputs
        if has_targets is None:
            has_targets = self.train_targets is not None or is_loader(inputs)
            has_targets |= isinstance(inputs, torch.utils.data.Dataset)
        given = {
            "optimizer": self.optimizer is not None,
            "loss": self.loss is not None,
            "train_inputs": inputs is not None,
            "train_targets": has_targets,
        }
        return [name for name, is_given in given.items() if not is_given]


@dataclass(frozen=True)
class Attached:
    """A lens in parts.

    Attributes:
        run: What is followed.
        feed: The batches that training draws.
        follower: Looks into steps; ``None`` where they are only counted.
        rehearsal: To estimate the cost; ``None`` without a training set.
        train_rows: Rows that have a position in the training set; ``None`` where they have none.
    """

    run: Run
    feed: Feed
    follower: StepFollower | None
    rehearsal: Rehearsal | None
    train_rows: int | None


def attach(asked: Asked, settings: Settings) -> Attached:
    """Put a lens together.

    Returns:
        Its parts.

    Raises:
        TelescopeError: What was given does not fit together, or cannot be followed.
    """  # what it calls raises
    check_eval_rows(asked.eval_rows)
    check_set_names(asked.eval_sets)
    output, loss = asked.output, asked.criterion
    refusals = Refusals(settings.on_refusal)
    if settings.looks_into_steps and asked.optimizer is not None:
        with refusals.or_smoother():
            require_rule(asked.optimizer)
        if refusals.reason is not None:
            settings = replace(settings, probes=None, kernel_norms=False)
    has_smoother = settings.probes is not None
    trained = TrainedParameters(asked.model, asked.optimizer, smoother=has_smoother)
    like = next(iter(trained.by_name.values()))
    training = _training_set(asked, like.device)
    is_streamed = training is not None and training.is_streamed
    has_targets = training is not None and training.targets is not None
    missing = asked.missing(has_targets=has_targets)
    settings.check_sets(asked.eval_sets, missing, is_streamed=is_streamed)
    if is_streamed and has_smoother:
        settings = replace(settings, strategy="replayed")
    inputs: dict[str, Inputs] = {}
    if settings.follow_train and training is not None:
        inputs["train"] = training.inputs
    network = Network(asked.model, training=False, output=output)
    for name, given in asked.eval_sets.items():
        source = network.called(given) if is_call(given) else given
        rows = sampled(name, source, asked.eval_rows, like.device, asked.sample_id)
        inputs[name] = asked.for_model(rows) if is_loader(source) else rows
    sight = Sight(asked.model, inputs, settings, output, like, asked.replicas)
    run = Run(settings, trained, sight, refusals)
    feed = Feed(asked.sample_id, is_needed=settings.looks_into_steps)
    follower = rehearsal = None
    if training is not None and training.targets is not None:
        check_targets(training.targets, count_rows(training.inputs), like)
        if loss is not None:
            with refusals.or_smoother():
                Training(asked.optimizer, loss, training).begin(run)
            if asked.optimizer is not None:
                rehearsal = Rehearsal(
                    *(asked.model, asked.optimizer, loss, training),
                    eval_sets={name: rows for name, rows in inputs.items() if name != "train"},
                    output=output,
                )
                if settings.looks_into_steps:
                    follower = StepFollower(run, asked.optimizer, loss, training, feed)
    refusals.on_giving_up(run.give_up_smoother)
    positions = None if training is None or is_streamed else training.n
    return Attached(run, feed, follower, rehearsal, positions)


def _training_set(asked: Asked, device: torch.device) -> TrainingSet | None:
    named = asked.sample_id is not None
    training = training_set_of(
        *(asked.train_inputs, asked.train_targets, asked.train_rows, asked.eval_rows, device),
        has_loss=asked.loss is not None,
        identify=partial(picked, sample_id=asked.sample_id) if named else None,
        without=asked.sample_id,
    )
    if training is None or not training.is_streamed:
        return training
    return replace(training, inputs=asked.for_model(training.inputs))
