"""The sets as they are seen through the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError, ModelError, ShapeError
from telescope_core.jacobians import Linearizer, RowSet
from telescope_core.lens.settings import Settings
from telescope_core.network import Network
from telescope_core.network.checks import check_model, check_sets, check_sets_for_predictions
from telescope_core.network.inputs import Called, Inputs, count_rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.outputs import Output
from telescope_core.network.passes import PassRecorder
from telescope_core.network.replicas import Replicas, require_own_statistics
from telescope_core.smoother import Replay


class Sight:
    """Looks at sets through a model, as a function of whichever of its parameters are trained.

    A smoother follows the very function that is trained, in the mode that the model is in.
    Predictions alone are those of evaluation mode, whatever mode training uses.

    Args:
        model: The model.
        inputs: The rows of every set, by name.
        settings: The settings of the lens.
        output: Which of the things that the model returns are its outputs.
        like: A parameter, for device and dtype.
        replicas: Other processes that train the same model.

    Attributes:
        model: The model.
        output: The same as given.
        is_coupled: Whether outputs of a row depend on other rows in evaluation mode.
        is_replayed: Whether the smoother has to run passes of training again.

    Raises:
        ConfigurationError: Rows that depend on each other are to be looked at in several chunks.
        ModelError: The model is random or, for a smoother, couples rows.
        ShapeError: Inputs that the model does not take.
        NonFiniteError: Inputs that are not finite.
    """  # the checks raise

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Inputs],
        settings: Settings,
        output: Output,
        like: Tensor,
        replicas: Replicas | None = None,
    ) -> None:
        self._replicas = replicas
        self._inputs = inputs
        self._settings = settings
        self._device = like.device
        self.model = model
        self.output = output
        self.is_replayed = settings.probes is not None and self._is_replayed(like)
        self.is_coupled = False
        if settings.looks_into_steps and not self.is_replayed:
            check_model(model)
            self._network = Network(model, output=output)
            samples = check_sets(self._network, inputs, like)
        else:
            self._network = Network(model, training=False, output=output)
            samples, self.is_coupled = check_sets_for_predictions(self._network, inputs, like)
        self._sample = next(iter(samples.values()))
        if self.is_coupled:
            self._require_together()
        if self.is_replayed and settings.kernel_norms:
            raise ConfigurationError(
                "kernel_norms=True needs training whose rows are independent and not random; this "
                "model is trained otherwise (dropout, batch statistics, buffers that move?): leave "
                "kernel_norms at False, or call eval() on the model"
            )

    def _is_replayed(self, like: Tensor) -> bool:
        """Whether training is another function than evaluation, or its curvature is asked for."""
        settings = self._settings
        if self._replicas is not None:
            if settings.strategy not in ("auto", "replayed"):
                raise ConfigurationError(
                    f"strategy={settings.strategy!r} does not follow the other processes of "
                    "DistributedDataParallel; use strategy='auto'"
                )
            return True
        if settings.strategy != "auto" or settings.curvature == "full":
            return settings.strategy == "replayed" or settings.curvature == "full"
        network = Network(self.model, output=self.output)
        try:
            check_model(self.model)
            samples = check_sets(network, self._inputs, like)
        except (ModelError, ShapeError):  # rows that come together only, or a wrong shape
            return True
        return any(network.moved_buffers(r) or network.draws(r) for r in samples.values())

    def replay(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Replay | None:
        """The model as training runs it, if that is another function than in evaluation."""
        if not self.is_replayed:
            return None
        require_own_statistics(self.model)
        rows = self._sample
        moved = Network(self.model, output=self.output).moved_buffers(rows)
        buffers = dict(self.model.named_buffers())
        z = {**parameters, **{name: buffers[name] for name in moved}}
        linearizer, sets = self.through(z)
        recorder = PassRecorder(self.model, self.output, optimizer, self._replicas)
        curvature = self._settings.curvature
        made = (self.model, self.output, linearizer, sets, recorder, curvature)
        if self._replicas is not None:
            self._replicas.meet()
        return Replay(*made, replicas=self._replicas)

    def through(self, parameters: Mapping[str, Tensor]) -> tuple[Linearizer, dict[str, RowSet]]:
        """The model as a function of these parameters, by name, and the sets seen through it."""
        at_once = self.is_coupled or any(isinstance(i, Called) for i in self._inputs.values())
        form = "functional" if at_once else self._settings.form
        linearizer = Linearizer(self._network, ParameterLayout(parameters), self._sample, form)
        chunk_size = self._settings.chunk_size
        sets = {
            name: RowSet(linearizer, rows, chunk_size, self._device, coupled=self.is_coupled)
            for name, rows in self._inputs.items()
        }
        return linearizer, sets

    def _require_together(self) -> None:
        size = self._settings.chunk_size
        largest = max(self._inputs, key=lambda name: count_rows(self._inputs[name]))
        rows = count_rows(self._inputs[largest])
        if size is not None and size < rows:
            raise ConfigurationError(
                f"chunk_size={size} would take the {rows} rows of {largest!r} apart, but outputs "
                "of this model depend on the other rows; use chunk_size=None and fewer rows"
            )
        if self._settings.form == "factors":
            raise ConfigurationError(
                "form='factors' needs rows that are independent, and outputs of this model depend "
                "on the other rows; use form='auto'"
            )
