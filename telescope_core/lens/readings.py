"""What can be read off a followed training run at any step."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor

from telescope_core import complexity
from telescope_core.arguments import check_choice
from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import without_autocast
from telescope_core.lens.measures import Measures
from telescope_core.lens.run import Run
from telescope_core.lens.strategy import EngineFactory
from telescope_core.losses import Response
from telescope_core.network import own_streams
from telescope_core.smoother import Smoother
from telescope_core.snapshot import Reading, Snapshot, named_by_reading


class Readings:
    """Predictions, the smoother and every measure of a run, which nothing here moves."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def predictions(self, name: str) -> Tensor:
        """The network's own outputs f on a set, shape ``(rows, k)``."""
        self._require_set(name)
        run = self._run
        if run.refusals.is_blind:
            return run.sets[name].outputs(run.linearizer.function.theta())
        return run.current().rows[name].outputs.clone()

    def telescoped(self, name: str) -> Tensor:
        """The telescoped predictions f̃ on a set (Eq. 5 i; docs/mathematics.md, section 2).

        What changed outputs otherwise than through θ (buffers that training moves) is taken as it
        is.

        Returns:
            f̃ at the parameters as they are now, shape ``(rows, k)``.
        """
        self._require_sight(name)
        return self._run.telescoped(name)

    def linearized(self, name: str) -> Tensor:
        """The lazy linearisation ``f_{θ_0} + J_0 (θ_t − θ_0)`` on a set.

        Both are of the network with the buffers that it has now.  The linearisation is kept for
        later readings, which takes as much memory as that at the start of the block.

        Returns:
            Predictions of the linear model, shape ``(rows, k)``.
        """
        self._require_sight(name)
        track, present = self._run.track, self._run.present
        theta = self._run.current().theta
        at_zero = present.at_zero(name, track.theta_0)
        f_0 = at_zero.outputs if present.has_shifted else track.f_0[name]
        return f_0 + at_zero.jvp((theta - track.theta_0)[:, None])[..., 0]

    def smoother(self, name: str, *, reading: Reading = "telescoped") -> Tensor:
        """``S_t`` on a set, exact probes only.

        Args:
            name: The set.
            reading: ``"telescoped"``, ``Σ J̄ ΔA`` as in the paper, or ``"end-to-end"``,
                ``J(θ_t) A_t``: how the network as it is now reacts to the labels.

        Returns:
            ``(rows, n)`` for one output and one label per point, else ``(rows, k, n, labels)``.

        Raises:
            ConfigurationError: The lens does not carry all label directions.
        """
        engines = self._require_probes("smoother")
        probes = self._run.settings.probes
        if probes != "exact":
            raise ConfigurationError(
                f"smoother() needs all label directions, but probes={probes!r}; create "
                'the lens with probes="exact", or read effective parameters instead'
            )
        S = self._columns(name, reading)[..., : engines.label_count]
        rows, k = S.shape[:2]
        full = S.reshape(rows, k, engines.problem.n, -1)
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

    def effective_parameters_per_example(self, name: str) -> Tensor:
        """Each row's ``n/k · ‖s(x)‖²``: which points the model spends its parameters on.

        Returns:
            Float64, shape ``(rows,)``; the mean is the set's effective parameters.

        Raises:
            ConfigurationError: There is no smoother, or outputs are no predictions.
        """
        self._require_predictions("effective_parameters_per_example", "logit_sensitivity")
        return self._measures(name).norm_per_example()

    def effective_parameters_by_layer(self, name: str) -> dict[str, float]:
        """How a set's effective parameters split over layers: which layer has learned it.

        Returns:
            Per layer its share, which may be negative where it works against the others; they add
            up to the set's effective parameters.  NaN before the first step.

        Raises:
            ConfigurationError: The lens was not created with ``layer_shares=True`` and probes, or
                outputs are no predictions.
        """
        self._require_predictions("effective_parameters_by_layer", "logit_sensitivity")
        return self._measures(name, by_layer=True).norm_by_layer()

    def logit_sensitivity_per_example(self, name: str) -> Tensor:
        """The formula of effective parameters for each row of logits: a size, not a count.

        Returns:
            Float64, shape ``(rows,)``; the mean is the record's ``s/logit_sensitivity``.

        Raises:
            ConfigurationError: There is no smoother, or outputs are predictions.
        """
        self._require_logits("logit_sensitivity_per_example")
        return self._measures(name).norm_per_example()

    def logit_sensitivity_by_layer(self, name: str) -> dict[str, float]:
        """How ``s/logit_sensitivity`` splits over layers.

        Returns:
            Per layer its share, as effective parameters split for a squared loss.

        Raises:
            ConfigurationError: The lens was not created with ``layer_shares=True`` and probes, or
                outputs are predictions.
        """
        self._require_logits("logit_sensitivity_by_layer")
        return self._measures(name, by_layer=True).norm_by_layer()

    def degrees_of_freedom(self) -> tuple[float, float]:
        r"""``tr(W S_train)`` per free coordinate of a row's means, or ``tr S_train``.

        The generalised degrees of freedom (Ye 1998): how much the fitted means, for a classifier
        its predicted probabilities, move with their own labels (docs/mathematics.md, section 5.1).

        Returns:
            The estimate and its standard error from probing (0 when exact).

        Raises:
            ConfigurationError: There is no smoother, it is not known what outputs stand for, or
                the outputs of a row have other labels than one each.
        """
        response = self._require_response("degrees_of_freedom")
        return self._measures("train").degrees_of_freedom(response)

    def degrees_of_freedom_by_layer(self) -> dict[str, float]:
        """How the degrees of freedom split over layers.

        Returns:
            Per layer the trace of its part of the smoother.  They add up to the degrees of
            freedom, up to the help of a low-rank model with estimates for a squared loss.

        Raises:
            ConfigurationError: As for :meth:`degrees_of_freedom`, or the lens was not created with
                ``layer_shares=True``.
        """
        response = self._require_response("degrees_of_freedom_by_layer")
        return self._measures("train", by_layer=True).traces_by_layer(response)

    def hat_sensitivity(self, name: str) -> float:
        r"""``n/|I| Σ ‖h(x)‖²`` of the hat form :math:`W^{1/2} S W_{train}^{1/2}`.

        Exact probes only.  It weighs labels by the variance that the model gives them, as in a
        generalised linear model.  A sensitivity and no count: it may pass n (docs/mathematics.md,
        section 5.1).

        Returns:
            The number per free coordinate of a row's means.

        Raises:
            ConfigurationError: The lens does not carry all label directions, outputs are
                predictions, or it is not known what they stand for.
        """
        response = self._require_response("hat_sensitivity")
        if response.is_identity or not self._engine().directions.is_exact:
            what = "predictions" if response.is_identity else "logits with fewer probes than labels"
            raise ConfigurationError(
                f"hat_sensitivity() weighs all labels of a classifier, but the lens follows {what};"
                ' use probes="exact" with a loss of logits, or read the degrees of freedom'
            )
        return self._measures(name).hat_norm(response, self.predictions("train"))

    def classical_degrees_of_freedom(self) -> float:
        """``tr(2S − SSᵀ)`` on the training set.

        Returns:
            The degrees of freedom that are subtracted from n to give those of the residuals.

        Raises:
            ConfigurationError: There is no smoother, or outputs are no predictions.
        """
        self._require_predictions("classical_degrees_of_freedom", "degrees_of_freedom")
        on_train = self._measures("train")
        assert on_train.V is not None
        return complexity.classical_degrees_of_freedom(
            on_train.S, on_train.V, on_train.directions, on_train.model
        )

    def snapshot(self, reading: Reading | Literal["both"] = "telescoped") -> Snapshot:
        """Measure everything at the current step; right also inside a block.

        Args:
            reading: How S is read, see :meth:`smoother`; names tell one reading from the other.

        Returns:
            The measures.
        """
        check_choice("reading", reading, (*get_args(Reading), "both"))
        readings: tuple[Reading, ...] = get_args(Reading) if reading == "both" else (reading,)
        refusals = self._run.refusals
        metrics: dict[str, float] = {}
        for name in () if refusals.is_blind else self._run.sets:
            with refusals.or_blind():
                metrics |= self._metrics(name, readings)
        seen = {} if refusals.is_blind else metrics
        of_S = () if self._run.engines is None else (readings, self._run.settings.curvature)
        return Snapshot(self._run.track.step, seen, refusals.news(), *of_S)

    def _metrics(self, name: str, readings: tuple[Reading, ...]) -> dict[str, float]:
        f = self.predictions(name)
        metrics = {
            f"{name}/approximation_error": _mean_gap(f, self.telescoped(name)),
            f"{name}/linearization_error": _mean_gap(f, self.linearized(name)),
        }
        for reading in () if self._run.engines is None else readings:
            metrics |= self._smoother_metrics(name, f, reading)
        if self._run.track.kernel_norms is not None:
            metrics |= self._run.track.kernel_norms.record(name)
        return metrics

    def _smoother_metrics(self, name: str, f: Tensor, reading: Reading) -> dict[str, float]:
        columns, is_model = self._columns(name, reading), reading == "telescoped"
        metrics = {}
        if is_model and self._engine().affine_columns:
            metrics[f"{name}/smoother_error"] = _mean_gap(f, columns[..., -1])
        engines = self._require_probes("the smoother")
        measures = self._measures(name, columns, by_layer=is_model and engines.layers is not None)
        measures = measures if is_model else replace(measures, model=None)
        has_all = "train" in self._run.sets and not engines.problem.is_streamed
        recorded = measures.record(name, self.predictions("train") if has_all else None)
        return metrics | named_by_reading(recorded, reading)

    def _measures(
        self, name: str, columns: Tensor | None = None, *, by_layer: bool = False
    ) -> Measures:
        """The smoother on a set along the label directions, and what it is measured by."""
        engine = self._engine()
        columns = self._columns(name) if columns is None else columns
        engines = self._require_probes("the smoother")
        measures = Measures(
            columns[..., : engine.directions.count],
            self.predictions(name),
            engine.directions,
            engine.model(name),
            engines.problem.loss.response,
            engines.problem.on_train(engine.directions) if name == "train" else None,
        )
        counted = engines.problem.loss.labels.counted(engines.problem.labels)
        if not by_layer:
            return measures.counting(counted, train=name == "train")
        if engines.layers is None:
            raise ConfigurationError(
                "the split over layers is not followed; create the lens with layer_shares=True"
            )
        spans = self._run.track.spans(self._run.current().rows)
        parts = engine.values_by_layer(name, spans)[..., : engine.directions.count]
        measures = replace(measures, parts=parts, layers=engines.layers.names)
        return measures.counting(counted, train=name == "train")

    def _columns(self, name: str, reading: Reading = "telescoped") -> Tensor:
        check_choice("reading", reading, get_args(Reading))
        self._require_set(name)
        track, engine = self._run.track, self._engine()
        spans = track.spans(self._run.current().rows)
        with without_autocast(track.theta_0.device), own_streams():
            if reading == "telescoped":
                return engine.values(name, spans)
            return engine.values_end_to_end(name, spans)

    def _affine(self, name: str, column: int) -> Tensor:
        engines = self._require_probes("constant")
        if not engines.problem.affine_columns:
            raise ConfigurationError(
                "S·Y + c exists for squared losses only, where everything is affine in the "
                "labels; for this loss the smoother is a sensitivity without a constant"
            )
        values = self._columns(name)[..., column]
        return values[:, 0] if values.shape[1] == 1 else values

    def _engine(self) -> Smoother:
        engines, track = self._require_probes("the smoother"), self._run.track
        return engines.before_training(track.at_start) if track.engine is None else track.engine

    def _response(self) -> Response | None:
        return self._require_probes("the smoother").problem.loss.response

    def _require_response(self, what: str) -> Response:
        """What outputs stand for, where every output of a training point has its label."""
        problem = self._require_probes(what).problem
        response, k = problem.loss.response, next(iter(problem.initial.values())).shape[1]
        if response is None:
            raise ConfigurationError(
                f"{what} needs to know what the outputs stand for, which the loss does not tell; "
                'create the lens with response="identity", "softmax", "sigmoid" or "exp"'
            )
        if problem.labels.shape[1] != k:
            raise ConfigurationError(
                f"{what} needs a label for every output of a row, got {problem.labels.shape[1]} "
                f"labels for {k} outputs; read the effective parameters instead"
            )
        if "train" not in self._run.sets or (problem.is_streamed and problem.sample is None):
            raise ConfigurationError(
                f"{what} needs training rows whose positions are known among those that are "
                "followed; pass the training loader itself as train_inputs"
            )
        return response

    def _require_predictions(self, what: str, instead: str) -> None:
        self._require_probes(what)
        response = self._response()
        if response is None or not response.is_identity:
            kind = "what the loss does not tell" if response is None else response.kind
            raise ConfigurationError(
                f"{what} counts parameters of predictions, but the outputs are arguments of a "
                f"response ({kind}), whose size is no count; read {instead} instead"
            )

    def _require_logits(self, what: str) -> None:
        self._require_probes(what)
        response = self._response()
        if response is not None and response.is_identity:
            raise ConfigurationError(
                f"{what} is for outputs that are no predictions, but these are; read "
                "effective_parameters instead"
            )

    def _require_set(self, name: str) -> None:
        sets = self._run.sets
        if name not in sets:
            raise ConfigurationError(f"no set named {name!r}; there are {', '.join(sets)}")

    def _require_sight(self, name: str) -> None:
        self._require_set(name)
        if self._run.refusals.is_blind:
            raise ConfigurationError(
                "nothing but the network's own outputs can be read any more, since the lens could "
                f"not follow the training: {self._run.refusals.reason}"
            )

    def _require_probes(self, what: str) -> EngineFactory:
        engines, reason = self._run.engines, self._run.refusals.reason
        if engines is None and reason is not None:
            raise ConfigurationError(f"{what} needs a smoother, which the lens gave up: {reason}")
        if engines is None:
            raise ConfigurationError(
                f'{what} needs a smoother, but probes=None; create the lens with probes="exact" '
                "or a number of probes"
            )
        return engines


def _mean_gap(actual: Tensor, modelled: Tensor) -> float:
    return float((actual - modelled).abs().cpu().double().mean())
