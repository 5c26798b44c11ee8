"""One network and one ensemble of boosted trees for every table and seed."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_pipeline.cases.boosting_vs_networks.schema import (
    BoostingVsNetworksCase,
    NetworkSearch,
)
from telescope_pipeline.cases.boosting_vs_networks.training.network import train_network
from telescope_pipeline.cases.boosting_vs_networks.training.trees import train_trees
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.training.replicates import seeds_of


def train(
    case: BoostingVsNetworksCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Search and train one model; record errors, kernel norms and effective parameters.

    Args:
        case: The case's parameters.
        member: One of the case's members.
        data: Tensors of the member's file.
        seed: The run's seed.
        device: Where the network is trained; trees are fitted on the processor.
        checkpoint: Where the state is kept.
        progress: Told about finished work.

    Returns:
        The history over steps or rounds, both from 1, and the final model.

    Raises:
        NonFiniteError: Every draw of the search diverged.
    """
    where = (str(member.values["table"]), str(member.values["model"]))
    seed_of = seeds_of(member, seed, "boosting_vs_networks", *where)
    search = case.training.searches[where[1]]
    if isinstance(search, NetworkSearch):
        on_device = {name: tensor.to(device) for name, tensor in data.items()}
        return train_network(
            case, search, on_device, seed_of=seed_of, checkpoint=checkpoint, progress=progress
        )
    return train_trees(
        case, search, data, seed_of=seed_of, checkpoint=checkpoint, progress=progress
    )
