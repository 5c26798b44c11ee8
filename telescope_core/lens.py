"""The lens: attaches the telescoping model to a training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from telescope_core import _validation as check
from telescope_core._engine import EngineFactory, Strategy
from telescope_core._optimizer_watch import watch_step
from telescope_core._readings import Readings
from telescope_core._track import Track, restore_track
from telescope_core._trained_parameters import count_parameters, trained_parameters
from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.inputs import Inputs, Rows, call_arguments, count_rows, take_rows
from telescope_core.jacobians import Form, Layers, Linearizer, without_autocast
from telescope_core.labels import Loss
from telescope_core.layout import ParameterLayout
from telescope_core.losses import check_scalar
from telescope_core.smoother import Batch, RowSet
from telescope_core.update_rules import require_rule, rule_for

if TYPE_CHECKING:
    from telescope_core.alerts import AlertRule
    from telescope_core.live import LiveLog, Target
    from telescope_core.trackers import RunDescription

Probes = int | Literal["exact"] | None


class TelescopeLens(Readings):
    """Follows a training run as a sum of linearised updates.

    Wrap every training step in :meth:`step`; the lens changes nothing about training.  Read
    predictions, the smoother and all measures at any time.

    Args:
        model: The network, in the mode it is evaluated in (no active dropout, no batch
            statistics).
        optimizer: The optimizer in use; with probes it needs an update rule.
        loss: ``loss(outputs, targets) -> scalar``: the very callable used for training.
        train_inputs: Rows of the set named "train": a tensor, or a map-style dataset of rows.
        train_targets: Their targets: ``(n,)``, ``(n, k)`` or class indices.
        eval_sets: More inputs by name; labels are never needed.
        order: 2 for the trapezoid rule, 1 for the paper's first order (MATH section 1).
        stride: Steps between evaluations of all rows.  ``order=1, stride=1`` is the paper.
        probes: Label directions for the smoother: ``"exact"`` for all, a number to estimate, or
            ``None`` for predictions only.
        follow_train: Whether "train" is among the sets that are followed.  The smoother needs it;
            predictions on other sets do not, and cost less without it.
        deflate: At most this many of the probes (and at most half of them) are leading
            eigenvectors of the initial tangent kernel.
        seed: Seed of the random label directions.
        chunk_size: Rows of a set linearised at once; ``None`` for all.
        kernel_norms: Also measure norms of tangent-kernel rows, once per block.
        layer_shares: Also split effective parameters over layers (the modules that own the
            parameters), with probes.
        strategy: How the smoother is carried.  ``"parameter-space"``: by the trapezoid rule (first
            order: J at the start of a block), any optimizer with a rule.  ``"midpoint"``: by the
            midpoint rule, also second order, one product a step instead of two.
            ``"function-space"``: through the kernel alone, for plain gradient descent on a
            squared loss.  ``"auto"``: function space when the first step is a full-batch one to
            which it applies; otherwise midpoint for estimates of second order, and parameter
            space for the exact smoother and for first order.
        form: How Jacobians are represented, see :class:`telescope_core.jacobians.Linearizer`.

    Raises:
        ConfigurationError: A setting is out of range or contradicts another.
        ModelError: The model is random, couples rows or has no trained parameters.
        LossError: The loss is not a finite differentiable scalar.
        ShapeError: Inputs or targets of the wrong length, dtype or device.
        UnsupportedOptimizerError: Probes were asked for and the optimizer has no update rule.
        MemoryBudgetError: The smoother would not fit into memory.
        NonFiniteError: The network's outputs are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        train_inputs: Inputs,
        train_targets: Tensor,
        eval_sets: Mapping[str, Inputs] | None = None,
        *,
        order: Literal[1, 2] = 2,
        stride: int = 10,
        probes: Probes = 64,
        follow_train: bool = True,
        deflate: int = 16,
        seed: int = 0,
        chunk_size: int | None = None,
        kernel_norms: bool = False,
        layer_shares: bool = False,
        strategy: Strategy = "auto",
        form: Form = "auto",
    ) -> None:
        check.check_settings(order, stride, probes, deflate, seed, chunk_size)
        check.check_choice("strategy", strategy, get_args(Strategy))
        check.check_choice("form", form, get_args(Form))
        check.check_set_names(eval_sets or {})
        check.check_model(model)
        check.check_follow_train(follow_train, eval_sets, probes, kernel_norms)
        if probes is not None or kernel_norms:
            require_rule(optimizer)
        parameters = trained_parameters(model, optimizer)
        first = next(iter(parameters.values()))
        inputs: dict[str, Inputs] = {"train": train_inputs, **(eval_sets or {})}
        for name, rows in inputs.items():
            check.check_inputs(name, rows, first.device, first.dtype)
            check.check_accepts(model, name, take_rows(rows, slice(0, 1), first.device))
        check.check_targets(train_targets, count_rows(train_inputs), first.device, first.dtype)

        self._model = model
        self._optimizer = optimizer
        self._held = count_parameters(optimizer)
        self._order = order
        self._stride = stride
        self._targets = train_targets
        self._loss = loss
        layout = ParameterLayout(parameters, torch.promote_types(first.dtype, torch.float32))
        sample = take_rows(train_inputs, slice(0, 3), first.device)
        check.check_determinism(model, sample)
        self._linearizer = Linearizer(model, layout, sample, form)
        args, kwargs = call_arguments(model, sample)
        with torch.no_grad():
            sample_outputs = model(*args, **kwargs)
        check_scalar(loss, sample_outputs, train_targets[: count_rows(sample)])

        sets = {
            name: RowSet(self._linearizer, rows, chunk_size, first.device)
            for name, rows in inputs.items()
        }
        train = sets["train"] if follow_train else sets.pop("train")
        super().__init__(train, sets)
        theta = self._linearizer.theta()
        self._begin = partial(Track.begin, sets=self._sets, order=order, kernel_norms=kernel_norms)
        self._track = self._begin(theta)
        self._engines: EngineFactory | None = None
        if probes is not None:
            self._engines = EngineFactory(
                optimizer=optimizer,
                layout=layout,
                parameters=parameters,
                loss=loss,
                sample_outputs=sample_outputs,
                train_targets=train_targets,
                initial=self._track.f_0,
                order=order,
                probes=probes,
                deflate=deflate,
                seed=seed,
                strategy=strategy,
                layers=Layers.by_module(layout, first.device) if layer_shares else None,
            )
        if kernel_norms:
            self._kernel_rule = rule_for(optimizer, layout, parameters, 0, 0)
        self._failed = False
        self._now = (0, theta, self._track.at_start)

    # -- following a training loop ------------------------------------------------------------

    @contextmanager
    def step(
        self, index: Tensor, *, inputs: Rows | None = None, targets: Tensor | None = None
    ) -> Iterator[None]:
        """Wrap one training step: gradients, ``optimizer.step()`` and nothing after it.

        Args:
            index: Positions of the batch in the training set, int64, shape ``(b,)``.
            inputs: What the model really saw, when that differs from the stored rows
                (augmentation).  The stored rows then stand for them in all earlier blocks.
            targets: What the loss really saw, when that differs from the stored targets.

        Raises:
            ShapeError: The index is not a vector of positions in the training set.
            TrainingMismatchError: The optimizer did not step exactly once (with probes).
            NonFiniteError: The network's outputs became NaN or infinite.
        """
        if self._failed:
            raise TrainingMismatchError(
                "an earlier step failed after the parameters had moved, so the lens lost track; "
                "load a state_dict, or attach a new lens"
            )
        n = len(self._train)
        index = check.check_index(index, n, self._track.theta_0.device)
        track = self._track
        if self._engines is None and track.kernel_norms is None:
            yield
        else:
            batch = self._batch(index, inputs, targets)
            if self._engines is not None and track.engine is None:
                track.engine = self._engines.for_first_batch(batch, track.at_start)
            yield from self._follow(batch)
        track.step += 1
        if track.step - track.block_start == self._stride:
            self._close_block()
        for log in self._logs:
            log.after_step(self)

    def _follow(self, batch: Batch) -> Iterator[None]:
        """Take the batch in before the step, and the optimizer's update right after it."""
        engine = self._track.engine
        exactly = without_autocast(self._track.theta_0.device)
        if engine is not None:
            with exactly:
                engine.before_step(batch)
        kernel_norms = None if self._track.in_open_block else self._track.kernel_norms
        if kernel_norms is not None:
            batch.now  # noqa: B018  # linearise before the parameters move

        def after_update(skipped: frozenset[str]) -> None:
            if engine is not None:
                with exactly:
                    engine.after_update(skipped)
            if kernel_norms is not None:
                preconditioner = self._kernel_rule.preconditioner()
                kernel_norms.add(self._track.at_start, batch.now, preconditioner)

        def before_update() -> None:
            if count_parameters(self._optimizer) != self._held:
                raise TrainingMismatchError(
                    f"the optimizer holds {count_parameters(self._optimizer)} parameters, "
                    f"{self._held} when the lens was attached; attach a new lens after adding "
                    "or unfreezing parameters"
                )
            if engine is not None:
                with exactly:
                    engine.before_update(
                        self._linearizer.gradient,
                        lambda: self._recomputed_gradient(batch, watch.autocast),
                    )

        self._failed = True
        with watch_step(self._optimizer, self._model, before_update, after_update) as watch:
            try:
                yield
            except BaseException:
                self._failed = watch.steps > 0
                raise
        watch.require_one_step()
        self._failed = False

    def _recomputed_gradient(self, batch: Batch, autocast: torch.autocast) -> Tensor:
        """The batch's gradient by backpropagation, leaving the parameters' own alone."""

        def value(outputs: Tensor) -> Tensor:
            return self._loss(outputs, batch.targets)

        with autocast:
            return self._linearizer.backpropagate(batch.inputs, value)

    def _batch(self, index: Tensor, inputs: Rows | None, targets: Tensor | None) -> Batch:
        stored = inputs is None and targets is None
        labels = self._targets[index] if targets is None else targets
        given = {"targets": len(labels)} | (
            {} if inputs is None else {"inputs": count_rows(inputs)}
        )
        for name, rows in given.items():
            if rows != len(index):
                raise ConfigurationError(
                    f"step() was given {rows} {name} for {len(index)} positions"
                )

        def seen() -> Rows:
            return self._train.take(index) if inputs is None else inputs

        return Batch(
            index,
            seen,
            labels,
            self._engines.flat_labels(labels) if self._engines is not None else labels,
            linearizer=self._linearizer,
            theta=self._linearizer.theta,
            block_start=self._track.at_start["train"],
            at_block_start=not self._track.in_open_block,
            stored=stored,
        )

    def _close_block(self) -> None:
        track = self._track
        theta = self._linearizer.theta()
        now = self._linearize(theta)
        track.move_theta(theta)
        spans = track.spans(now)
        with without_autocast(theta.device):
            track.theta_path.close_block(spans)
            if track.engine is not None:
                track.engine.close_block(spans)
                track.engine.open_block(now)
        track.at_start = now
        track.block_start = track.step
        self._now = (track.step, theta, now)

    # -- logging -------------------------------------------------------------------------------

    def log_to(
        self,
        target: Target,
        *,
        description: RunDescription | None = None,
        every: int | None = None,
        alerts: Sequence[AlertRule] = (),
    ) -> LiveLog:
        """Log records while training goes on, from the next step on.

        Training neither waits for the tracker nor fails with it: records are handed over by a
        thread, and the first error of the tracker becomes a warning of :mod:`logging`.

        Args:
            target: A run of :mod:`telescope_core.trackers`, a tracker that is to start one, or a
                run of wandb that is already open, where all names get the prefix "telescope/".
            description: The run to start, if the target is a tracker.
            every: Steps from one record to the next; ``None`` for every tenth block, or every 50th
                of a lens without probes, which keeps logging at about one per cent of training.
            alerts: What to call for attention for, see :mod:`telescope_core.alerts`.

        Returns:
            The log; it may be closed before training ends, and is closed at exit.

        Raises:
            ConfigurationError: An argument does not fit the others or the lens.
        """
        # By name: what a pipeline's training depends on should not include the trackers.
        live = import_module("telescope_core.live")
        log: LiveLog = live.open_log(
            target,
            description,
            every=every,
            alerts=alerts,
            stride=self._stride,
            sets=self.sets,
            has_smoother=self._engines is not None,
        )
        self._logs.append(log)
        return log

    # -- checkpoints --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, beside the model's and optimizer's own state.

        Returns:
            ``{"tensors": {name: Tensor}, "state": {...}}``; the tensors fit safetensors, the
            state is plain JSON.
        """
        return self._track.state_dict(self._settings())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; restore the model and the optimizer first.

        Raises:
            ConfigurationError: The state belongs to a lens with other settings or sets, or is
                damaged; the lens is left as it was.
        """
        track = restore_track(state_dict, self._settings(), self._sets, self._begin, self._engines)
        self._track = track
        self._at_zero = {}
        start = next(iter(track.at_start.values()))
        self._now = (track.block_start, start.theta, track.at_start)
        self._failed = False

    def _settings(self) -> dict[str, Any]:
        engines = self._engines
        return {
            "order": self._order,
            "stride": self._stride,
            "parameters": self._track.theta_0.numel(),
            "sets": {name: len(rows) for name, rows in self._sets.items()},
            "probes": None if engines is None else engines.probes,
            "deflate": None if engines is None else engines.deflate,
            "seed": None if engines is None else engines.seed,
            "kernel_norms": self._track.kernel_norms is not None,
            "layer_shares": engines is not None and engines.layers is not None,
        }
