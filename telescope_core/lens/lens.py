"""The lens: attaches the telescoping model to a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import Form
from telescope_core.lens.attach import Asked, attach
from telescope_core.lens.cost import Cost
from telescope_core.lens.feed import SampleId
from telescope_core.lens.readings import Readings
from telescope_core.lens.refusals import OnRefusal
from telescope_core.lens.settings import Probes, Settings, Strategy
from telescope_core.lens.step import check_index
from telescope_core.losses import Kind, Loss, ResponseSetting
from telescope_core.network import outside_inference_mode
from telescope_core.network.inputs import Rows
from telescope_core.network.outputs import Output
from telescope_core.network.samples import Source
from telescope_core.smoother import Curvature
from telescope_core.update_rules import inner_optimizer

if TYPE_CHECKING:
    from telescope_core.live import LiveLog, Target
    from telescope_core.live.alerts import AlertRule
    from telescope_core.trackers import RunDescription

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Batch = TypeVar("_Batch")


def _read(
    reading: Callable[Concatenate[Readings, _Arguments], _Result],
) -> Callable[Concatenate[TelescopeLens, _Arguments], _Result]:
    """A reading as a method of the lens, described as there."""

    @wraps(reading)
    @outside_inference_mode()
    def method(
        lens: TelescopeLens, /, *arguments: _Arguments.args, **options: _Arguments.kwargs
    ) -> _Result:
        return reading(lens._readings, *arguments, **options)

    return method


class TelescopeLens:
    """Follows a training run as a sum of linearised updates.

    Wrap every training step in :meth:`step`; the lens changes nothing about training.  Read
    predictions, the smoother and all measures at any time.

    Args:
        model: The network or its ``DistributedDataParallel``, which is left as it is.  Predictions
            are those of its evaluation mode; with probes it is followed in the mode it has now.
        optimizer: The one in use; with probes it needs a rule.  Predictions alone need none.
        loss: ``loss(outputs, targets) -> scalar``: the very callable used for training, or the name
            of a loss that the model returns ("loss"), which is recognised.  Predictions alone need
            none, nor a training set.
        train_inputs: Rows of the set named "train": tensors, or a map-style dataset of rows.  A
            loader or a stream of batches with targets: then a sample of ``eval_rows`` rows (1000)
            is followed, and nothing of the size of the training set is kept.
        train_targets: Their targets: ``(n,)``, ``(n, k)`` or class indices; a loader's batches
            bring their own.
        eval_sets: More inputs by name; labels are never needed.  Of a loader a fixed sample of 1000
            rows is followed, without its targets.
        eval_rows: Follow at most so many evenly spaced rows of each of these.
        train_rows: How many rows the training set has, where ``train_inputs`` is a sample of it or
            a stream that does not say.
        sample_id: Where a batch of the loader says which rows it holds (a key, a position, or a
            callable that picks whole numbers); ``None`` where the loader's sampler tells.
        order: 2 for the trapezoid rule, 1 for the paper's (docs/mathematics.md, section 2).
        stride: Steps between evaluations of all rows.  ``order=1, stride=1`` is the paper.
        probes: Label directions for the smoother: ``"exact"`` for all, a number to estimate, or
            ``None`` for predictions only; ``"auto"`` is 64, or None where the loss, the optimizer
            or the training set was not given.
        follow_train: Whether "train" is among the sets that are followed; the smoother needs it.
        deflate: At most this many of the probes (and at most half of them) are leading
            eigenvectors of the initial tangent kernel.
        seed: Seed of the random label directions.
        chunk_size: Rows of a set linearised at once; ``None`` for all.
        kernel_norms: Also measure norms of tangent-kernel rows, once per block.
        layer_shares: Also split the smoother's measures over layers (modules with parameters).
        response: What outputs stand for, see :attr:`response`.  ``"auto"``: as the loss shows it;
            a warning says so where it shows nothing.  Otherwise as named, unless the loss shows
            something else.
        strategy: How the smoother is carried.  ``"parameter-space"``: by the trapezoid rule (first
            order: J at the start of a block), any optimizer with a rule.  ``"midpoint"``: by the
            midpoint rule, also second order, one product a step instead of two.
            ``"function-space"``: through the kernel alone, for gradient descent on a squared loss,
            with momentum or without: fast with small models, and with large ones where there are
            fewer labels than parameters.  ``"replayed"``: by running passes of training again,
            where it is random, couples rows or moves buffers.  ``"auto"``: replayed for such
            training; function space when the first step is a full-batch one without momentum to
            which it applies; otherwise midpoint for estimates of second order, or else parameter
            space.
        curvature: ``"full"`` follows the curvature of the network and the optimizer's denominators,
            which the telescoping model (``"gauss-newton"``) leaves out: S is exact, end-to-end.
        form: How Jacobians are represented, see :class:`telescope_core.jacobians.Linearizer`.
        output: Which of the things that the model returns are its outputs: a key or an attribute
            ("logits"), a position, or a callable that picks them; ``None`` where it returns them
            alone.
        on_refusal: What to do about training that the lens cannot follow (not about wrong
            arguments).  ``"raise"``: raise the error, from :meth:`step` if need be.  ``"warn"``:
            warn once, say so in the next record, and go on with what is still right: predictions
            without a smoother, or the network's own outputs alone.

    Raises:
        ConfigurationError: A setting is out of range or contradicts another, or the optimizer
            trains parameters outside of the model.
        ModelError: The model is random in evaluation mode or has no trained parameters.
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
        optimizer: torch.optim.Optimizer | None = None,
        loss: Loss | str | int | None = None,
        train_inputs: Source | None = None,
        train_targets: Tensor | None = None,
        eval_sets: Mapping[str, Source] | None = None,
        *,
        eval_rows: int | None = None,
        train_rows: int | None = None,
        sample_id: SampleId = None,
        order: Literal[1, 2] = 2,
        stride: int = 10,
        probes: Probes | Literal["auto"] = "auto",
        follow_train: bool = True,
        deflate: int = 16,
        seed: int = 0,
        chunk_size: int | None = None,
        kernel_norms: bool = False,
        layer_shares: bool = False,
        response: ResponseSetting = "auto",
        strategy: Strategy = "auto",
        curvature: Curvature = "gauss-newton",
        form: Form = "auto",
        output: Output = None,
        on_refusal: OnRefusal = "raise",
    ) -> None:
        optimizer = inner_optimizer(optimizer)
        asked = Asked(
            *(model, optimizer, loss, train_inputs, train_targets, eval_sets or {}),
            *(eval_rows, train_rows, sample_id, output),
        ).with_own_loss()
        settings = Settings(
            order=order,
            stride=stride,
            probes=asked.probes(probes),
            follow_train=follow_train if train_inputs is not None else False,
            deflate=deflate,
            seed=seed,
            chunk_size=chunk_size,
            kernel_norms=kernel_norms,
            layer_shares=layer_shares,
            response=response,
            strategy=strategy,
            curvature=curvature,
            form=form,
            on_refusal=on_refusal,
        )
        attached = attach(asked, settings)
        self._run = attached.run
        self._feed = attached.feed
        self._follower = attached.follower
        self._rehearsal = attached.rehearsal
        self._train_rows = attached.train_rows
        self._readings = Readings(self._run)
        self._logs: list[LiveLog] = []

    # -- following a training loop ------------------------------------------------------------

    @contextmanager
    def step(
        self,
        index: Tensor | None = None,
        *,
        inputs: Rows | None = None,
        targets: Tensor | None = None,
    ) -> Iterator[None]:
        """Wrap one training step: gradients, ``optimizer.step()`` and nothing after it.

        A step that a ``GradScaler`` leaves out is not counted.

        Args:
            index: Positions of the batch in the training set, int64, shape ``(b,)`` (any whole
                numbers for rows of a stream).  Not needed for batches from :meth:`batches`, nor for
                predictions alone.
            inputs: What the model really saw, when that differs from the stored rows
                (augmentation).  The stored rows then stand for them in all earlier blocks.
            targets: What the loss really saw, when that differs from the stored targets.

        Raises:
            ShapeError: The index is not a vector of positions in the training set.
            TrainingMismatchError: The optimizer did not step exactly once (with probes), or the
                step is none that the lens follows.
            NonFiniteError: The network's outputs became NaN or infinite.
        """
        if self._follower is None:
            if index is not None and self._train_rows is not None:
                check_index(index, self._train_rows, self._run.track.theta_0.device)
            self._feed.forget()
            self._run.widen()
            yield
        else:
            with self._follower.follow(index, inputs, targets) as watch:
                yield
            if watch is not None and watch.left_out:
                return
        self._run.count_step()
        for log in self._logs:
            log.after_step(self)

    def batches(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """The loader's batches; :meth:`step` then knows which rows they hold.

        Rows are told by ``sample_id``, by positions that
        :class:`telescope_core.callbacks.IndexedDataset` adds (they are taken out again), or by
        those that the loader's own sampler draws.  Batches, their order and the random streams are
        what they are without this.  The targets of a loader or a stream are taken from the batch
        (of a pair the second, of a mapping what is called labels or targets).

        Args:
            loader: What training draws from, with targets or without.

        Yields:
            Every batch.

        Raises:
            ConfigurationError: With probes, where nothing tells which rows a batch holds.
        """
        yield from self._feed.batches(loader)

    # -- readings ------------------------------------------------------------------------------

    predictions = _read(Readings.predictions)
    telescoped = _read(Readings.telescoped)
    linearized = _read(Readings.linearized)
    smoother = _read(Readings.smoother)
    constant = _read(Readings.constant)
    smoothed = _read(Readings.smoothed)
    effective_parameters_per_example = _read(Readings.effective_parameters_per_example)
    effective_parameters_by_layer = _read(Readings.effective_parameters_by_layer)
    logit_sensitivity_per_example = _read(Readings.logit_sensitivity_per_example)
    logit_sensitivity_by_layer = _read(Readings.logit_sensitivity_by_layer)
    hat_sensitivity = _read(Readings.hat_sensitivity)
    degrees_of_freedom = _read(Readings.degrees_of_freedom)
    degrees_of_freedom_by_layer = _read(Readings.degrees_of_freedom_by_layer)
    classical_degrees_of_freedom = _read(Readings.classical_degrees_of_freedom)
    snapshot = _read(Readings.snapshot)

    @property
    def refusal(self) -> str | None:
        """Why not everything is followed that was asked for (``on_refusal="warn"``), if so."""
        return self._run.refusals.reason

    @property
    def steps(self) -> int:
        """Training steps followed so far."""
        return self._run.track.step

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets that are followed, "train" first."""
        return tuple(self._run.sets)

    @property
    def response(self) -> Kind | None:
        """What outputs stand for: ``identity``, ``softmax``, ``sigmoid`` or ``exp``.

        It decides which measures there are (docs/mathematics.md, section 5.1).  ``None`` where the
        loss does not tell, or without a smoother.
        """
        engines = self._run.engines
        response = None if engines is None else engines.problem.loss.response
        return None if response is None else response.kind

    @property
    def strategy(self) -> str | None:
        """The smoother's engine in use; ``None`` before the first step or without probes."""
        engine = self._run.track.engine
        return None if engine is None else engine.name

    @property
    def unfollowed(self) -> tuple[str, ...]:
        """Buffers that moved where no derivative follows; their change is taken as it is."""
        engine = self._run.track.engine
        return () if engine is None else engine.unfollowed_names

    @outside_inference_mode()
    def estimate_cost(self, batch_size: int | None = None) -> Cost:
        """Say what following the run costs, before it is started.

        Some steps are taken of copies of model, optimizer and loss, plainly and under a lens with
        these settings, so the figures are those of this machine as it is now; for a while there are
        two lenses in memory.  Nothing of yours changes, to the bit.

        Args:
            batch_size: Rows of a batch of training; ``None`` for all rows at once.

        Returns:
            Seconds of a step with and without the lens, and bytes of the smoother's arrays;
            ``print`` it for a sentence.

        Raises:
            ConfigurationError: There are fewer rows, or the lens was told of no training.
            ModelError: Model, optimizer or loss cannot be copied.
            MemoryBudgetError: The smoother would not fit into memory a second time.
        """
        if self._rehearsal is None:
            raise ConfigurationError(
                "estimate_cost() takes steps of training; pass optimizer, loss and training set"
            )
        return self._rehearsal.cost(TelescopeLens, self._run.settings_in_use, batch_size)

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
            stride=self._run.settings.stride,
            sets=self.sets,
            has_smoother=self._run.engines is not None,
            response=self.response,
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
        return self._run.state_dict()

    @outside_inference_mode()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; restore the model and the optimizer first.

        Raises:
            ConfigurationError: The state belongs to a lens with other settings or sets, or is
                damaged; the lens is left as it was.
        """
        self._run.load_state_dict(state_dict)
