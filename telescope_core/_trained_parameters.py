"""Which parameters a lens follows."""

from __future__ import annotations

from torch import Tensor, nn

from telescope_core.errors import ConfigurationError


def trained_parameters(model: nn.Module, optimizer: object) -> dict[str, Tensor]:
    """The model's parameters that the optimizer moves, by name.

    Raises:
        ConfigurationError: There are none, or they are on several devices.
    """
    groups = getattr(optimizer, "param_groups", [])
    moved = {id(parameter) for group in groups for parameter in group["params"]}
    parameters: dict[str, Tensor] = {
        name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in moved
    }
    if not parameters:
        raise ConfigurationError(
            "the optimizer holds none of the model's trainable parameters; expected "
            "Optimizer(model.parameters(), ...) of the same model"
        )
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        listed = ", ".join(sorted(str(d) for d in devices))
        raise ConfigurationError(f"the trained parameters are on {listed}; expected one device")
    return parameters


def count_parameters(optimizer: object) -> int:
    """Number of parameter tensors the optimizer holds."""
    return sum(len(group["params"]) for group in getattr(optimizer, "param_groups", []))
