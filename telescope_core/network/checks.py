"""Refuses what the lens cannot follow, before training starts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from telescope_core.errors import (
    ConfigurationError,
    MemoryBudgetError,
    ModelError,
    NonFiniteError,
    ShapeError,
    TelescopeError,
    listed,
)
from telescope_core.network import Network
from telescope_core.network.inputs import (
    Inputs,
    Rows,
    count_rows,
    is_in_memory,
    leaves,
    map_rows,
    take_rows,
)

_USABLE_SHARE = 0.8
_SAMPLE_ROWS = 8
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def check_settings(
    order: int, stride: int, probes: object, deflate: int, seed: int, chunk_size: int | None
) -> None:
    """Refuse settings of the wrong type or out of range.

    Raises:
        ConfigurationError: Naming the setting, its value and the expectation.
    """
    if order not in (1, 2) or isinstance(order, bool):
        raise ConfigurationError(f"order must be 1 (the paper) or 2 (trapezoid), got {order!r}")
    _check_integer("stride", stride, 1, "steps between evaluations of all rows")
    _check_integer("deflate", deflate, 0, "label directions taken exactly")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigurationError(f"seed must be an integer, got {seed!r}")
    if chunk_size is not None:
        _check_integer("chunk_size", chunk_size, 1, "rows at once; None for all")
    if probes is None or probes == "exact":
        return
    if isinstance(probes, str):
        raise ConfigurationError(f'probes must be "exact", an integer or None, got {probes!r}')
    _check_integer("probes", probes, 1, 'label directions; "exact" for all, None for none')


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ConfigurationError: Naming the setting, its value and the choices.
    """
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_probe_count(probes: int, labels: int) -> None:
    """Refuse more probes than there are labels.

    Raises:
        ConfigurationError: Naming both numbers.
    """
    if probes > labels:
        raise ConfigurationError(
            f"probes={probes} exceeds the {labels} labels (n times label width); use at most "
            f'{labels}, or probes="exact"'
        )


def check_model(model: object) -> None:
    """Refuse models that are random or couple the rows of a batch, or are no plain modules.

    Raises:
        ModelError: Naming every module concerned and what to do.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    trouble: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        reason = _reason_against(module)
        if reason:
            trouble.setdefault(reason, []).append(
                f"{name or 'the model'} ({type(module).__name__})"
            )
    if trouble:
        raise ModelError("; ".join(f"{listed(w)} {reason}" for reason, w in trouble.items()))


def _reason_against(module: nn.Module) -> str:
    """Why a module cannot be followed, if so."""
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is compiled by TorchScript, whose parameters cannot be replaced for derivatives; pass "
            "the module that it was made from"
        )
    wraps = any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__)
    if wraps:
        return "wraps the model for several devices; pass the model inside, its .module"
    random = isinstance(module, _DropoutNd) and module.p > 0
    if module.training and random:
        return (
            "is in train mode and draws a new mask at every pass, so the network has no single "
            "Jacobian; call eval() on it, or remove it"
        )
    recurrent = isinstance(module, nn.RNNBase) and module.dropout > 0
    if module.training and recurrent:
        return "has dropout in train mode; call eval() on it, or set dropout=0"
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        return (
            "normalises with the statistics of the batch, so a row's output depends on the other "
            "rows; call eval() on it, or use its functional form with fixed statistics"
        )
    return ""


def random_rows(inputs: Inputs, device: torch.device) -> Rows:
    """Copies of a few rows drawn at random, the first among them.

    Args:
        inputs: All rows of a set.
        device: Where rows of a dataset go.
    """
    count = count_rows(inputs)
    generator = torch.Generator().manual_seed(count)
    index = torch.randperm(count, generator=generator)[: min(count, _SAMPLE_ROWS)]
    if 0 not in index:
        index[0] = 0
    return map_rows(take_rows(inputs, index, device), torch.clone)


def check_determinism(network: Network, sample: Rows) -> None:
    """Refuse a model whose passes differ, or whose rows depend on each other.

    Rows are given again in another order and in another number; whatever couples them (a recurrent
    layer along the wrong dimension, batch statistics, a sum or a shift over rows) shows in one.

    Args:
        network: The model.
        sample: Rows that differ from each other.

    Raises:
        ModelError: Saying which of the two was seen.
    """
    rows = count_rows(sample)
    with torch.no_grad(), network.at() as call:
        first, second = call(sample), call(sample)
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim < 1:
        return  # The linearizer says what is wrong with it.
    if not torch.equal(first, second) and bool(torch.isfinite(first).all()):
        raise ModelError(
            "two passes over the same rows gave different outputs, so the model is random "
            "(functional dropout, sampling, noise?); make it deterministic for the lens"
        )
    if len(first) != rows:
        return
    tolerance = torch.finfo(first.dtype).eps ** 0.5 * (1 + float(first.abs().max()))
    backwards = torch.arange(rows - 1, -1, -1)
    for index in (backwards, backwards[: max(1, rows // 2)], torch.tensor([0])):
        try:
            some = _call(network, take_rows(sample, index, first.device))
        except RuntimeError as error:
            raise ModelError(
                f"the model takes {rows} rows, but not {len(index)} of them: {error}; the lens "
                "needs a model for any number of rows"
            ) from error
        if not isinstance(some, Tensor) or some.shape[1:] != first.shape[1:]:
            return
        if float((some - first[index.to(first.device)]).abs().max()) > tolerance:
            raise ModelError(
                "the output of a row changes with the other rows in its batch (batch statistics, "
                "attention or recurrence over the batch, batch_first forgotten?); the telescoping "
                "model needs rows that are independent"
            )


def check_accepts(network: Network, name: str, row: Rows) -> None:
    """Refuse inputs on which the model fails.

    Raises:
        ShapeError: Naming the set and its rows.
    """
    try:
        _call(network, row)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, TelescopeError):
            raise
        shapes = ", ".join(f"{tuple(leaf.shape[1:])} {leaf.dtype}" for leaf in leaves(row))
        raise ShapeError(
            f"the model failed on the first row of the {name} inputs, of shape {shapes}: {error}; "
            "pass rows as the model takes them"
        ) from error


def _call(network: Network, rows: Rows) -> Any:
    with torch.no_grad(), network.at() as call:
        return call(rows)


def check_inputs(name: str, inputs: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse inputs that are not rows on the model's device in its dtype.

    Raises:
        ShapeError: Naming the set, what was given and what was expected.
    """
    if not is_in_memory(inputs):
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            return
        raise ShapeError(
            f"{name} inputs must be a tensor, a mapping or tuple of tensors, or a map-style "
            f"dataset, got {type(inputs).__name__}"
        )
    tensors = leaves(inputs)
    if not tensors or not all(isinstance(leaf, Tensor) for leaf in tensors):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in tensors})) or "nothing"
        raise ShapeError(f"{name} inputs must hold tensors, got {kinds}")
    for leaf in tensors:
        _check_leaf(name, leaf, device, dtype)
    if len({len(leaf) for leaf in tensors}) > 1:
        lengths = ", ".join(str(len(leaf)) for leaf in tensors)
        raise ShapeError(
            f"{name} inputs have {lengths} rows; expected the same number in every tensor"
        )


def _check_leaf(name: str, leaf: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    if leaf.ndim < 1 or len(leaf) == 0:
        raise ShapeError(f"{name} inputs have shape {tuple(leaf.shape)}; expected at least one row")
    if leaf.device != device:
        raise ShapeError(
            f"{name} inputs are on {leaf.device}, the model is on {device}; move one of them"
        )
    if leaf.is_floating_point() and leaf.dtype != dtype:
        raise ShapeError(
            f"{name} inputs are {leaf.dtype}, the model's parameters {dtype}; "
            f"convert them with .to({dtype})"
        )
    _check_finite(f"{name} inputs", leaf)


def check_targets(targets: Any, rows: int, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse targets that do not belong to the training inputs.

    Raises:
        ShapeError: Naming what was given and what was expected.
    """
    if not isinstance(targets, Tensor):
        raise ShapeError(f"train_targets must be a tensor, got {type(targets).__name__}")
    if targets.ndim < 1 or len(targets) != rows:
        raise ShapeError(
            f"train_targets have shape {tuple(targets.shape)} for {rows} training inputs; "
            f"expected {rows} targets in the first dimension"
        )
    if targets.device != device:
        raise ShapeError(
            f"train_targets are on {targets.device}, the model is on {device}; move one of them"
        )
    if targets.is_floating_point() and targets.dtype != dtype:
        raise ShapeError(
            f"train_targets are {targets.dtype}, the model's parameters {dtype}; "
            f"convert them with .to({dtype})"
        )
    _check_finite("train_targets", targets)


def check_set_names(eval_sets: Mapping[str, Any]) -> None:
    """Refuse names that would collide in the record.

    Raises:
        ConfigurationError: Naming the set.
    """
    for name in eval_sets:
        if not isinstance(name, str) or not name or "/" in name or name == "train":
            raise ConfigurationError(
                f"eval set {name!r}: names are non-empty strings without '/', other than 'train', "
                "which is the training set"
            )


def check_follow_train(
    follow_train: Any, eval_sets: Mapping[str, Any] | None, probes: Any, kernel_norms: bool
) -> None:
    """Refuse to leave out the training set where it is needed, or where nothing would be left.

    Raises:
        ConfigurationError: Naming the setting that needs it.
    """
    if not isinstance(follow_train, bool):
        raise ConfigurationError(f"follow_train must be True or False, got {follow_train!r}")
    if follow_train:
        return
    if not eval_sets:
        raise ConfigurationError(
            "follow_train=False without eval_sets leaves no set to follow; name the inputs that "
            "predictions are wanted for in eval_sets"
        )
    for setting, needs in (("probes", probes is not None), ("kernel_norms", kernel_norms)):
        if needs:
            raise ConfigurationError(
                f"{setting} needs the training set at every step, but follow_train=False; use "
                f"{'probes=None' if setting == 'probes' else 'kernel_norms=False'} for "
                "predictions only, or follow_train=True"
            )


def check_index(index: Any, rows: int, device: torch.device) -> Tensor:
    """The batch's positions on the model's device.

    Raises:
        ShapeError: Not a one-dimensional integer tensor of positions in ``[0, rows)``.
    """
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.int64:
        given = (
            f"{tuple(index.shape)} {index.dtype}"
            if isinstance(index, Tensor)
            else type(index).__name__
        )
        raise ShapeError(
            f"step() takes the batch's positions in the training set as an int64 tensor of shape "
            f"(b,), got {given}"
        )
    lowest, highest = (int(end) for end in index.aminmax()) if len(index) else (0, -1)
    if highest < 0 or lowest < 0 or highest >= rows:
        extent = f"{lowest}…{highest}" if len(index) else "no positions"
        raise ShapeError(
            f"step() was given {extent}; expected positions in 0…{rows - 1}, the rows of "
            "train_inputs"
        )
    return index.to(device)


def check_memory(
    needed: Callable[[int], int], probes: int, device: torch.device, what: str
) -> None:
    """Refuse work that would not fit into memory.

    Args:
        needed: Bytes for a number of label directions; increasing.
        probes: The number asked for.
        device: Where.
        what: The setting that asks for it.

    Raises:
        MemoryBudgetError: Naming the bytes needed and available, and the probes that would fit.
    """
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = psutil.virtual_memory().available
    usable = int(available * _USABLE_SHARE)
    if needed(probes) > usable:
        fitting = max(0, bisect_right(range(probes), usable, key=needed) - 1)
        raise MemoryBudgetError(
            f"{what} needs {needed(probes):,} bytes on {device}, {usable:,} can be used; "
            + (f"probes={fitting} would fit" if fitting else "use probes=None or a smaller model")
        )


def _check_finite(what: str, tensor: Tensor) -> None:
    # A finite sum has finite terms, and is cheap to see.
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
        return
    if not bool(torch.isfinite(tensor).all()):
        finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
        rows = (~finite).nonzero().flatten()
        raise NonFiniteError(
            f"{what} hold NaN or infinity in {len(rows)} of {len(tensor)} rows, first in row "
            f"{int(rows[0])}; remove or impute them"
        )


def _check_integer(name: str, value: object, least: int, meaning: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{name} must be an integer of at least {least} ({meaning}), got {value!r}"
        )
