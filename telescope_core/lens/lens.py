"""The lens: attaches the telescoping model to a training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.jacobians import Form, Layers, Linearizer, without_autocast
from telescope_core.lens.present import Present
from telescope_core.lens.readings import Readings
from telescope_core.lens.refusals import OnRefusal, Refusals
from telescope_core.lens.step import StepFollower
from telescope_core.lens.strategy import EngineFactory, Strategy
from telescope_core.lens.track import Track, restore_track
from telescope_core.losses.gradient import check_scalar, leaves_of
from telescope_core.losses.labels import Loss
from telescope_core.network import Network, outside_inference_mode
from telescope_core.network import checks as check
from telescope_core.network.inputs import Inputs, Rows, count_rows, take_rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.trained_parameters import TrainedParameters
from telescope_core.smoother import Batch, RowSet
from telescope_core.update_rules import require_rule, rule_for

if TYPE_CHECKING:
    from telescope_core.live import LiveLog, Target
    from telescope_core.live.alerts import AlertRule
    from telescope_core.trackers import RunDescription

Probes = int | Literal["exact"] | None


class TelescopeLens(Readings):
    """Follows a training run as a sum of linearised updates.

    Wrap every training step in :meth:`step`; the lens changes nothing about training.  Read
    predictions, the smoother and all measures at any time.

    Args:
        model: The network, in the mode it is evaluated in (no active dropout, no batch
            statistics).  It is evaluated in the mode it has now, and left as it is.
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
        on_refusal: What to do about training that the lens cannot follow (not about wrong
            arguments).  ``"raise"``: raise the error, from :meth:`step` if need be.  ``"warn"``:
            warn once, say so in the next record, and go on with what is still right: predictions
            without a smoother, or the network's own outputs alone.

    Raises:
        ConfigurationError: A setting is out of range or contradicts another, or the optimizer
            trains parameters outside of the model.
        ModelError: The model is random, couples rows or has no trained parameters.
        LossError: The loss is not a finite differentiable scalar.
        ShapeError: Inputs or targets of the wrong length, dtype or device.
        UnsupportedOptimizerError: Probes were asked for and the optimizer has no update rule.
        MemoryBudgetError: The smoother would not fit into memory.
        NonFiniteError: The network's outputs are not finite.
    """

    @outside_inference_mode()
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
        on_refusal: OnRefusal = "raise",
    ) -> None:
        check.check_settings(order, stride, probes, deflate, seed, chunk_size)
        check.check_choice("strategy", strategy, get_args(Strategy))
        check.check_choice("form", form, get_args(Form))
        check.check_choice("on_refusal", on_refusal, get_args(OnRefusal))
        check.check_set_names(eval_sets or {})
        check.check_model(model)
        check.check_follow_train(follow_train, eval_sets, probes, kernel_norms)
        refusals = Refusals(on_refusal)
        if probes is not None or kernel_norms:
            with refusals.or_smoother():
                require_rule(optimizer)
            if refusals.reason is not None:
                probes, kernel_norms = None, False
        trained = TrainedParameters(model, optimizer, smoother=probes is not None)
        first = next(iter(trained.by_name.values()))
        inputs: dict[str, Inputs] = {"train": train_inputs, **(eval_sets or {})}
        network = Network(model)
        for name, rows in inputs.items():
            check.check_inputs(name, rows, first.device, first.dtype)
            check.check_accepts(network, name, take_rows(rows, slice(0, 1), first.device))
        check.check_targets(train_targets, count_rows(train_inputs), first.device, first.dtype)

        self._order = order
        self._stride = stride
        self._targets = train_targets
        layout = ParameterLayout(trained.by_name, torch.promote_types(first.dtype, torch.float32))
        sample = check.random_rows(train_inputs, first.device)
        check.check_determinism(network, sample)
        self._linearizer = Linearizer(network, layout, sample, form)
        sets = {
            name: RowSet(self._linearizer, rows, chunk_size, first.device)
            for name, rows in inputs.items()
        }
        train = sets["train"] if follow_train else sets.pop("train")
        super().__init__(train, sets, Present(self._linearizer, sets), refusals)
        self._trained = trained
        self._begin = partial(Track.begin, sets=self._sets, order=order, kernel_norms=kernel_norms)
        self._track = self._begin(self._linearizer.theta())
        self._present.check(self._track.at_start, seed)
        self._present.begin_block(self._present.at_attach(self._track))
        self._present.predictions_only = probes is None and not kernel_norms
        self._engines = None
        f = self._linearizer.few_outputs(train_inputs, self._track.theta_0)
        y = train_targets[: len(f)].clone()
        if probes is None:
            check_scalar(loss, f.to(first.dtype), y)
        else:
            with refusals.or_smoother():
                trained.require_alone(loss, leaves_of(loss, f, y))
                self._engines = EngineFactory(
                    optimizer=optimizer,
                    layout=layout,
                    parameters=trained.by_name,
                    loss=loss,
                    output_shape=self._linearizer.output_shape,
                    train_targets=train_targets,
                    initial=self._track.f_0,
                    order=order,
                    probes=probes,
                    deflate=deflate,
                    seed=seed,
                    strategy=strategy,
                    layers=Layers.by_module(layout, first.device) if layer_shares else None,
                )
        kernel_rule = rule_for(optimizer, layout, trained.by_name, 0, 0) if kernel_norms else None
        self._follower = StepFollower(
            optimizer,
            self._linearizer.function,
            loss,
            trained,
            self._engines,
            kernel_rule,
            refusals,
        )
        refusals.on_giving_up(self._give_up_smoother)

    # -- following a training loop ------------------------------------------------------------

    @contextmanager
    def step(
        self, index: Tensor, *, inputs: Rows | None = None, targets: Tensor | None = None
    ) -> Iterator[None]:
        """Wrap one training step: gradients, ``optimizer.step()`` and nothing after it.

        A step that a ``GradScaler`` leaves out is not counted.

        Args:
            index: Positions of the batch in the training set, int64, shape ``(b,)``.
            inputs: What the model really saw, when that differs from the stored rows
                (augmentation).  The stored rows then stand for them in all earlier blocks.
            targets: What the loss really saw, when that differs from the stored targets.

        Raises:
            ShapeError: The index is not a vector of positions in the training set.
            TrainingMismatchError: The optimizer did not step exactly once (with probes), or the
                step is none that the lens follows.
            NonFiniteError: The network's outputs became NaN or infinite.
        """
        if self._follower.lost:
            raise TrainingMismatchError(
                "an earlier step failed after the parameters had moved, so the lens lost track; "
                "load a state_dict, or attach a new lens"
            )
        track = self._track
        index = check.check_index(index, len(self._train), track.theta_0.device)
        if self._engines is None and track.kernel_norms is None:
            yield
        else:
            batch = self._batch(index, inputs, targets)
            if self._engines is not None and track.engine is None:
                with self._refusals.or_smoother():
                    track.engine = self._engines.for_first_batch(batch, track.at_start)
            with self._follower.follow(batch, track) as watch:
                yield
            if watch.left_out:
                return
        track.step += 1
        if track.step - track.block_start >= self._stride and not self._refusals.is_blind:
            with self._refusals.or_blind():
                self._close_block()
        for log in self._logs:
            log.after_step(self)

    def _give_up_smoother(self) -> None:
        self._engines = None
        self._track.engine = self._track.kernel_norms = None
        self._follower.drop_smoother()

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
        now = self._current()
        track.move_theta(now.theta)
        spans = track.spans(now.rows)
        with without_autocast(now.theta.device):
            track.theta_path.close_block(spans)
            track.theta_path.shift(now.shift)
            if track.engine is not None:
                track.engine.close_block(spans)
                track.engine.open_block(now.rows)
        track.at_start = now.rows
        track.block_start = track.step
        self._present.begin_block(replace(now, shift={}, culprits=()))

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
            alerts: What to call for attention for, see :mod:`telescope_core.live.alerts`.

        Returns:
            The log; it may be closed before training ends, and is closed at exit.

        Raises:
            ConfigurationError: An argument does not fit the others or the lens.
        """
        # Here, since a lens without a log should load no trackers.
        from telescope_core.live import open_log

        log = open_log(
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

    @outside_inference_mode()
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, beside the model's and optimizer's own state.

        Returns:
            ``{"tensors": {name: Tensor}, "state": {...}}``; the tensors fit safetensors, the
            state is plain JSON.
        """
        saved = self._track.state_dict(
            self._settings(), self._present.start_outputs, self._linearizer.theta()
        )
        saved["state"]["has_shifted"] = self._present.has_shifted
        return saved

    @outside_inference_mode()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; restore the model and the optimizer first.

        Raises:
            ConfigurationError: The state belongs to a lens with other settings or sets, or is
                damaged; the lens is left as it was.
        """
        track, f_start, theta = restore_track(
            state_dict, self._settings(), self._sets, self._begin, self._engines
        )
        self._track = track
        self._at_zero = {}
        self._present.begin_block(self._present.at_attach(track), f_start)
        self._present.has_shifted = bool(state_dict["state"].get("has_shifted"))
        self._follower.restart(theta)

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
