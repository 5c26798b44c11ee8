"""Which parameters a lens follows, and whether these are still the ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError, ModelError, TrainingMismatchError, listed


class TrainedParameters:
    """The parameters that training moves, by name.

    With a smoother they are the model's parameters that the optimizer moves.  Predictions follow
    whatever requires a gradient, in this optimizer or in another one; of a model without any (an
    average of the trained one) all parameters.

    Attributes:
        by_name: The parameters.

    Raises:
        ConfigurationError: There are none, or they are on several devices.
        ModelError: Some of them are complex.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, *, smoother: bool
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._smoother = smoother
        self._held = _held_by(optimizer)
        named = _requiring_gradients(model)
        held = {name: p for name, p in named.items() if id(p) in self._held}
        if optimizer is not None and not held:
            raise ConfigurationError(
                "the optimizer holds none of the model's trainable parameters; expected "
                "Optimizer(model.parameters(), ...) of the same model, or no optimizer to follow "
                "the predictions of another one (an average of the trained one)"
            )
        self.by_name: dict[str, Tensor] = dict(held if smoother else named)
        if not self.by_name:
            self.by_name = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        _require_usable(self.by_name)

    def require_alone(self, loss: object, leaves: list[Tensor]) -> None:
        """Refuse anything else that is trained along, with a smoother.

        Raises:
            ConfigurationError: Naming what it is, as far as names are known.
        """
        own = {id(p): name for name, p in self._model.named_parameters()}
        penalised = [own[id(leaf)] for leaf in leaves if id(leaf) in own]
        if penalised:
            raise ConfigurationError(
                f"the loss depends on {listed(penalised)} of the model otherwise than through its "
                "outputs (a penalty on weights?), which the smoother does not follow; put weight "
                "decay into the optimizer, or use probes=None"
            )
        groups = getattr(self._optimizer, "param_groups", [])
        others = [p for g in groups for p in g["params"] if id(p) not in own and p.requires_grad]
        names = {id(p): n for n, p in _parameters_of(loss).items()}
        strange = {id(p): names.get(id(p), f"one of shape {tuple(p.shape)}") for p in others}
        strange |= {
            id(leaf): names.get(id(leaf), f"one of shape {tuple(leaf.shape)}") for leaf in leaves
        }
        if strange:
            raise ConfigurationError(
                f"parameters outside of the model are trained along: {listed([*strange.values()])} "
                "(in the loss, or of another module in the same optimizer); the smoother follows "
                "the model's alone: make them parts of the model, fix them, or use probes=None"
            )

    def unfrozen(self) -> dict[str, Tensor]:
        """Parameters of the model that require a gradient and are not followed yet, by name."""
        return {n: p for n, p in _requiring_gradients(self._model).items() if n not in self.by_name}

    def with_unfrozen(self) -> TrainedParameters:
        """The same with those, in the model's order."""
        wider = copy.copy(self)
        known = {**self.by_name, **self.unfrozen()}
        wider.by_name = {n: known[n] for n, _ in self._model.named_parameters() if n in known}
        _require_usable(wider.by_name)
        return wider

    def require_same(self) -> None:
        """Refuse to go on with other parameters than those known.

        Raises:
            TrainingMismatchError: Parameters were replaced or, with a smoother, added or unfrozen.
        """
        named = dict(self._model.named_parameters())
        gone = [name for name, p in self.by_name.items() if named.get(name) is not p]
        if gone:
            raise TrainingMismatchError(
                f"{listed(gone)} of the model is another parameter than when the lens was "
                "attached; attach a new lens after replacing layers"
            )
        if not self._smoother:
            return
        now = _held_by(self._optimizer)
        if set(now) != self._held:
            raise TrainingMismatchError(
                f"the optimizer holds {len(now)} parameters, {len(self._held)} when the lens was "
                "attached, or others; attach a new lens after adding or unfreezing parameters"
            )
        thawed = [
            name
            for name, p in named.items()
            if p.requires_grad and id(p) in now and name not in self.by_name
        ]
        if thawed:
            raise TrainingMismatchError(
                f"{listed(thawed)} is trained now, but was frozen when the lens was attached; "
                "attach a new lens after unfreezing parameters"
            )


def requiring_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model that require a gradient, where no optimizer says more.

    Returns:
        The parameters by name, in the model's order.

    Raises:
        ConfigurationError: They are on several devices.
        ModelError: There are none, or some are complex or of no shape yet.
    """
    trained = _requiring_gradients(model)
    if not trained:
        raise ModelError(
            "the model has no parameter that requires a gradient; expected at least one: call "
            "requires_grad_(True) on those that are trained"
        )
    _require_usable(trained)
    return trained


def _requiring_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _require_usable(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that cannot be laid out in one real vector."""
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        names = ", ".join(sorted(str(d) for d in devices))
        raise ConfigurationError(f"the trained parameters are on {names}; expected one device")
    bad = [name for name, p in parameters.items() if p.is_complex()]
    if bad:
        raise ModelError(
            f"{listed(bad)} is complex; the telescoping model is of real parameters: store the "
            "real and the imaginary part (torch.view_as_real) and make the complex tensor in "
            "forward (torch.view_as_complex)"
        )
    lazy = [name for name, p in parameters.items() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ModelError(
            f"{listed(lazy)} has no shape yet (a lazy module); call the model once before "
            "attaching the lens"
        )


def _held_by(optimizer: torch.optim.Optimizer | None) -> set[int]:
    groups = getattr(optimizer, "param_groups", [])
    return {id(parameter) for group in groups for parameter in group["params"]}


def _parameters_of(loss: object) -> dict[str, Tensor]:
    return dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
