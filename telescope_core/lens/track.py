"""Everything the lens carries from step to step, and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import LinearizedRows, RowSet
from telescope_core.kernels import KernelNorms
from telescope_core.lens.strategy import EngineFactory
from telescope_core.probes import LabelDirections
from telescope_core.smoother import Path, Smoother, Span, below, make_path, quadrature_of


@dataclass
class Track:
    """The state of a lens.

    Attributes:
        theta_0: Parameters when the lens was attached, shape ``(p,)``.
        f_0: Per set, the outputs then, shape ``(rows, k)``.
        at_start: Per set, its rows linearised at the start of the block.
        theta_path: The path of θ itself, whose integral is f̃.
        kernel_norms: Running kernel norms, on request.
        engine: The smoother, from the first step on.
        step: Training steps followed.
        block_start: The step at which the block started.
    """

    theta_0: Tensor
    f_0: dict[str, Tensor]
    at_start: dict[str, LinearizedRows]
    theta_path: Path
    kernel_norms: KernelNorms | None = None
    engine: Smoother | None = None
    step: int = 0
    block_start: int = 0

    @classmethod
    def begin(
        cls, theta: Tensor, sets: Mapping[str, RowSet], order: int, kernel_norms: bool
    ) -> Track:
        """The state before the first step, at ``theta``."""
        at_start = {name: rows.linearize(theta).keep() for name, rows in sets.items()}
        f_0 = {name: rows.outputs for name, rows in at_start.items()}
        starts = {name: outputs[..., None].clone() for name, outputs in f_0.items()}
        norms = KernelNorms({name: len(rows) for name, rows in sets.items()}, theta)
        path = make_path(quadrature_of(order), theta[:, None].clone(), starts)
        return cls(theta, f_0, at_start, path, norms if kernel_norms else None)

    @property
    def in_open_block(self) -> bool:
        """Whether a step was taken since the block started."""
        return self.step > self.block_start

    def spans(self, now: Mapping[str, LinearizedRows]) -> dict[str, Span]:
        """Every set over the open block, which ends at ``now``."""
        return {name: Span(start, now[name]) for name, start in self.at_start.items()}

    def move_theta(self, theta: Tensor) -> None:
        """Put the path of θ at the parameters as they are now."""
        self.theta_path.current.copy_(theta[:, None])
        self.theta_path.mark_moved()

    def state_dict(
        self, settings: Mapping[str, Any], f_start: Mapping[str, Tensor], theta: Tensor
    ) -> dict[str, Any]:
        """Tensors for safetensors, the rest as plain JSON."""
        start = next(iter(self.at_start.values()))
        tensors = {
            "theta_0": self.theta_0,
            "theta_start": start.theta,
            "theta_now": theta,
            **{f"f_0/{name}": outputs for name, outputs in self.f_0.items()},
            **{f"f_start/{name}": outputs for name, outputs in f_start.items()},
            **self.theta_path.tensors("theta"),
        }
        if self.engine is not None:
            tensors |= {f"engine/{name}": t for name, t in self.engine.tensors().items()}
            check = self.engine.gradient_check.tensors()
            tensors |= {f"gradient_check/{name}": t for name, t in check.items()}
            tensors["directions/weights"] = self.engine.directions.weights
            if isinstance(self.engine.directions, LabelDirections):
                tensors["directions/basis"] = self.engine.directions.basis
        if self.kernel_norms is not None:
            tensors |= {f"kernels/{name}": t for name, t in self.kernel_norms.tensors().items()}
        state = {
            "step": self.step,
            "block_start": self.block_start,
            "strategy": None if self.engine is None else self.engine.name,
            "deflated": None if self.engine is None else self.engine.directions.deflated,
            "settings": dict(settings),
        }
        copies = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
        return {"tensors": copies, "state": state}


def restore_track(
    state_dict: Mapping[str, Any],
    settings: Mapping[str, Any],
    begin: Callable[[Tensor], Track],
    engines: EngineFactory | None,
    *,
    moves: bool = False,
) -> tuple[Track, dict[str, Tensor], Tensor]:
    """The track of a checkpoint; nothing is changed if it cannot be used.

    Args:
        state_dict: What was saved.
        settings: What must be the same in the lens that takes it over.
        begin: Makes a track at a θ.
        engines: Makes the smoother.
        moves: Whether what else the model holds may have moved since the start of the block.

    Returns:
        The track, per set the outputs at the start of its block, and θ when it was saved.

    Raises:
        ConfigurationError: The state belongs to another lens, or is damaged.
    """  # noqa: DOC501  # raises again only its own
    try:
        tensors, state = state_dict["tensors"], state_dict["state"]
        saved = state["settings"]
        differing = sorted(key for key in settings if saved.get(key) != settings[key])
        if differing:
            raise ConfigurationError(
                f"the state belongs to a lens that differs in {', '.join(differing)}; create the "
                "lens with the settings, model and sets it was saved with"
            )
        track = begin(tensors["theta_start"].clone())
        track.theta_0 = _like(tensors["theta_0"], track.theta_0)
        track.f_0 = {name: _like(tensors[f"f_0/{name}"], f) for name, f in track.f_0.items()}
        f_start = {n: _like(tensors[f"f_start/{n}"], f) for n, f in track.f_0.items()}
        if not moves:
            _require_same_outputs(f_start, track.at_start)
        theta = _like(tensors["theta_now"], track.theta_0)
        track.theta_path.load("theta", tensors)
        track.step, track.block_start = int(state["step"]), int(state["block_start"])
        if engines is not None and state["strategy"] is not None:
            track.engine = engines.restore(
                state["strategy"], state["deflated"], tensors, track.theta_0, track.f_0
            )
            track.engine.gradient_check.load(below("gradient_check/", tensors))
            track.engine.open_block(track.at_start)
        if track.kernel_norms is not None:
            track.kernel_norms.load(below("kernels/", tensors))
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"the state is damaged or incomplete ({type(error).__name__}: {error}); the lens was "
            "left as it was: save the state again, or go back to an earlier checkpoint"
        ) from error
    return track, f_start, theta


def _require_same_outputs(
    f_start: Mapping[str, Tensor], at_start: Mapping[str, LinearizedRows]
) -> None:
    """Refuse a model whose buffers are not those of the start of the open block."""
    for name, then in f_start.items():
        gap = float((at_start[name].outputs - then).abs().max())
        if gap > torch.finfo(then.dtype).eps ** 0.5 * (1 + float(then.abs().max())):
            raise ConfigurationError(
                f"at the parameters of the start of the block, the model's outputs on {name!r} "
                f"differ by {gap:.3g} from those that were saved: its buffers or settings are "
                "others. Restore the model before the lens; if they change inside blocks, save "
                "after a multiple of stride steps"
            )


def _like(saved: Tensor, expected: Tensor) -> Tensor:
    if saved.shape != expected.shape:
        raise ValueError(f"shape {tuple(saved.shape)} instead of {tuple(expected.shape)}")
    return saved.to(expected).clone()
