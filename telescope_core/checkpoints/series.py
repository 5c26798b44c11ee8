r"""The telescoping model from saved weights of a finished run, without retraining.

The checkpoints are ends of blocks (docs/mathematics.md, sections 2 and 10): between two of them, s
and e, the model moves by :math:`\Delta\theta = \theta_e - \theta_s` and its predictions by
:math:`\bar J(x)\,\Delta\theta`, with :math:`\bar J = J_s` (order 1, Eq. 5 i of arXiv 2411.00247) or
:math:`½(J_s + J_e)` (order 2).  The sum splits over layers, and so do the changes of the model's
gradients (section 4.3, Fig. 6 right).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import get_args

import torch
from torch import Tensor, nn

from telescope_core.checkpoints import blocks
from telescope_core.checkpoints.blocks import Point
from telescope_core.checkpoints.saved_weights import (
    SavedWeights,
    WeightReader,
    describe,
    require_own_memory,
)
from telescope_core.checkpoints.view import CheckpointView
from telescope_core.errors import ConfigurationError, ModelError, NonFiniteError
from telescope_core.jacobians import (
    Form,
    Linearizer,
    RowSet,
    check_representation,
    owner_of,
    spot_check,
)
from telescope_core.network import Network
from telescope_core.network.checks import check_model, check_set_names, check_sets, random_rows
from telescope_core.network.inputs import Inputs, Rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.trained_parameters import requiring_gradients
from telescope_core.smoother import Order, Span, make_path, quadrature_of

__all__ = ["CheckpointSeries", "CheckpointView", "from_checkpoints"]


class CheckpointSeries:
    """The checkpoints of a run, measured one after the other; made by :func:`from_checkpoints`.

    Iterating gives a :class:`CheckpointView` per checkpoint, in order, and begins anew each time.
    While it runs, the weights and linearisations of two checkpoints are in memory, and the first
    checkpoint's weights.

    Attributes:
        steps: The checkpoints' steps.
        layers: Names of the layers, each with the names of its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        saved: Sequence[SavedWeights],
        steps: Sequence[int],
        inputs: Mapping[str, Inputs],
        train_inputs: Inputs | None,
        layer_of: Callable[[str], str],
        settings: _Settings,
    ) -> None:
        self._model = model
        self._saved = saved
        self.steps = tuple(steps)
        self._inputs = inputs
        self._train_inputs = train_inputs
        self._settings = settings
        self._reader = WeightReader(model)
        self._where = [describe(weights, number) for number, weights in enumerate(saved)]
        for weights, where in zip(saved, self._where, strict=True):
            self._reader.check(weights, where)
        trained = requiring_gradients(model)
        self._device = next(iter(trained.values())).device
        self._layout = ParameterLayout(trained)
        self.layers: dict[str, tuple[str, ...]] = {}
        for name in trained:
            layer = layer_of(name)
            self.layers[layer] = (*self.layers.get(layer, ()), name)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[CheckpointView]:
        settings = self._settings
        before = self._point(0)
        theta_0, sets_0, f_0 = before.theta, before.sets, before.outputs
        paths = {
            order: make_path(
                quadrature_of(order),
                theta_0[:, None].clone(),
                {name: outputs[..., None].clone() for name, outputs in f_0.items()},
            )
            for order in get_args(Order)
        }
        for number, step in enumerate(self.steps):
            now = before if number == 0 else self._point(number)
            if number:
                self._require_frozen(before, now, number)
                for path in paths.values():
                    path.current.copy_(now.theta[:, None])
                    path.close_block({n: Span(r, now.rows[n]) for n, r in before.rows.items()})
            telescoped = {
                order: {n: path.value(n, Span(r, r))[..., 0] for n, r in now.rows.items()}
                for order, path in paths.items()
            }
            displacement = (now.theta - theta_0)[:, None]
            linearized = {
                name: f_0[name] + rows.linearize(theta_0).jvp(displacement)[..., 0]
                for name, rows in sets_0.items()
            }
            contributions: dict[str, dict[str, Tensor]] = {}
            if number and settings.contributions:
                contributions = {
                    name: blocks.layer_contributions(
                        before, now, name, settings.order, self._layout, self.layers
                    )
                    for name in now.rows
                }
            metrics: dict[str, float] = {}
            for name, f in now.outputs.items():
                errors = {
                    "approximation_error": f - telescoped[settings.order][name],
                    "linearization_error": f - linearized[name],
                    "buffer_change": blocks.buffer_change(before, now, name),
                    **{f"contribution/{n}": c for n, c in contributions.get(name, {}).items()},
                }
                metrics |= {f"{name}/{n}": _mean_absolute(error) for n, error in errors.items()}
                if number and settings.gradient_change:
                    changes = blocks.gradient_change(
                        before.rows[name], now.rows[name], self._layout, self.layers
                    )
                    metrics |= {f"{name}/gradient_change/{n}": c for n, c in changes.items()}
                if self._train_inputs is not None:
                    norms = blocks.kernel_norms(
                        now, name, self._train_inputs, self._layout, settings.chunk_size
                    )
                    metrics[f"{name}/kernel_norm_mean"] = float(norms.double().mean())
                    metrics[f"{name}/kernel_norm_max"] = float(norms.max())
            view = CheckpointView(
                step, settings.order, metrics, now.outputs, telescoped, linearized, contributions
            )
            before = now
            if settings.progress is not None:
                settings.progress(number + 1, len(self))
            yield view

    def _point(self, number: int) -> Point:
        """A copy of the model with a checkpoint's weights and buffers, linearised on every set."""
        where = self._where[number]
        model = copy.deepcopy(self._model)
        self._reader.load(model, self._saved[number], where)
        if not bool(torch.isfinite(self._layout.flatten(dict(model.named_parameters()))).all()):
            raise NonFiniteError(
                f"{where} holds NaN or infinity in its trained parameters; expected finite "
                "weights: leave out the checkpoints after training diverged"
            )
        sample = random_rows(next(iter(self._inputs.values())), self._device)
        linearizer = Linearizer(model, self._layout, sample, self._settings.form)
        theta = linearizer.function.theta()
        chunk = self._settings.chunk_size
        sets = {n: RowSet(linearizer, x, chunk, self._device) for n, x in self._inputs.items()}
        rows = {name: set_.linearize(theta) for name, set_ in sets.items()}
        for name, set_ in sets.items():
            spot_check(linearizer.function, set_, rows[name].rows, name, number)
        outputs = {name: linearized.outputs for name, linearized in rows.items()}
        return Point(model, linearizer, theta, sets, rows, outputs)

    def _require_frozen(self, before: Point, now: Point, number: int) -> None:
        held = dict(before.model.named_parameters())
        for name, parameter in now.model.named_parameters():
            if name not in self._layout.by_name and not torch.equal(parameter, held[name]):
                raise ConfigurationError(
                    f"{name} is frozen in the model (requires_grad=False or not floating-point), "
                    f"but differs between {self._where[number - 1]} and {self._where[number]}; "
                    "expected equal values: call requires_grad_(True) on what was trained"
                )


@dataclass(frozen=True)
class _Settings:
    order: Order
    chunk_size: int | None
    form: Form
    contributions: bool
    gradient_change: bool
    progress: Callable[[int, int], object] | None


def from_checkpoints(
    model: nn.Module,
    checkpoints: Sequence[SavedWeights],
    inputs: Mapping[str, Inputs],
    *,
    steps: Sequence[int] | None = None,
    train_inputs: Inputs | None = None,
    order: Order = 2,
    layer_of: Callable[[str], str] | None = None,
    contributions: bool = True,
    gradient_change: bool = True,
    chunk_size: int | None = None,
    form: Form = "auto",
    progress: Callable[[int, int], object] | None = None,
) -> CheckpointSeries:
    r"""Telescope a finished run from its saved weights.

    With checkpoints every K steps the records equal those of a lens with ``stride=K`` on the run.
    The gradient change of layer l with parameters :math:`q \in l` is, over all rows x of a set
    and all k outputs j, between the checkpoint e and the previous one s,

    .. math:: \frac{1}{|X|\, k\, |l|} \sum_{x, j, q}
        \Bigl(\frac{\partial f_j(x)}{\partial\theta_q}\Big|_e
        - \frac{\partial f_j(x)}{\partial\theta_q}\Big|_s\Bigr)^2,

    each end with its own buffers (section 4.3 of arXiv 2411.00247).

    Args:
        model: A model of the kind the weights were saved from; copied, and evaluated in eval
            mode.  Its floating-point parameters that require gradients make up θ.
        checkpoints: Safetensors files or state dicts with every weight and buffer of the model,
            in training order, at least two.
        inputs: Sets of rows by name, as for the lens.
        steps: The checkpoints' steps, increasing; ``None`` for 0, 1, 2, ….
        train_inputs: Training rows for norms of tangent-kernel rows
            :math:`‖k(x)‖, k(x) = [\tfrac1n J(x) J(x_i)^\top]_i` (docs/mathematics.md,
            section 8, without a preconditioner and with these rows as the batch).
        order: 2 for the trapezoid rule, 1 for the paper's first order; of the record.
        layer_of: Maps a parameter's name to its layer's; by default the module that owns it.
        contributions: Split the telescoped change over layers.
        gradient_change: Measure it; costs each row's gradients at both ends.
        chunk_size: Rows of a set linearised at once; ``None`` for all.
        form: How Jacobians are represented, see :class:`telescope_core.jacobians.Linearizer`.
        progress: Called with the checkpoints done and their number.

    Returns:
        The checkpoints, measured while one iterates over them.

    Raises:
        ArtifactError: A file is missing, truncated or not safetensors.
        ConfigurationError: Fewer than two checkpoints, steps that do not increase, names that are
            not the model's, or a setting out of range.
        ModelError: The model is random, couples rows or has no trained parameters.
        ShapeError: Weights or inputs of the wrong shape, dtype or device.
    """
    quadrature_of(order)
    check_representation(form, chunk_size)
    saved, steps = _checked_series(checkpoints, steps)
    if not isinstance(inputs, Mapping) or not inputs:
        raise ConfigurationError(
            f"inputs must be a mapping of at least one named set of rows, got {inputs!r:.60}"
        )
    check_set_names(name for name in inputs if name != "train")
    original = model
    try:
        model = copy.deepcopy(model).eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the model could not be copied ({error}); expected an nn.Module that "
            "copy.deepcopy takes: build it anew"
        ) from error
    model.zero_grad(set_to_none=True)
    check_model(model)
    network = Network(model)
    first = next(iter(requiring_gradients(model).values()))
    kernel = {} if train_inputs is None else {"train_inputs": train_inputs}
    for sample in check_sets(network, {**inputs, **kernel}, first).values():
        _require_same_function(original, network, sample)
    settings = _Settings(order, chunk_size, form, contributions, gradient_change, progress)
    layers = layer_of or owner_of
    return CheckpointSeries(model, saved, steps, dict(inputs), train_inputs, layers, settings)


def _require_same_function(original: nn.Module, copied: Network, sample: Rows) -> None:
    """Refuse a model whose copy is another function, compared at random parameters."""
    named = {n: p for n, p in original.named_parameters() if p.is_floating_point()}
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        for name, p in named.items()
    }
    outputs = []
    for network in (Network(original, training=False), copied):
        with torch.no_grad(), network.at(drawn) as call:
            outputs.append(call(sample))
    f, of_copy = outputs
    if not isinstance(f, Tensor):
        return  # The linearizer says what is wrong with it.
    if not torch.allclose(f, of_copy, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise ModelError(
            "a copy of the model in eval mode is another function of its parameters (hooks or "
            "attributes that hold on to the original, or adapters that eval() merges?); pass a "
            "model that copy.deepcopy and eval() leave as it is"
        )


def _checked_series(
    checkpoints: Sequence[SavedWeights], steps: Sequence[int] | None
) -> tuple[tuple[SavedWeights, ...], tuple[int, ...]]:
    single = isinstance(checkpoints, str | PathLike | Mapping | Tensor | nn.Module)
    if single or not hasattr(checkpoints, "__iter__"):
        raise ConfigurationError(
            f"checkpoints must be a sequence of files or state dicts in training order, got one "
            f"{type(checkpoints).__name__}; put at least two into a list"
        )
    saved = tuple(checkpoints)
    for number, weights in enumerate(saved):
        if not isinstance(weights, str | PathLike | Mapping):
            raise ConfigurationError(
                f"checkpoint {number} is of type {type(weights).__name__}; expected the path of a "
                "safetensors file, or a state dict: pass model.state_dict(), copied"
            )
    if len(saved) < 2:
        raise ConfigurationError(
            f"got {len(saved)} checkpoints, expected at least two, the start and the end of a "
            "block; save the weights more often"
        )
    require_own_memory(saved)
    numbers = tuple(range(len(saved))) if steps is None else tuple(steps)
    if len(numbers) != len(saved):
        raise ConfigurationError(
            f"got {len(numbers)} steps for {len(saved)} checkpoints; give one step for each"
        )
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigurationError(f"steps must be integers, got {number!r}; convert with int()")
    for earlier, later in pairwise(numbers):
        if later <= earlier:
            raise ConfigurationError(
                f"steps must increase, got {later} after {earlier}; give the checkpoints in "
                "training order, each once"
            )
    return saved, numbers


def _mean_absolute(difference: Tensor) -> float:
    return float(difference.abs().double().mean())
