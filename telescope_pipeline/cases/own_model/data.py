"""The user's data, checked, one file for each seed and each setting of the data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from telescope_core.errors import DataError, ParametersError, TelescopeError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.sweep import file_stem, set_names, split_name
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.user_calls import call, guarded, seed_generators, user_seed

_REQUIRED = ("train_inputs", "train_targets", "test_inputs", "test_targets")
_CLASSES, _NUMBERS = "cross_entropy", ("mse", "half_mse", "bce_with_logits")


def prepare(case: OwnModelCase, seed: int) -> Prepared:
    """Call the user's function for every file.

    Returns:
        The tensors as the function gave them, and what was asked of it.

    Raises:
        ParametersError: The function cannot be imported, fails or returns something else.
        DataError: What it returns cannot be trained on.
    """
    files, cards = {}, {}
    for values in case.combinations():
        for replicate in range(case.seeds):
            stem = file_stem(values, replicate)
            if stem in files:
                continue
            own = case.narrowed(values, replicate)
            drawn = user_seed(derive_seed(seed, "own_model", "data", replicate))
            seed_generators(drawn)
            reference, options = own.data.call, own.data.options
            returned = call("data.call", reference, drawn, **options)
            with guarded("data.call", reference, "reading what it returned", TelescopeError):
                tensors = check_sets(returned, own.loss, f"data.call: {reference}")
            files[stem] = tensors
            cards[stem] = {
                "call": reference,
                "options": own.data.model_dump(mode="json")["options"],
                "seed": drawn,
                "rows": {name: len(tensors[f"{name}_inputs"]) for name in set_names(tensors)},
            }
    return Prepared(files, {"name": case.data.call, "files": cards})


def check_sets(returned: Any, loss: str, what: str) -> dict[str, Tensor]:
    """Check what the user's function returned, and give it as plain tensors.

    Args:
        returned: A mapping, or a dataclass, with ``<set>_inputs`` (rows, ...) and
            ``<set>_targets`` (rows, ...); ``train`` and ``test`` have both. Fields of a dataclass
            with other names are left out.
        loss: Name of the loss, which decides the type of targets; another text if it is the
            user's own.
        what: The function, for messages.

    Returns:
        The tensors by name, on the CPU, detached and contiguous.

    Raises:
        ParametersError: It is no mapping of tensors by such names.
        DataError: A set is empty, its rows differ in number, its shape or type differs from the
            training set's, numbers are not finite, or targets do not suit the loss.
    """
    named = _named(returned, what)
    for name in _REQUIRED:
        if name not in named:
            raise ParametersError(
                f"{what} returned {', '.join(named) or 'nothing'}; expected "
                f"{', '.join(_REQUIRED)}: {name} is missing"
            )
    tensors = {name: _tensor(value, f"{what}: {name}") for name, value in named.items()}
    for name in set_names(tensors):
        _check_set(tensors, name, loss, what)
    return tensors


def _named(returned: Any, what: str) -> dict[str, Any]:
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        names = [field.name for field in dataclasses.fields(returned)]
        fields = {name: getattr(returned, name) for name in names if split_name(name)}
        return {name: value for name, value in fields.items() if value is not None}
    if not isinstance(returned, Mapping):
        given = type(returned).__name__
        raise ParametersError(
            f"{what} returned {given}; expected a mapping or a dataclass with "
            f"{', '.join(_REQUIRED)}"
        )
    for name in returned:
        parts = split_name(name) if isinstance(name, str) else None
        close = difflib.get_close_matches(str(name), _REQUIRED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        if parts is None or not parts[0].isidentifier() or parts[0] != parts[0].lower():
            raise ParametersError(
                f"{what} returned {name!r}; expected names <set>_inputs and <set>_targets, the set "
                f"in small letters, digits and '_'{hint}"
            )
        if f"{parts[0]}_inputs" not in returned:
            raise ParametersError(f"{what} returned {name} without {parts[0]}_inputs{hint}")
    return dict(returned)


def _tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        given = f"{type(value).__module__}.{type(value).__qualname__}"
        hint = "; torch.from_numpy makes one" if given == "numpy.ndarray" else ""
        raise ParametersError(f"{what} is a {given}; expected a torch.Tensor{hint}")
    if value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise ParametersError(f"{what} is {value.layout}, {value.dtype}; expected a dense real one")
    plain = value.detach().cpu().contiguous()
    if plain.ndim < 1 or len(plain) == 0:
        raise DataError(f"{what} has shape {tuple(plain.shape)}; expected at least one row")
    if plain.is_floating_point() and not bool(plain.isfinite().all()):
        rows = (~plain.isfinite().reshape(len(plain), -1).all(dim=1)).nonzero().flatten()
        raise DataError(
            f"{what} holds NaN or infinity in {len(rows)} of {len(plain)} rows, first in row "
            f"{int(rows[0])}; expected finite numbers: remove or impute them"
        )
    return plain


def _check_set(tensors: Mapping[str, Tensor], name: str, loss: str, what: str) -> None:
    for part in ("inputs", "targets"):
        tensor, train = tensors.get(f"{name}_{part}"), tensors[f"train_{part}"]
        if tensor is None:
            continue
        if (tensor.shape[1:], tensor.dtype) != (train.shape[1:], train.dtype):
            raise DataError(
                f"{what}: {name}_{part} has rows of shape {tuple(tensor.shape[1:])} and type "
                f"{tensor.dtype}; expected those of train_{part}, {tuple(train.shape[1:])} and "
                f"{train.dtype}"
            )
    inputs, targets = tensors[f"{name}_inputs"], tensors.get(f"{name}_targets")
    if targets is None:
        return
    if len(inputs) != len(targets):
        raise DataError(
            f"{what}: {name}_inputs has {len(inputs)} rows, {name}_targets {len(targets)}; "
            "expected the same number"
        )
    if loss in _NUMBERS and not targets.is_floating_point():
        raise DataError(
            f"{what}: {name}_targets is {targets.dtype}; the loss {loss} expects floating-point "
            "numbers of the network's type: targets.float()"
        )
    if loss == _CLASSES and (targets.dtype != torch.int64 or int(targets.min()) < 0):
        raise DataError(
            f"{what}: {name}_targets is {targets.dtype} from {targets.min().item():g}; the loss "
            f"{loss} expects class indices from 0, torch.int64: targets.long()"
        )
