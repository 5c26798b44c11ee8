"""The state of a training loop as tensors and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.errors import ArtifactError


def pack(
    model: nn.Module, optimizer: torch.optim.Optimizer, lenses: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Collect everything that the next training step depends on.

    Args:
        model: Its parameters and buffers are stored.
        optimizer: Its per-parameter state is stored; the hyperparameters come from the case.
        lenses: Lenses by name.

    Returns:
        Tensors by path (``model/...``, ``optimizer/0/exp_avg``, ``lens/<name>/...``), the JSON-able
        states of the lenses by name. The tensors are copies, so that training may go on.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    states: dict[str, Any] = {}
    for position, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                tensors[f"optimizer/{position}/{key}"] = torch.as_tensor(value)
    for name, lens in lenses.items():
        state = lens.state_dict()
        states[name] = state["state"]
        tensors |= {f"lens/{name}/{key}": value for key, value in state["tensors"].items()}
    return {key: value.detach().clone().contiguous() for key, value in tensors.items()}, states


def unpack(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    lenses: dict[str, Any],
    tensors: dict[str, Tensor],
    states: dict[str, Any],
) -> None:
    """Put a packed state back into freshly built objects.

    Args:
        model: Built as in the interrupted run.
        optimizer: Built as in the interrupted run.
        lenses: Built as in the interrupted run, by the same names.
        tensors: From :func:`pack`.
        states: From :func:`pack`.

    Raises:
        ArtifactError: The checkpoint was written for another model or other lenses.
    """
    if set(states) != set(lenses):
        raise ArtifactError(
            f"the checkpoint holds lenses {sorted(states)}, this run has {sorted(lenses)}; delete "
            "the checkpoint to start over"
        )
    try:
        model.load_state_dict(under(tensors, "model/"))
    except RuntimeError as error:
        raise ArtifactError(f"the checkpoint does not fit the model: {error}") from error
    per_parameter: dict[int, dict[str, Tensor]] = {}
    for path, value in under(tensors, "optimizer/").items():
        position, key = path.split("/", maxsplit=1)
        per_parameter.setdefault(int(position), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    # Last: a lens linearises the model as it finds it.
    for name, lens in lenses.items():
        lens.load_state_dict({"tensors": under(tensors, f"lens/{name}/"), "state": states[name]})


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {
        path.removeprefix(prefix): tensor
        for path, tensor in tensors.items()
        if path.startswith(prefix)
    }
