"""One training step as the lens takes it in: before it, right before and right after the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, distributed

from telescope_core.errors import ConfigurationError, ShapeError, TrainingMismatchError
from telescope_core.jacobians import Linearization, without_autocast
from telescope_core.lens.feed import BatchRun, Feed
from telescope_core.lens.run import Run
from telescope_core.lens.watch import StepWatch, Update, watch_step
from telescope_core.losses import Loss
from telescope_core.network import own_streams
from telescope_core.network.inputs import Rows, count_rows, take_rows
from telescope_core.network.passes import PassRecorder, seen_in_place_of
from telescope_core.network.training_set import TrainingSet
from telescope_core.network.twins import is_compiled
from telescope_core.smoother import Batch, ReplayedSmoother, SeenGradient, Smoother
from telescope_core.update_rules import rule_for

_AUTOCAST = ["optimizer.step() runs under an autocast, which keeps using the weights of before it"]

_PROCESSES = [
    "several processes train: give the lens the DistributedDataParallel itself, not its module"
]


class StepFollower:
    """Follows single steps; whatever it believes about one is compared with what was done."""

    def __init__(
        self,
        run: Run,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        training: TrainingSet,
        feed: Feed,
    ) -> None:
        self._run = run
        self._optimizer = optimizer
        self._function = function = run.linearizer.function
        self._loss = loss
        self._training = training
        self._feed = feed
        replay = None if run.engines is None else run.engines.problem.replay
        self._is_replayed = replay is not None
        self._recorder = PassRecorder(run.sight.model, run.sight.output)
        if replay is not None:
            self._recorder = replay.recorder
        self._kernel_rule = None
        if run.track.kernel_norms is not None:
            parameters = function.parameters
            self._kernel_rule = rule_for(optimizer, function.layout, parameters, 0, 0)
            self._kernel_rule.preconditioner()  # Refused here by rules that have none.

    @contextmanager
    def follow(
        self, index: Tensor | None, inputs: Rows | None, targets: Tensor | None
    ) -> Iterator[StepWatch | None]:
        """Take in the batch right before the update, and the optimizer's update right after it.

        Yields:
            What is seen of the step; None where only predictions are followed.

        Raises:
            TelescopeError: The step cannot be followed.
            TrainingMismatchError: An earlier step was lost.
        """
        run, track = self._run, self._run.track
        if run.lost:
            raise TrainingMismatchError(
                "an earlier step failed after the parameters had moved, so the lens lost track; "
                "load a state_dict, or attach a new lens"
            )
        if index is not None:
            index = self._checked(index)
            _check_lengths(index, inputs, targets)
        if run.engines is None and track.kernel_norms is None:
            self._feed.forget()
            yield None
            return
        exactly = without_autocast(track.theta_0.device)
        kernel_norms = None if track.in_open_block else track.kernel_norms
        at_step: Linearization | None = None

        def before_update(update: Update) -> None:
            nonlocal at_step
            batch = self._batch(index, inputs, targets)
            with exactly:
                self._begin(batch)
                at_step = None if kernel_norms is None else batch.now
                self._with_smoother(lambda engine: self._look(engine, update, batch, watch))

        def after_update(update: Update) -> None:
            if update.is_void:
                return
            run.lost = True
            with exactly:
                self._with_smoother(lambda engine: self._move(engine, update))
            if track.kernel_norms is not None and at_step is not None:
                assert self._kernel_rule is not None
                preconditioner = self._kernel_rule.preconditioner()
                track.kernel_norms.add(track.at_start, at_step, preconditioner)
            run.lost = False

        with watch_step(
            self._optimizer,
            self._function.network.module,
            before_update,
            after_update,
            mark_gradients=run.engines is not None and run.engines.marks_gradients(track.engine),
        ) as watch:
            try:
                with self._recorder.listening():
                    yield watch
            except BaseException:
                run.lost = watch.steps > 0
                raise
            finally:
                if index is not None:
                    self._feed.forget()
                if watch.steps == 0:
                    self._recorder.discard_gradients()
        if not watch.left_out:
            watch.require_one_step()

    def _checked(self, index: Tensor) -> Tensor:
        device = self._run.track.theta_0.device
        # Rows of a stream may have any numbers.
        positional = not self._training.is_streamed
        return check_index(index, self._training.n if positional else None, device)

    def _begin(self, batch: Batch) -> None:
        """Show the batch to the engine, which the first one chooses."""
        run, track = self._run, self._run.track
        with own_streams():
            if run.engines is not None and track.engine is None:
                with run.refusals.or_smoother():
                    track.engine = run.engines.for_first_batch(batch, track.at_start)
            self._with_smoother(lambda engine: engine.before_step(batch))

    def _drawn(self) -> BatchRun:
        """The batches from :meth:`TelescopeLens.batches` that the gradient is made of.

        Others may have been drawn and left out, or drawn ahead: where there is a choice, those
        whose inputs the model saw, or else those whose targets explain what was backpropagated.

        Returns:
            A run of batches.

        Raises:
            ConfigurationError: There is none, or no telling which it is.
        """
        passes = self._recorder.differentiated
        runs = self._feed.runs(sum(made.rows for made in passes))
        if not runs:
            raise ConfigurationError(
                "step() was given no rows, and none were drawn that are as many as the model saw; "
                "pass the batch's positions in the training set, or draw batches by "
                "`for batch in lens.batches(loader)`"
            )
        fitting = runs
        if len(runs) > 1:
            fitting = [run for run in runs if self._is_seen(run)]
            fitting = fitting or [run for run in runs if self._explains(run)]
        if len(fitting) != 1:
            raise ConfigurationError(
                f"{len(runs)} batches since the last step have as many rows as the model saw, and "
                f"{len(fitting) or 'none'} of them fit what it did; name the rows of the step: "
                "step(index)"
            )
        return fitting[0]

    def _is_seen(self, run: BatchRun) -> bool:
        """Whether the first thing that the model was given is the first of these batches."""
        tensors = [leaf for made in self._recorder.differentiated for leaf in made.tensors[:1]]
        return bool(tensors) and run.shows(torch.cat(tensors))

    def _explains(self, run: BatchRun) -> bool:
        """Whether the loss on the targets of these batches has the gradient that was seen."""
        passes, engines, targets = self._recorder.differentiated, self._run.engines, run.targets
        if engines is None or targets is None:
            return False
        outputs = torch.cat([cast(Tensor, made.outputs) for made in passes])
        seen = torch.cat([cast(Tensor, made.cotangent) for made in passes])
        g = engines.problem.loss.gradient(
            outputs.to(engines.problem.theta), targets.to(seen.device)
        )
        along = torch.nn.functional.cosine_similarity(seen.flatten().to(g), g.flatten(), dim=0)
        coarse = max(torch.finfo(seen.dtype).eps, torch.finfo(g.dtype).eps)
        return bool(along > 1 - coarse**0.5)

    def _batch(self, index: Tensor | None, inputs: Rows | None, targets: Tensor | None) -> Batch:
        run, stored = self._run, self._training.targets
        assert stored is not None
        if index is None:
            drawn = self._drawn()
            self._feed.use(drawn)
            index = self._checked(drawn.ids)
            if targets is None and self._training.is_streamed and drawn.targets is not None:
                targets = drawn.targets.to(index.device)
        if targets is None and self._training.is_streamed:
            raise ConfigurationError(
                "the targets of this step are not known, since train_inputs is a loader or a "
                "sample; pass them as step(..., targets=), or draw batches that hold them by "
                "lens.batches(loader)"
            )
        if inputs is None and not self._is_replayed:
            inputs = self._seen(index)
        seen = stored[index] if targets is None else targets
        _check_lengths(index, inputs, seen)
        return Batch(
            index,
            inputs,
            seen,
            seen if run.engines is None else run.engines.problem.loss.labels.flat(seen),
            stored=inputs is None and targets is None,
            linearizer=run.linearizer,
            block_start=run.track.at_start.get("train"),
            at_block_start=not run.track.in_open_block,
        )

    def _seen(self, index: Tensor) -> Rows | None:
        """What the model saw in place of the stored rows (augmentation); ``None`` for these."""
        passes = self._recorder.differentiated
        if sum(made.rows for made in passes) != len(index):
            return None
        stored = take_rows(self._training.inputs, index, self._run.track.theta_0.device)
        return seen_in_place_of(stored, self._run.sight.model, passes)

    def _look(self, engine: Smoother, update: Update, batch: Batch, watch: StepWatch) -> None:
        """Compare what the optimizer is about to do with what the engine believes."""
        function, check = self._function, self._run.update_check
        assert check is not None
        self._run.trained.require_same()
        seen = SeenGradient(
            lambda: function.gradient() / update.divisor,
            lambda: self._recomputed(batch, watch.autocast),
            computed_in=watch.autocast_dtype,
            frozen=tuple(function.frozen_rows()),
            touched=update.touched,
            compiled=is_compiled(function.network.module),
            suspects=lambda: self._suspects(update),
        )
        check.require_unmoved("before the update")
        if update.is_void:
            engine.leave_out()
        else:
            check.before_update(lambda: seen.gradient)
            engine.before_update(seen)

    def _suspects(self, update: Update) -> list[str]:
        found = _AUTOCAST * update.in_autocast + self._function.network.suspects()
        several = distributed.is_available() and distributed.is_initialized()
        moved = () if self._is_replayed else self._recorder.moved_buffers()
        found += [f"{name} was moved by a pass of training" for name in moved]
        return (_PROCESSES if several else []) + found

    def _move(self, engine: Smoother, update: Update) -> None:
        """Let the engine follow, and compare where the parameters are now."""
        check = self._run.update_check
        assert check is not None
        engine.after_update(update.skipped)
        check.after_update(update.skipped, engine.rule_in_use())

    def _with_smoother(self, act: Callable[[Smoother], None]) -> None:
        """Let the smoother act; an error that concerns it alone is handed over."""
        if self._run.track.engine is not None:
            with self._run.refusals.or_smoother():
                act(self._run.track.engine)

    def _recomputed(self, batch: Batch, autocast: torch.autocast) -> Tensor:
        """The batch's gradient by backpropagation as in training, hooks left out, ``(p,)``."""
        engine = self._run.track.engine
        if isinstance(engine, ReplayedSmoother):
            return engine.gradient_as_trained(batch)
        with torch.enable_grad(), self._function.as_trained(autocast) as (call, own):
            value = self._loss(call(batch.inputs), batch.targets)
            return self._function.pulled(value, own)


def _check_lengths(index: Tensor, inputs: Rows | None, targets: Tensor | None) -> None:
    """Refuse inputs or targets of other rows than the positions."""
    given = {} if targets is None else {"targets": len(targets)}
    if inputs is not None:
        given["inputs"] = count_rows(inputs)
    for name, rows in given.items():
        if rows != len(index):
            raise ConfigurationError(f"step() was given {rows} {name} for {len(index)} positions")


def check_index(index: Any, rows: int | None, device: torch.device) -> Tensor:
    """The batch's positions, or any whole numbers that name rows, on the model's device.

    Returns:
        Positions, int64, shape ``(b,)``.

    Raises:
        ShapeError: Not a one-dimensional integer tensor of positions in ``[0, rows)``.
    """
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.int64:
        is_tensor = isinstance(index, Tensor)
        given = f"{tuple(index.shape)} {index.dtype}" if is_tensor else type(index).__name__
        raise ShapeError(
            f"step() takes the batch's positions in the training set as an int64 tensor of shape "
            f"(b,), got {given}"
        )
    if rows is None:
        return index.to(device)
    lowest, highest = (int(end) for end in index.aminmax()) if len(index) else (0, -1)
    if highest < 0 or lowest < 0 or highest >= rows:
        extent = f"{lowest}…{highest}" if len(index) else "no positions"
        raise ShapeError(
            f"step() was given {extent}; expected positions in 0…{rows - 1}, the rows of "
            "train_inputs"
        )
    return index.to(device)
