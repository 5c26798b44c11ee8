r"""Which networks can be averaged: section 4.3 of arXiv 2411.00247 (Fig. 6).

Two children that continue from one checkpoint with different batch orders are *linearly mode
connected* if no network on the line between their weights is worse than they are (Frankle et al.
2020).  The telescoping model explains when: to the extent that the gradients
:math:`\nabla_\theta f_t(x)` no longer change, outputs are linear in the weights, and the average of
the weights is the average of the two functions.

BatchNorm keeps running means and variances of what the training batches looked like to *one*
network, and a network between two others sees other activations.  :data:`Statistics` says what to
do about it: ``"interpolated"`` treats running statistics as weights, ``"recomputed"`` measures them
anew on the training data, which takes a pass over it but compares functions that are as they would
have been trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from telescope_core.arguments import check_choice
from telescope_core.checkpoints import from_checkpoints
from telescope_core.errors import ConfigurationError, ShapeError
from telescope_core.network.inputs import Inputs

__all__ = [
    "AccuracyGap",
    "Child",
    "Statistics",
    "accuracy_gap",
    "gradient_change",
    "interpolate",
    "interpolation_curve",
    "recompute_statistics",
    "spawn",
]

Weights = Mapping[str, Tensor]
"""A state dict: parameters and buffers by name."""

Statistics = Literal["interpolated", "recomputed"]
"""Where the running statistics of BatchNorm come from between two networks."""

_POINTS = "points"


@dataclass(frozen=True, eq=False)
class Child:
    """A copy of a network in training.

    Attributes:
        model: The copy, with its own parameters and buffers.
        optimizer: A copy of the optimizer over the copy's parameters, momentum included.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class AccuracyGap:
    """How much is lost by averaging two networks (Fig. 6 left).

    Attributes:
        children: The score of each child.
        average: The score of the network with the mean of their weights.
    """

    children: tuple[float, float]
    average: float

    @property
    def gap(self) -> float:
        """Mean score of the children minus that of their average; 0 or less if none is lost."""
        return sum(self.children) / len(self.children) - self.average


def spawn(model: nn.Module, optimizer: torch.optim.Optimizer, children: int = 2) -> list[Child]:
    """Copy a network in training, so that each copy can go on by itself.

    The copies equal the original in everything that the next step depends on (weights, buffers,
    learning rates, momentum); what tells them apart is what they are trained on from here.

    Args:
        model: The network at the checkpoint; left alone.
        optimizer: Over its parameters; left alone. Hooks and schedulers stay with the original.
        children: Number of copies.

    Returns:
        The copies, each with an optimizer over parameters of its own.

    Raises:
        ConfigurationError: Fewer than one copy, or the optimizer trains other parameters.
    """
    if children < 1:
        raise ConfigurationError(f"children must be at least 1, got {children}")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if not set(trained) <= set(names):
        raise ConfigurationError(
            "the optimizer trains a parameter that is not the model's; expected "
            "an optimizer over model.parameters()"
        )
    copies = []
    for _ in range(children):
        # In one go, so that the copy of the optimizer refers to the parameters of the copy.
        twin, its_optimizer = copy.deepcopy((model, optimizer))
        its_optimizer.zero_grad(set_to_none=True)
        copies.append(Child(twin, its_optimizer))
    return copies


def interpolate(first: Weights, second: Weights, alpha: float) -> dict[str, Tensor]:
    """Weights on the line through two networks: ``(1 - alpha) * first + alpha * second``.

    Floating-point buffers, such as running statistics, are interpolated like weights; others
    (counters of batches) are taken from ``first``.

    Returns:
        New tensors by name; exactly those of an end at ``alpha`` 0 or 1.

    Raises:
        ConfigurationError: The names differ.
        ShapeError: Shapes or dtypes differ.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ConfigurationError(
            f"the networks differ in {', '.join(odd[:4])}; expected the same names: interpolate "
            "between networks of one architecture"
        )
    mixed = {}
    for name, start in first.items():
        end = second[name]
        if start.shape != end.shape or start.dtype != end.dtype:
            raise ShapeError(
                f"{name} is {tuple(start.shape)} {start.dtype} in one network and "
                f"{tuple(end.shape)} {end.dtype} in the other; expected equal shapes and dtypes"
            )
        if not start.is_floating_point():
            mixed[name] = start.detach().clone()
        elif alpha in (0, 1):
            mixed[name] = (end if alpha else start).detach().clone()
        else:
            mixed[name] = torch.lerp(start.detach(), end.detach(), alpha)
    return mixed


def recompute_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every BatchNorm to those of some batches.

    The mean and variance of each layer become the plain averages over the batches of the batch
    means and (unbiased) variances, as with ``momentum=None``; nothing else of the model changes,
    its mode included.

    Args:
        model: Changed in place. Only its BatchNorm layers are put into train mode meanwhile, so
            dropout stays off.
        batches: Inputs, best all of the training set in batches of the size of training; batches
            of different sizes count the same.

    Raises:
        ConfigurationError: There are BatchNorm layers and no batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with _evaluating(model), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.training = True
            for inputs in batches:
                model(inputs)
                seen += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not seen:
        raise ConfigurationError(
            "got no batches to compute BatchNorm's statistics on; pass inputs of the training set, "
            "or statistics='interpolated'"
        )


def interpolation_curve(
    model: nn.Module,
    first: Weights,
    second: Weights,
    alphas: Sequence[float],
    score: Callable[[nn.Module], float],
    *,
    statistics: Statistics = "recomputed",
    batches: Callable[[], Iterable[Tensor]] | None = None,
) -> list[float]:
    """Score the networks on the line between two (Fig. 6, alpha on the x axis).

    With recomputed statistics those of the ends are recomputed as well, so that every point of the
    curve is treated alike.

    Args:
        model: A network of the kind; copied.
        first: Weights and buffers at ``alpha = 0``.
        second: Weights and buffers at ``alpha = 1``.
        alphas: Positions.
        score: What to measure, e.g. the accuracy on test data. It is given a network in eval mode,
            without gradients.
        statistics: What to do about running statistics, see the module's description.
        batches: Gives the batches for recomputed statistics, anew at every call.

    Returns:
        The score at each of ``alphas``.

    Raises:
        ConfigurationError: No positions, unknown statistics, no batches to recompute them on, or
            names that differ.
        ShapeError: Shapes or dtypes that differ.
    """
    if not alphas:
        raise ConfigurationError("got no positions; expected at least one alpha, e.g. [0.5]")
    check_choice("statistics", statistics, get_args(Statistics))
    if statistics == "recomputed" and batches is None:
        raise ConfigurationError(
            "recomputed statistics need training inputs: pass batches, a function that gives them, "
            "or statistics='interpolated'"
        )
    between = copy.deepcopy(model)
    scores = []
    for alpha in alphas:
        between.load_state_dict(interpolate(first, second, alpha))
        if statistics == "recomputed" and batches is not None:
            recompute_statistics(between, batches())
        with _evaluating(between), torch.no_grad():
            scores.append(float(score(between)))
    return scores


def accuracy_gap(
    model: nn.Module,
    first: Weights,
    second: Weights,
    score: Callable[[nn.Module], float],
    *,
    statistics: Statistics = "recomputed",
    batches: Callable[[], Iterable[Tensor]] | None = None,
) -> AccuracyGap:
    """Compare two networks with the one of the mean of their weights (Fig. 6 left).

    Arguments are those of :func:`interpolation_curve`.

    Returns:
        The scores of the two networks and of the one between them.

    Raises:
        ConfigurationError: As for :func:`interpolation_curve`.
        ShapeError: Shapes or dtypes that differ.
    """
    one, average, other = interpolation_curve(
        model, first, second, (0.0, 0.5, 1.0), score, statistics=statistics, batches=batches
    )
    return AccuracyGap((one, other), average)


def gradient_change(
    model: nn.Module,
    before: Weights,
    now: Weights,
    inputs: Inputs,
    *,
    layer_of: Callable[[str], str] | None = None,
    chunk_size: int | None = None,
) -> dict[str, float]:
    """How much the model's gradients changed between two checkpoints (Fig. 6 right).

    The mean squared difference of ∂f_j(x)/∂θ_q over rows x, outputs j (before any softmax) and the
    parameters q of a layer, each checkpoint in eval mode with its own running statistics; as in
    the records of :func:`telescope_core.from_checkpoints`.

    Args:
        model: A network of the kind; copied.
        before: Weights and buffers at one checkpoint.
        now: Weights and buffers at the other.
        inputs: The points, (rows, ...).
        layer_of: Maps a parameter's name to its layer's; by default the module that owns it.
        chunk_size: Rows linearised at once; ``None`` for all.

    Returns:
        Per layer, in the order of the model's parameters.

    Raises:
        ConfigurationError: Names that are not the model's, or weights that share memory.
        ModelError: The model is random, couples rows or has no trained parameters.
        NonFiniteError: A checkpoint holds NaN or infinity.
        ShapeError: Weights or inputs of the wrong shape, dtype or device.
    """
    *_, last = from_checkpoints(
        model,
        [before, now],
        {_POINTS: inputs},
        order=1,
        layer_of=layer_of,
        contributions=False,
        chunk_size=chunk_size,
    )
    prefix = f"{_POINTS}/gradient_change/"
    return {
        name.removeprefix(prefix): value
        for name, value in last.metrics.items()
        if name.startswith(prefix)
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
