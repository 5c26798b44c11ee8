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
from telescope_core import complexity
from telescope_core._engine import EngineFactory, Strategy
from telescope_core._optimizer_watch import watch_step
from telescope_core._track import Track, restore_track
from telescope_core._trained_parameters import count_parameters, trained_parameters
from telescope_core.complexity import (
    classical_degrees_of_freedom,
    degrees_of_freedom,
    effective_parameters,
    effective_parameters_per_example,
)
from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.inputs import Inputs, Rows, call_arguments, count_rows, take_rows
from telescope_core.jacobians import Form, Layers, Linearizer, without_autocast
from telescope_core.labels import Loss
from telescope_core.layout import ParameterLayout
from telescope_core.losses import check_scalar
from telescope_core.smoother import Batch, LinearizedRows, RowSet, Smoother
from telescope_core.snapshot import Snapshot
from telescope_core.update_rules import require_rule, rule_for

if TYPE_CHECKING:
    from telescope_core.alerts import AlertRule
    from telescope_core.live import LiveLog, Target
    from telescope_core.trackers import RunDescription

Probes = int | Literal["exact"] | None


class TelescopeLens:
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

        self._sets = {
            name: RowSet(self._linearizer, rows, chunk_size, first.device)
            for name, rows in inputs.items()
        }
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
        self._logs: list[LiveLog] = []
        self._at_zero: dict[str, LinearizedRows] = {}

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
        n = len(self._sets["train"])
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
        block_ended = track.step - track.block_start == self._stride
        if block_ended:
            self._close_block()
        for log in self._logs:
            log.after_step(self, block_ended)

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
            return self._sets["train"].take(index) if inputs is None else inputs

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

    def _linearize(self, theta: Tensor) -> dict[str, LinearizedRows]:
        return {name: rows.linearize(theta) for name, rows in self._sets.items()}

    def _current(self) -> dict[str, LinearizedRows]:
        """Every set linearised at the parameters as they are now."""
        step, theta_then, now = self._now
        theta = self._linearizer.theta()
        if step != self._track.step or not torch.equal(theta, theta_then):
            now = self._linearize(theta)
            self._now = (self._track.step, theta, now)
            self._track.move_theta(theta)
        return now

    # -- reading ------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Training steps followed so far."""
        return self._track.step

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, "train" first."""
        return tuple(self._sets)

    @property
    def strategy(self) -> str | None:
        """The smoother's engine in use; ``None`` before the first step or without probes."""
        return None if self._track.engine is None else self._track.engine.name

    def predictions(self, name: str) -> Tensor:
        """The network's own outputs f on a set, shape ``(rows, k)``."""
        self._require_set(name)
        return self._current()[name].outputs.clone()

    def telescoped(self, name: str) -> Tensor:
        """The telescoped predictions f̃ on a set, shape ``(rows, k)`` (Eq. 5 i; MATH section 1)."""
        self._require_set(name)
        spans = self._track.spans(self._current())
        return self._track.theta_path.value(name, spans[name])[..., 0]

    def linearized(self, name: str) -> Tensor:
        """The lazy linearisation ``f_{θ_0} + J_0 (θ_t − θ_0)`` on a set, shape ``(rows, k)``."""
        self._require_set(name)
        track = self._track
        displacement = self._linearizer.theta() - track.theta_0
        at_zero = self._at_zero.get(name) or self._sets[name].linearize(track.theta_0)
        if self._logs:
            # Half of what a record costs; memory as for the start of a block.
            self._at_zero[name] = at_zero
        return track.f_0[name] + at_zero.jvp(displacement[:, None])[..., 0]

    def smoother(self, name: str) -> Tensor:
        """``S_t`` on a set, exact probes only.

        Returns:
            ``(rows, n)`` for one output and one label per point, else ``(rows, k, n, labels)``.

        Raises:
            ConfigurationError: The lens does not carry all label directions.
        """
        engines = self._require_probes("smoother")
        if engines.probes != "exact":
            raise ConfigurationError(
                f"smoother() needs all label directions, but probes={engines.probes!r}; create "
                'the lens with probes="exact", or read effective parameters instead'
            )
        S = self._columns(name)[..., : engines.label_count]
        rows, k = S.shape[:2]
        full = S.reshape(rows, k, len(self._sets["train"]), -1)
        return full[:, 0, :, 0] if full.shape[1] * full.shape[3] == 1 else full

    def constant(self, name: str) -> Tensor:
        """``c_t`` on a set: the part of ``S·Y + c`` that no label contributes to; squared loss.

        Returns:
            ``(rows,)`` for one output, else ``(rows, k)``.

        Raises:
            ConfigurationError: There is no smoother, or the loss is not quadratic.
        """
        return self._affine(name, -2)

    def smoothed(self, name: str) -> Tensor:
        """``S·Y + c`` on a set, for any number of probes; squared loss.

        Returns:
            ``(rows,)`` for one output, else ``(rows, k)``.

        Raises:
            ConfigurationError: There is no smoother, or the loss is not quadratic.
        """
        return self._affine(name, -1)

    def effective_parameters_per_example(self, name: str) -> Tensor:
        """Each row's ``n/k · ‖s(x)‖²``: which points the model spends its parameters on.

        Returns:
            Float64, shape ``(rows,)``; the mean is the set's effective parameters.

        Raises:
            ConfigurationError: There is no smoother.
        """
        self._require_probes("effective_parameters_per_example")
        engine = self._require_engine()
        S = self._columns(name)[..., : engine.directions.count]
        return effective_parameters_per_example(S, engine.directions, engine.model(name))

    def effective_parameters_by_layer(self, name: str) -> dict[str, float]:
        """How a set's effective parameters split over layers: which layer has learned it.

        Returns:
            Per layer its share, which may be negative where it works against the others; they add
            up to the set's effective parameters.  NaN before the first step.

        Raises:
            ConfigurationError: The lens was not created with ``layer_shares=True`` and probes.
        """
        layers = self._require_layers()
        engine = self._require_engine()
        S = self._columns(name)[..., : engine.directions.count]
        total, _ = effective_parameters(S, engine.directions, engine.model(name))
        spans = self._track.spans(self._current())
        by_layer = engine.values_by_layer(name, spans)[..., : engine.directions.count]
        shares = complexity.layer_shares(by_layer, engine.directions)
        return dict(zip(layers.names, (total * shares).tolist(), strict=True))

    def classical_degrees_of_freedom(self) -> float:
        """``tr(2S − SSᵀ)`` on the training set.

        Raises:
            ConfigurationError: There is no smoother.
        """
        self._require_probes("classical_degrees_of_freedom")
        engine = self._require_engine()
        S = self._columns("train")[..., : engine.directions.count]
        return classical_degrees_of_freedom(S, engine.directions, engine.model("train"))

    def snapshot(self) -> Snapshot:
        """Measure everything at the current step; right also inside a block."""
        metrics: dict[str, float] = {}
        for name in self._sets:
            f = self.predictions(name)
            metrics[f"{name}/approximation_error"] = _mean_gap(f, self.telescoped(name))
            metrics[f"{name}/linearization_error"] = _mean_gap(f, self.linearized(name))
            if self._engines is not None:
                metrics |= self._smoother_metrics(name, f)
            if self._track.kernel_norms is not None:
                metrics |= self._track.kernel_norms.record(name)
        return Snapshot(self._track.step, metrics)

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
            every: Steps from one record to the next; ``None`` for the ends of blocks, where a
                record costs least.
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
            sets=self.sets,
            has_smoother=self._engines is not None,
        )
        self._logs.append(log)
        return log

    def _smoother_metrics(self, name: str, f: Tensor) -> dict[str, float]:
        engine = self._require_engine()
        columns = self._columns(name)
        S = columns[..., : engine.directions.count]
        model = engine.model(name)
        estimate, error = effective_parameters(S, engine.directions, model)
        metrics = {}
        if engine.affine_columns:
            metrics[f"{name}/smoother_error"] = _mean_gap(f, columns[..., -1])
        metrics[f"{name}/effective_parameters"] = estimate
        metrics[f"{name}/effective_parameters_stderr"] = error
        if self._engines is not None and self._engines.layers is not None:
            for layer, share in self.effective_parameters_by_layer(name).items():
                metrics[f"{name}/effective_parameters/{layer}"] = share
        if name == "train" and engine.directions.basis.shape[1] == S.shape[1]:
            metrics["train/degrees_of_freedom"] = degrees_of_freedom(S, engine.directions, model)
        return metrics

    def _columns(self, name: str) -> Tensor:
        self._require_set(name)
        spans = self._track.spans(self._current())
        with without_autocast(self._track.theta_0.device):
            return self._require_engine().values(name, spans)

    def _affine(self, name: str, column: int) -> Tensor:
        engines = self._require_probes("constant")
        if not engines.is_quadratic:
            raise ConfigurationError(
                "S·Y + c exists for squared losses only, where everything is affine in the "
                "labels; for this loss the smoother is a sensitivity without a constant"
            )
        values = self._columns(name)[..., column]
        return values[:, 0] if values.shape[1] == 1 else values

    def _require_set(self, name: str) -> None:
        if name not in self._sets:
            raise ConfigurationError(f"no set named {name!r}; there are {', '.join(self._sets)}")

    def _require_probes(self, what: str) -> EngineFactory:
        if self._engines is None:
            raise ConfigurationError(
                f'{what} needs a smoother, but probes=None; create the lens with probes="exact" '
                "or a number of probes"
            )
        return self._engines

    def _require_layers(self) -> Layers:
        layers = self._require_probes("effective_parameters_by_layer").layers
        if layers is None:
            raise ConfigurationError(
                "the split over layers is not followed; create the lens with layer_shares=True"
            )
        return layers

    def _require_engine(self) -> Smoother:
        engines = self._require_probes("the smoother")
        if self._track.engine is None:
            return engines.before_training(self._track.at_start)
        return self._track.engine

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


def _mean_gap(actual: Tensor, modelled: Tensor) -> float:
    return float((actual - modelled).abs().cpu().double().mean())
