"""What can be read off a followed training run at any step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from telescope_core import complexity
from telescope_core.complexity import (
    classical_degrees_of_freedom,
    degrees_of_freedom,
    effective_parameters,
    effective_parameters_per_example,
)
from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import Layers, Linearizer, without_autocast
from telescope_core.lens.present import Now, Present
from telescope_core.lens.refusals import Refusals
from telescope_core.lens.step import StepFollower
from telescope_core.lens.strategy import EngineFactory
from telescope_core.lens.track import Track
from telescope_core.network import NetworkState, outside_inference_mode
from telescope_core.network.trained_parameters import TrainedParameters
from telescope_core.smoother import LinearizedRows, RowSet, Smoother
from telescope_core.snapshot import Snapshot

if TYPE_CHECKING:
    from telescope_core.live import LiveLog


class Readings:
    """Predictions, the smoother and every measure of a run; the lens adds how it is followed.

    Nothing here moves the run: reading at one step or at none gives the same training and the same
    later readings.
    """

    _engines: EngineFactory | None
    _linearizer: Linearizer
    _track: Track
    _follower: StepFollower
    _trained: TrainedParameters

    def __init__(
        self, train: RowSet, sets: Mapping[str, RowSet], present: Present, refusals: Refusals
    ) -> None:
        self._train = train
        self._sets = dict(sets)
        self._present = present
        self._at_zero: dict[str, tuple[NetworkState, LinearizedRows]] = {}
        self._logs: list[LiveLog] = []
        self._refusals = refusals

    def _current(self) -> Now:
        """Every set linearised at the parameters as they are now."""
        self._trained.require_same()
        now = self._present.current(self._track)
        if self._track.engine is not None:
            with self._refusals.or_smoother():
                self._follower.require_unmoved()
                now.require_still()
        self._track.move_theta(now.theta)
        return now

    @property
    def refusal(self) -> str | None:
        """Why not everything is followed that was asked for (``on_refusal="warn"``), if so."""
        return self._refusals.reason

    @property
    def steps(self) -> int:
        """Training steps followed so far."""
        return self._track.step

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets that are followed, "train" first."""
        return tuple(self._sets)

    @property
    def strategy(self) -> str | None:
        """The smoother's engine in use; ``None`` before the first step or without probes."""
        return None if self._track.engine is None else self._track.engine.name

    @outside_inference_mode()
    def predictions(self, name: str) -> Tensor:
        """The network's own outputs f on a set, shape ``(rows, k)``."""
        self._require_set(name)
        if self._refusals.is_blind:
            return self._sets[name].outputs(self._linearizer.theta())
        return self._current().rows[name].outputs.clone()

    @outside_inference_mode()
    def telescoped(self, name: str) -> Tensor:
        """The telescoped predictions f̃ on a set, shape ``(rows, k)`` (Eq. 5 i; MATH section 1).

        What changed outputs otherwise than through θ (buffers that training moves) is taken as it
        is.
        """
        self._require_set(name)
        self._require_sight()
        now = self._current()
        spans = self._track.spans(now.rows)
        telescoped = self._track.theta_path.value(name, spans[name])[..., 0]
        return telescoped + now.shift[name] if now.shift else telescoped

    @outside_inference_mode()
    def linearized(self, name: str) -> Tensor:
        """The lazy linearisation ``f_{θ_0} + J_0 (θ_t − θ_0)`` on a set, shape ``(rows, k)``.

        Both are of the network with the buffers that it has now.
        """
        self._require_set(name)
        self._require_sight()
        track = self._track
        theta = self._current().theta
        state = self._present.state
        held = self._at_zero.get(name)
        if held is None or held[0] != state:
            held = (state, self._sets[name].linearize(track.theta_0))
        if self._logs:
            # Half of what a record costs; memory as for the start of a block.
            self._at_zero[name] = held
        displacement = (theta - track.theta_0)[:, None]
        f_0 = held[1].outputs if self._present.has_shifted else track.f_0[name]
        return f_0 + held[1].jvp(displacement)[..., 0]

    def smoother(self, name: str) -> Tensor:
        """``S_t`` on a set, exact probes only.

        Returns:
            ``(rows, n)`` for one output and one label per point, else ``(rows, k, n, labels)``.

        Raises:
            ConfigurationError: The lens does not carry all label directions.
        """
        engines = self._require_probes("smoother")
        if engines.probes != "exact":
            raise ConfigurationError(
                f"smoother() needs all label directions, but probes={engines.probes!r}; create "
                'the lens with probes="exact", or read effective parameters instead'
            )
        S = self._columns(name)[..., : engines.label_count]
        rows, k = S.shape[:2]
        full = S.reshape(rows, k, len(self._train), -1)
        return full[:, 0, :, 0] if full.shape[1] * full.shape[3] == 1 else full

    def constant(self, name: str) -> Tensor:
        """``c_t`` on a set: the part of ``S·Y + c`` that no label contributes to; squared loss.

        Returns:
            ``(rows,)`` for one output, else ``(rows, k)``.

        Raises:
            ConfigurationError: There is no smoother, or the loss is not quadratic.
        """
        return self._affine(name, -2)

    def smoothed(self, name: str) -> Tensor:
        """``S·Y + c`` on a set, for any number of probes; squared loss.

        Returns:
            ``(rows,)`` for one output, else ``(rows, k)``.

        Raises:
            ConfigurationError: There is no smoother, or the loss is not quadratic.
        """
        return self._affine(name, -1)

    @outside_inference_mode()
    def effective_parameters_per_example(self, name: str) -> Tensor:
        """Each row's ``n/k · ‖s(x)‖²``: which points the model spends its parameters on.

        Returns:
            Float64, shape ``(rows,)``; the mean is the set's effective parameters.

        Raises:
            ConfigurationError: There is no smoother.
        """
        self._require_probes("effective_parameters_per_example")
        engine = self._require_engine()
        S = self._columns(name)[..., : engine.directions.count]
        return effective_parameters_per_example(S, engine.directions, engine.model(name))

    @outside_inference_mode()
    def effective_parameters_by_layer(self, name: str) -> dict[str, float]:
        """How a set's effective parameters split over layers: which layer has learned it.

        Returns:
            Per layer its share, which may be negative where it works against the others; they add
            up to the set's effective parameters.  NaN before the first step.

        Raises:
            ConfigurationError: The lens was not created with ``layer_shares=True`` and probes.
        """
        layers = self._require_layers()
        engine = self._require_engine()
        S = self._columns(name)[..., : engine.directions.count]
        total, _ = effective_parameters(S, engine.directions, engine.model(name))
        spans = self._track.spans(self._current().rows)
        by_layer = engine.values_by_layer(name, spans)[..., : engine.directions.count]
        shares = complexity.layer_shares(by_layer, engine.directions)
        return dict(zip(layers.names, (total * shares).tolist(), strict=True))

    @outside_inference_mode()
    def classical_degrees_of_freedom(self) -> float:
        """``tr(2S − SSᵀ)`` on the training set.

        Raises:
            ConfigurationError: There is no smoother.
        """
        self._require_probes("classical_degrees_of_freedom")
        engine = self._require_engine()
        S = self._columns("train")[..., : engine.directions.count]
        return classical_degrees_of_freedom(S, engine.directions, engine.model("train"))

    @outside_inference_mode()
    def snapshot(self) -> Snapshot:
        """Measure everything at the current step; right also inside a block."""
        metrics: dict[str, float] = {}
        for name in () if self._refusals.is_blind else self._sets:
            with self._refusals.or_blind():
                metrics |= self._metrics(name)
        if self._refusals.is_blind:
            metrics = {}
        return Snapshot(self._track.step, metrics, self._refusals.news())

    def _metrics(self, name: str) -> dict[str, float]:
        f = self.predictions(name)
        metrics = {
            f"{name}/approximation_error": _mean_gap(f, self.telescoped(name)),
            f"{name}/linearization_error": _mean_gap(f, self.linearized(name)),
        }
        if self._engines is not None:
            metrics |= self._smoother_metrics(name, f)
        if self._track.kernel_norms is not None:
            metrics |= self._track.kernel_norms.record(name)
        return metrics

    def _smoother_metrics(self, name: str, f: Tensor) -> dict[str, float]:
        engine = self._require_engine()
        columns = self._columns(name)
        S = columns[..., : engine.directions.count]
        model = engine.model(name)
        estimate, error = effective_parameters(S, engine.directions, model)
        metrics = {}
        if engine.affine_columns:
            metrics[f"{name}/smoother_error"] = _mean_gap(f, columns[..., -1])
        metrics[f"{name}/effective_parameters"] = estimate
        metrics[f"{name}/effective_parameters_stderr"] = error
        if self._engines is not None and self._engines.layers is not None:
            for layer, share in self.effective_parameters_by_layer(name).items():
                metrics[f"{name}/effective_parameters/{layer}"] = share
        if name == "train" and engine.directions.basis.shape[1] == S.shape[1]:
            metrics["train/degrees_of_freedom"] = degrees_of_freedom(S, engine.directions, model)
        return metrics

    @outside_inference_mode()
    def _columns(self, name: str) -> Tensor:
        self._require_set(name)
        spans = self._track.spans(self._current().rows)
        with without_autocast(self._track.theta_0.device):
            return self._require_engine().values(name, spans)

    def _affine(self, name: str, column: int) -> Tensor:
        engines = self._require_probes("constant")
        if not engines.is_quadratic:
            raise ConfigurationError(
                "S·Y + c exists for squared losses only, where everything is affine in the "
                "labels; for this loss the smoother is a sensitivity without a constant"
            )
        values = self._columns(name)[..., column]
        return values[:, 0] if values.shape[1] == 1 else values

    def _require_set(self, name: str) -> None:
        if name not in self._sets:
            raise ConfigurationError(f"no set named {name!r}; there are {', '.join(self._sets)}")

    def _require_sight(self) -> None:
        if self._refusals.is_blind:
            raise ConfigurationError(
                "nothing but the network's own outputs can be read any more, since the lens could "
                f"not follow the training: {self.refusal}"
            )

    def _require_probes(self, what: str) -> EngineFactory:
        if self._engines is None and self.refusal is not None:
            raise ConfigurationError(
                f"{what} needs a smoother, which the lens gave up: {self.refusal}"
            )
        if self._engines is None:
            raise ConfigurationError(
                f'{what} needs a smoother, but probes=None; create the lens with probes="exact" '
                "or a number of probes"
            )
        return self._engines

    def _require_layers(self) -> Layers:
        layers = self._require_probes("effective_parameters_by_layer").layers
        if layers is None:
            raise ConfigurationError(
                "the split over layers is not followed; create the lens with layer_shares=True"
            )
        return layers

    def _require_engine(self) -> Smoother:
        engines = self._require_probes("the smoother")
        if self._track.engine is None:
            return engines.before_training(self._track.at_start)
        return self._track.engine


def _mean_gap(actual: Tensor, modelled: Tensor) -> float:
    return float((actual - modelled).abs().cpu().double().mean())
