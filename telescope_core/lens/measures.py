"""What the smoother of one set is measured by, and under which names records hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from telescope_core import complexity
from telescope_core.losses import Response
from telescope_core.probes import Directions
from telescope_core.smoother.low_rank import LowRankSmoother


@dataclass(frozen=True, eq=False)
class Measures:
    """The smoother on one set, and what is needed to measure it.

    Attributes:
        S: Along the label directions, shape ``(rows, k, m)``.
        outputs: The network's own on the set, shape ``(rows, k)``.
        directions: The label directions.
        model: A low-rank model of S, where there is one.
        response: What outputs stand for; ``None`` if that is not known.
        V: The label directions on the same rows; ``None`` but for training rows that are known.
        parts: What each layer contributes to S, ``(layers, rows, k, m)``, if that is followed.
        layers: Their names.
        share: The share of the training labels that count, if these rows have none of their own.
    """

    S: Tensor
    outputs: Tensor
    directions: Directions
    model: LowRankSmoother | None
    response: Response | None
    V: Tensor | None = None
    parts: Tensor | None = None
    layers: Sequence[str] = ()
    share: float = 1.0

    def counting(self, counted: Tensor | None, *, train: bool) -> Measures:
        """The same where some training labels count for nothing (padded or ignored positions).

        Outputs without a label are no rows of the training set, and a set is compared with as many
        labels as count.

        Args:
            counted: Which outputs of the training set have a label, ``(n, k)``; ``None`` for all.
            train: Whether these are the rows of the training set.

        Returns:
            The measures.
        """
        if counted is None:
            return self
        if not train:
            return replace(self, share=float(counted.double().mean()))
        keep = counted.to(self.S)[..., None]
        model = self.model
        return replace(
            self,
            S=self.S * keep,
            parts=None if self.parts is None else self.parts * keep,
            model=None if model is None else replace(model, Phi=model.Phi * keep.to(model.Phi)),
        )

    @property
    def is_count(self) -> bool:
        """Whether the norm of S counts parameters: outputs are predictions."""
        return self.response is not None and self.response.is_identity

    def record(self, name: str, train_outputs: Tensor | None) -> dict[str, float]:
        """Everything that a record holds about the smoother of the set ``name``."""
        size = f"{name}/{'effective_parameters' if self.is_count else 'logit_sensitivity'}"
        metrics: dict[str, float] = {}
        metrics[size], metrics[f"{size}_stderr"] = self.norm()
        if self.parts is not None:
            by_layer = self.norm_by_layer()
            metrics |= {f"{size}/{layer}": share for layer, share in by_layer.items()}
        response = self.response
        if response is None or self.directions.label_width != self.S.shape[1]:
            return metrics
        if self.V is not None:
            trace = "train/degrees_of_freedom"
            metrics[trace], metrics[f"{trace}_stderr"] = self.degrees_of_freedom(response)
            if self.parts is not None and not self.is_count:
                traces = self.traces_by_layer(response)
                metrics |= {f"{trace}/{layer}": part for layer, part in traces.items()}
        if self.directions.is_exact and not self.is_count and train_outputs is not None:
            metrics[f"{name}/hat_sensitivity"] = self.hat_norm(response, train_outputs)
        return metrics

    def norm(self) -> tuple[float, float]:
        """Effective parameters, or the same formula for logits."""
        value, error = complexity.effective_parameters(self.S, self.directions, self.model)
        return self.share * value, self.share * error

    def norm_per_example(self) -> Tensor:
        """The same for each row."""
        of_rows = complexity.effective_parameters_per_example(self.S, self.directions, self.model)
        return self.share * of_rows

    def norm_by_layer(self) -> dict[str, float]:
        """The same split over layers."""
        assert self.parts is not None
        shares = complexity.layer_shares(self.parts, self.directions)
        return dict(zip(self.layers, (self.norm()[0] * shares).tolist(), strict=True))

    def degrees_of_freedom(self, response: Response) -> tuple[float, float]:
        """Of the training set: the trace of W S per free coordinate of a row's means."""
        assert self.V is not None
        f = self.outputs.cpu().double()
        S = response.derivative(f, self.S.cpu().double())
        model = self.model
        if model is not None:
            model = replace(model, Phi=response.derivative(f, model.Phi))
        value, error = complexity.degrees_of_freedom(S, self.V, self.directions, model)
        return value / response.divisor, error / response.divisor

    def traces_by_layer(self, response: Response) -> dict[str, float]:
        """The same split over layers."""
        assert self.parts is not None
        assert self.V is not None
        f = self.outputs.cpu().double()
        pushed = torch.stack([response.derivative(f, part) for part in self.parts.cpu().double()])
        traces = complexity.layer_traces(pushed, self.V, self.directions) / response.divisor
        return dict(zip(self.layers, traces.tolist(), strict=True))

    def hat_norm(self, response: Response, train_outputs: Tensor) -> float:
        """Of the hat form, from exact directions."""
        return self.share * complexity.hat_norm(self.S, self.outputs, train_outputs, response)
