"""What is measured at a checkpoint t′: its network, its children's average, its gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.connectivity import Statistics, gradient_change, interpolation_curve
from telescope_core.errors import NonFiniteError
from telescope_pipeline.cases.weight_averaging import sweep
from telescope_pipeline.cases.weight_averaging.schema import SpawnLens
from telescope_pipeline.study.training.measures import class_accuracy

Weights = Mapping[str, Tensor]

# Most rows evaluated at once, and of a batch when statistics are recomputed.
_ROWS = 500
# Test points linearised at once.
_POINTS = 16


class Measures:
    """Evaluates networks of one member.

    Args:
        lens: What to measure.
        data: Training and test images and labels.
        build: A network of the kind.
    """

    def __init__(
        self, lens: SpawnLens, data: Mapping[str, Tensor], build: Callable[[], nn.Module]
    ) -> None:
        self._lens = lens
        self._data = data
        self._model = build()

    def of(
        self, parent: Weights, later: Weights, children: Sequence[Sequence[Weights]]
    ) -> dict[str, float]:
        """Measure one checkpoint.

        Args:
            parent: Weights at t′.
            later: Weights at t′ + ``gradient_gap``.
            children: Pairs of children, trained to the end.

        Returns:
            Loss, Brier score (``mse``: mean squared difference of probabilities and one-hot
            labels) and accuracy of the parent; accuracy along the line between the children, mean
            over pairs, and the gap at its middle; gradient change of every layer.

        Raises:
            NonFiniteError: An output, a weight or a loss is NaN or infinite.
        """
        return {
            **self._scores(parent),
            **self._paths(children),
            **self._changes(parent, later),
        }

    def _scores(self, weights: Weights) -> dict[str, float]:
        model = copy.deepcopy(self._model)
        model.load_state_dict(dict(weights))
        model.eval()
        scores = {}
        for part in ("train", "test"):
            outputs, labels = self._outputs(model, part), self._data[f"{part}_targets"]
            distance = outputs.softmax(dim=1) - functional.one_hot(labels, outputs.shape[1])
            scores[f"{part}/loss"] = float(functional.cross_entropy(outputs, labels))
            scores[f"{part}/mse"] = float(distance.square().mean())
            scores[f"{part}/accuracy"] = class_accuracy(outputs, labels)
        return scores

    def _paths(self, children: Sequence[Sequence[Weights]]) -> dict[str, float]:
        measured: dict[str, float] = {}
        alphas = sweep.alphas(self._lens.alphas)
        for statistics in get_args(Statistics):
            curves = [
                interpolation_curve(
                    self._model,
                    first,
                    second,
                    alphas,
                    lambda model: class_accuracy(
                        self._outputs(model, "test"), self._data["test_targets"]
                    ),
                    statistics=statistics,
                    batches=self._training_batches,
                )
                for first, second in children
            ]
            path = [math.fsum(scores) / len(scores) for scores in zip(*curves, strict=True)]
            ends = (path[0] + path[-1]) / 2
            measured[sweep.children_column(statistics)] = ends
            measured[sweep.gap_column(statistics)] = ends - path[alphas.index(0.5)]
            for alpha, accuracy in zip(alphas, path, strict=True):
                measured[sweep.path_column(statistics, alpha)] = accuracy
        return measured

    def _changes(self, parent: Weights, later: Weights) -> dict[str, float]:
        points = self._data["test_inputs"][: self._lens.gradient_rows]
        changes = gradient_change(self._model, parent, later, points, chunk_size=_POINTS)
        return {sweep.change_column(layer): value for layer, value in changes.items()}

    def _training_batches(self) -> Iterable[Tensor]:
        return _parts(self._data["train_inputs"])

    def _outputs(self, model: nn.Module, part: str) -> Tensor:
        with torch.no_grad():
            outputs = torch.cat([model(x) for x in _parts(self._data[f"{part}_inputs"])])
        if not bool(outputs.isfinite().all()):
            raise NonFiniteError(
                f"outputs on {part} images are NaN or infinite; expected finite numbers: lower the "
                "learning rate"
            )
        return outputs


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Rows in parts of nearly one size: each counts the same in recomputed statistics."""
    return torch.tensor_split(rows, math.ceil(len(rows) / _ROWS))
