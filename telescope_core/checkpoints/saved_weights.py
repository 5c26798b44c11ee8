"""Reads saved weights and refuses those that do not belong to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from telescope_core.errors import ArtifactError, ConfigurationError, ShapeError, listed

SavedWeights = str | PathLike[str] | Mapping[str, Tensor]
"""A safetensors file, or a state dict in memory."""


class WeightReader:
    """Copies saved weights into a model, or says why they do not fit.

    Raises:
        ConfigurationError: The model's state holds something other than tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict(keep_vars=True)
        foreign = sorted(name for name, value in state.items() if not isinstance(value, Tensor))
        if foreign:
            raise ConfigurationError(
                f"the model's state holds {', '.join(foreign)}, not tensors; expected tensors "
                "only: keep such state in buffers"
            )
        self._shapes = {name: tuple(value.shape) for name, value in state.items()}
        # Tied weights have several names; a file may hold all of them, or only one.
        first: dict[int, str] = {}
        self._stands_for = {
            name: first.setdefault(id(value), name) for name, value in state.items()
        }

    def check(self, saved: SavedWeights, where: str) -> None:
        """Refuse weights by their names and shapes, without reading a file's values.

        Raises:
            ArtifactError: The file is missing, truncated or not safetensors.
            ConfigurationError: Not weights, or their names are not the model's.
            ShapeError: Their shapes are not the model's.
        """
        if isinstance(saved, Mapping):
            shapes = {name: tuple(value.shape) for name, value in _tensors(saved, where).items()}
        else:
            shapes = _read(saved, where, values=False)[0]
        self._require(shapes, where)

    def load(self, model: nn.Module, saved: SavedWeights, where: str) -> None:
        """Copy weights and buffers into ``model``.

        Raises:
            ArtifactError: The file is missing, truncated or not safetensors.
            ConfigurationError: Names or dtypes are not the model's, or tied weights differ.
            ShapeError: Their shapes are not the model's.
        """
        if isinstance(saved, Mapping):
            tensors = _tensors(saved, where)
        else:
            tensors = _read(saved, where, values=True)[1]
        self._require({name: tuple(value.shape) for name, value in tensors.items()}, where)
        own = model.state_dict(keep_vars=True)
        written: dict[str, str] = {}
        with torch.no_grad():
            for name, value in tensors.items():
                target = own[name]
                if torch.promote_types(value.dtype, target.dtype) != target.dtype or (
                    value.is_floating_point() != target.is_floating_point()
                ):
                    raise ConfigurationError(
                        f"{where} holds {name} as {value.dtype}, the model as {target.dtype}, "
                        f"which cannot hold it exactly; convert the model to {value.dtype}"
                    )
                earlier = written.setdefault(self._stands_for[name], name)
                if earlier != name and not torch.equal(target.cpu(), value.to(target).cpu()):
                    raise ConfigurationError(
                        f"{where} holds different values for {earlier} and {name}, which are one "
                        "tensor in the model; expected equal values: give the model whose weights "
                        "were saved"
                    )
                target.copy_(value)

    def _require(self, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
        given = {self._stands_for[name] for name in shapes if name in self._shapes}
        missing = sorted(n for n, first in self._stands_for.items() if first not in given)
        unknown = sorted(set(shapes) - set(self._shapes))
        if missing or unknown:
            parts = [f"lacks {listed(missing, 4)}"] if missing else []
            parts += [f"holds {listed(unknown, 4)}, unknown to the model"] if unknown else []
            raise ConfigurationError(
                f"{where} {' and '.join(parts)}; expected the {len(self._shapes)} names of "
                "model.state_dict(): give the model whose weights were saved"
            )
        for name, shape in shapes.items():
            if shape != self._shapes[name]:
                raise ShapeError(
                    f"{where} holds {name} of shape {shape}, the model has "
                    f"{self._shapes[name]}; give the model whose weights were saved"
                )


def describe(saved: SavedWeights, number: int) -> str:
    """What to call a checkpoint in messages."""
    if isinstance(saved, Mapping):
        return f"checkpoint {number} (a state dict)"
    return f"checkpoint {number} ({saved})"


def require_own_memory(series: Sequence[SavedWeights]) -> None:
    """Refuse state dicts that are views of the same live weights.

    Raises:
        ConfigurationError: Naming the two.
    """
    seen: dict[tuple[int, ...], int] = {}
    for number, saved in enumerate(series):
        if not isinstance(saved, Mapping):
            continue
        tensors = _tensors(saved, describe(saved, number)).values()
        places = tuple(sorted(value.data_ptr() for value in tensors if value.numel()))
        earlier = seen.setdefault(places, number)
        if places and earlier != number:
            raise ConfigurationError(
                f"checkpoints {earlier} and {number} share memory, so they hold the same weights; "
                "expected copies: save copy.deepcopy(model.state_dict())"
            )


def _tensors(saved: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    for name, value in saved.items():
        if not isinstance(value, Tensor):
            raise ConfigurationError(
                f"{where} holds {name!r} of type {type(value).__name__}; expected tensors by name "
                "as in model.state_dict()"
            )
    return saved


def _read(
    path: str | PathLike[str], where: str, *, values: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """The shapes in a file and, on request, its tensors on the CPU."""
    if not Path(path).is_file():
        raise ArtifactError(
            f"{where}: no such file; expected a safetensors file: check the path, or save the "
            "weights again"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            tensors = {name: file.get_tensor(name) for name in names} if values else {}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{where}: truncated, unreadable or not safetensors ({error}); expected a whole "
            "safetensors file: save the weights again with safetensors.torch.save_file"
        ) from error
    return shapes, tensors
