"""The user's network and optimizer, checked for what they are."""

from __future__ import annotations

import torch
from torch import nn

from telescope_pipeline.cases.own_model.schema import OwnModelCase, OwnOptimizer
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.user_calls import call, seed_generators, wrong


def build_model(case: OwnModelCase, seed: int) -> nn.Module:
    """Build the network of a member.

    The global generators are seeded as well, for layers that draw their weights from them.

    Args:
        case: The case, narrowed to the member.
        seed: Its seed for weights, from :func:`user_seed`.

    Returns:
        The network, on the device where the user left it.

    Raises:
        ParametersError: The function fails or returns something else.
    """  # noqa: DOC501  # made by wrong
    seed_generators(seed)
    made = call("model.call", case.model.call, seed, **case.model.options)
    if not isinstance(made, nn.Module):
        raise wrong("model.call", case.model.call, made, "a torch.nn.Module")
    return made


def make_optimizer(case: OwnModelCase, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a network, from settings or by the user's function.

    Returns:
        The optimizer over the network's parameters.

    Raises:
        ParametersError: The function fails or returns something else.
    """  # noqa: DOC501  # made by wrong
    if not isinstance(case.optimizer, OwnOptimizer):
        return optimizer_of(case.optimizer, model)
    reference = case.optimizer.call
    made = call("optimizer.call", reference, model, **case.optimizer.options)
    if not isinstance(made, torch.optim.Optimizer):
        raise wrong("optimizer.call", reference, made, "a torch.optim.Optimizer")
    return made
