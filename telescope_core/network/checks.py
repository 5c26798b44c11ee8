"""Refuses models and inputs that cannot be followed, before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from telescope_core.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    ShapeError,
    TelescopeError,
    listed,
)
from telescope_core.network.function import Network
from telescope_core.network.inputs import (
    Inputs,
    Rows,
    count_rows,
    is_in_memory,
    leaves,
    map_rows,
    take_rows,
)

_SAMPLE_ROWS = 8
_WRAPPERS = ("DataParallel", "DistributedDataParallel")
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def check_module(model: object) -> None:
    """Refuse what is no plain module, and modules whose parameters cannot be replaced.

    Raises:
        ModelError: Naming every module concerned and what to do.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _refuse(model, _reason_against_any)


def check_model(model: nn.Module) -> None:
    """Refuse also modules that are random, or couple the rows of a batch, in the mode they are in.

    Raises:
        ModelError: Naming every module concerned and what to do.
    """
    check_module(model)
    _refuse(model, _reason_against_training)


def _refuse(model: nn.Module, reason_against: Callable[[nn.Module], str]) -> None:
    trouble: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        reason = reason_against(module)
        if reason:
            trouble.setdefault(reason, []).append(
                f"{name or 'the model'} ({type(module).__name__})"
            )
    if trouble:
        raise ModelError("; ".join(f"{listed(w)} {reason}" for reason, w in trouble.items()))


def _reason_against_any(module: nn.Module) -> str:
    """Why a module cannot be evaluated at other parameters, if so."""
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is compiled by TorchScript, whose parameters cannot be replaced for derivatives; pass "
            "the module that it was made from"
        )
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if kinds.intersection(_WRAPPERS):
        return "wraps the model for several devices; pass the model inside, its .module"
    if kinds.intersection(_SHARDED):
        return (
            "shards its parameters over processes (FSDP), and the lens needs whole ones; train "
            "with DistributedDataParallel"
        )
    return ""


def _reason_against_training(module: nn.Module) -> str:
    """Why the smoother cannot follow training through a module, if so."""
    random = isinstance(module, _DropoutNd) and module.p > 0
    if module.training and random:
        return (
            "is in train mode and draws a new mask at every pass, so the network has no single "
            "Jacobian; call eval() on it, remove it, or use probes=None"
        )
    recurrent = isinstance(module, nn.RNNBase) and module.dropout > 0
    if module.training and recurrent:
        return "has dropout in train mode; call eval() on it, set dropout=0, or use probes=None"
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        return (
            "normalises with the statistics of the batch, so a row's output depends on the other "
            "rows; call eval() on it, use its functional form with fixed statistics, or "
            "probes=None"
        )
    return ""


def check_set_names(eval_sets: Iterable[object]) -> None:
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


def check_sets(network: Network, sets: Mapping[str, Inputs], like: Tensor) -> dict[str, Rows]:
    """Refuse sets that the model does not take, and models that are no function of single rows.

    Args:
        network: The model.
        sets: All rows of every set, by name.
        like: A parameter of the model, for device and dtype.

    Returns:
        Of every set copies of a few rows drawn at random, to look at the model with.

    Raises:
        ModelError: The model is random, or couples rows.
        NonFiniteError: Inputs contain NaN or infinities.
        ShapeError: Inputs that the model does not take, or of the wrong dtype or device.
    """
    for name, inputs in sets.items():
        check_inputs(network, name, inputs, like)
    samples = {name: random_rows(inputs, like.device) for name, inputs in sets.items()}
    for sample in samples.values():
        _check_independent_rows(network, sample, _check_deterministic(network, sample))
    return samples


def check_sets_for_predictions(
    network: Network, sets: Mapping[str, Inputs], like: Tensor
) -> tuple[dict[str, Rows], bool]:
    """The same for predictions alone, which need a deterministic model and no more.

    Returns:
        Of every set a few rows, and whether rows depend on each other; then all rows of each set.

    Raises:
        ModelError: The model is random.
        ShapeError: It takes neither single rows nor all of a set at once.
    """
    for name, inputs in sets.items():
        _check_rows(name, inputs, like)
    try:
        return check_sets(network, sets, like), False
    except (ModelError, ShapeError) as error:
        whole = {n: take_rows(inputs, slice(None), like.device) for n, inputs in sets.items()}
        try:
            for rows in whole.values():
                _check_deterministic(network, rows)
        except ModelError:
            raise
        except Exception:
            raise error from None
        return whole, True


def random_rows(inputs: Inputs, device: torch.device) -> Rows:
    """Copies of a few rows drawn at random, the first among them."""
    count = count_rows(inputs)
    generator = torch.Generator().manual_seed(count)
    index = torch.randperm(count, generator=generator)[: min(count, _SAMPLE_ROWS)]
    if 0 not in index:
        index[0] = 0
    return map_rows(take_rows(inputs, index, device), torch.clone)


def _check_deterministic(network: Network, sample: Rows) -> Any:
    """Refuse a model whose passes differ.

    Returns:
        What it returned.

    Raises:
        ModelError: It is random.
    """
    with torch.no_grad(), network.at() as call:
        first, second = call(sample), call(sample)
    if not _is_output(first):
        return first  # The linearizer says what is wrong with it.
    if not torch.equal(first, second) and bool(torch.isfinite(first).all()):
        raise ModelError(
            "two passes over the same rows gave different outputs, so the model is random "
            "(functional dropout, sampling, noise?); make it deterministic for the lens"
        )
    return first


def _is_output(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim > 0


def _check_independent_rows(network: Network, sample: Rows, first: Any) -> None:
    """Refuse a model whose rows depend on each other.

    Rows are given again in another order and in another number; whatever couples them (a recurrent
    layer along the wrong dimension, batch statistics, a sum or a shift over rows) shows in one.

    Raises:
        ModelError: It couples rows or takes no other number of them.
    """
    rows = count_rows(sample)
    if not _is_output(first) or len(first) != rows:
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


def check_inputs(network: Network, name: str, inputs: Any, like: Tensor) -> None:
    """Refuse inputs that are no rows, or of the wrong device or dtype, or that the model fails on.

    Raises:
        NonFiniteError: They contain NaN or infinities.
        ShapeError: Naming the set, what was given and what was expected.
    """  # noqa: DOC501  # raises again only TelescopeError
    _check_rows(name, inputs, like)
    row = take_rows(inputs, slice(0, 1), like.device)
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


def _check_rows(name: str, inputs: Any, like: Tensor) -> None:
    """Refuse inputs that are no rows, or of the wrong device or dtype."""
    if is_in_memory(inputs):
        _check_tensors(name, leaves(inputs), like)
    elif not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
        raise ShapeError(
            f"{name} inputs must be a tensor, a mapping or tuple of tensors, or a map-style "
            f"dataset, got {type(inputs).__name__}"
        )


def _call(network: Network, rows: Rows) -> Any:
    with torch.no_grad(), network.at() as call:
        return call(rows)


def _check_tensors(name: str, tensors: list[Any], like: Tensor) -> None:
    if not tensors or not all(isinstance(leaf, Tensor) for leaf in tensors):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in tensors})) or "nothing"
        raise ShapeError(f"{name} inputs must hold tensors, got {kinds}")
    for leaf in tensors:
        if leaf.ndim < 1 or len(leaf) == 0:
            raise ShapeError(
                f"{name} inputs have shape {tuple(leaf.shape)}; expected at least one row"
            )
        _check_values(f"{name} inputs", leaf, like)
    if len({len(leaf) for leaf in tensors}) > 1:
        lengths = ", ".join(str(len(leaf)) for leaf in tensors)
        raise ShapeError(
            f"{name} inputs have {lengths} rows; expected the same number in every tensor"
        )


def check_targets(targets: Any, rows: int, like: Tensor) -> None:
    """Refuse targets that do not belong to the training inputs.

    Raises:
        NonFiniteError: They contain NaN or infinities.
        ShapeError: Naming what was given and what was expected.
    """
    if not isinstance(targets, Tensor):
        raise ShapeError(f"train_targets must be a tensor, got {type(targets).__name__}")
    if targets.ndim < 1 or len(targets) != rows:
        raise ShapeError(
            f"train_targets have shape {tuple(targets.shape)} for {rows} training inputs; "
            f"expected {rows} targets in the first dimension"
        )
    _check_values("train_targets", targets, like)


def _check_values(what: str, tensor: Tensor, like: Tensor) -> None:
    """Refuse values on another device, in another floating dtype, or that are not finite."""
    if tensor.device != like.device:
        raise ShapeError(
            f"{what} are on {tensor.device}, the model is on {like.device}; move one of them"
        )
    if not tensor.is_floating_point():
        return
    if tensor.dtype != like.dtype:
        raise ShapeError(
            f"{what} are {tensor.dtype}, the model's parameters {like.dtype}; "
            f"convert them with .to({like.dtype})"
        )
    # A finite sum has finite terms, and is cheap to see.
    if bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()):
        return
    finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
    rows = (~finite).nonzero().flatten()
    raise NonFiniteError(
        f"{what} hold NaN or infinity in {len(rows)} of {len(tensor)} rows, first in row "
        f"{int(rows[0])}; remove or impute them"
    )
