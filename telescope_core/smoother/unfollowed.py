"""What a model holds beside its trained parameters and moves where no derivative follows."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from telescope_core.errors import RefusalWarning, listed
from telescope_core.jacobians.training_pass import TrainingPass

# A buffer may begin to move otherwise after the first pass (a code book that is filled first).
_PASSES_LOOKED_AT = 2
_ENTRIES = 64


class Unfollowed:
    """Finds and names tensors whose change is taken as it is.

    These are buffers that training writes by value (``.item()``, numpy), and buffers and
    frozen parameters that are moved outside of the forward pass (averages of the weights).  Integer
    buffers have no derivative to miss.

    Args:
        model: The model.
        followed: Names in z: trained parameters, and the buffers that passes move.

    Attributes:
        names: Those found so far.
    """

    def __init__(self, model: nn.Module, followed: Container[str]) -> None:
        self._model = model
        self._followed = followed
        self._looked = 0
        self._frozen = self._marks()
        self._last: dict[str, Tensor] = {}
        self._left: dict[str, Tensor] = {}
        self.names: list[str] = []

    def look(self, buffers: Mapping[str, Tensor], autocast: torch.dtype | None) -> None:
        """Compare what is held with where passes have left it.

        Args:
            buffers: Every buffer, by name, when a pass began or now.
            autocast: The precision of the pass that begins, if it is under autocast.
        """
        frozen = self._marks()
        moved = [name for name in frozen if frozen[name] != self._frozen.get(name, frozen[name])]
        other = {n: b for n, b in buffers.items() if _floats(b) and n not in self._followed}
        moved += [n for n, b in other.items() if not torch.equal(b, self._last.get(n, b))]
        moved += [n for n, b in self._left.items() if not _nearly(buffers[n], b, autocast)]
        self._frozen = frozen
        self._last = {name: buffer.detach().clone() for name, buffer in other.items()}
        self.name(moved)

    def look_at(self, run: TrainingPass) -> None:
        """Take note of what a pass leaves; of the first ones, whether it moves as it should."""
        self._left = run.buffers
        if self._looked < _PASSES_LOOKED_AT:
            self._looked += 1
            self.name(run.unfollowed(self._looked))

    def name(self, moved: list[str]) -> None:
        """Warn of what is not among those found so far."""
        new = sorted(set(moved) - set(self.names))
        if new:
            self.names += new
            warnings.warn(
                f"{listed(new)} moved where no derivative follows (written by value, or outside of "
                "the forward pass), so the change is taken as it is: the smoother holds for a "
                "training in which labels do not move it otherwise",
                RefusalWarning,
                stacklevel=2,
            )

    def _marks(self) -> dict[str, tuple[float, ...]]:
        """A few entries of every frozen parameter: averages of weights move all of them."""
        marks = {}
        for name, parameter in self._model.named_parameters():
            if name not in self._followed and _floats(parameter):
                flat = parameter.detach().reshape(-1)
                marks[name] = tuple(flat[:: 1 + len(flat) // _ENTRIES].tolist())
        return marks


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel() > 0


def _nearly(held: Tensor, left: Tensor, autocast: torch.dtype | None) -> bool:
    """Whether two tensors are equal, up to what other kernels may make of them."""
    if held.shape != left.shape:
        return False
    coarse = [torch.finfo(dtype).eps for dtype in (left.dtype, autocast) if dtype]
    gap, size = float((held - left).abs().max()), float(left.abs().max())
    return bool(gap <= max(coarse[0] ** 0.5, 4 * coarse[-1]) * (1 + size))
