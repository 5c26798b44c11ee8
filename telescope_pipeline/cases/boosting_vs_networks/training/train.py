"""One network and one ensemble of boosted trees for every table and seed."""

from __future__ import annotations

from functools import partial

from telescope_pipeline.cases.boosting_vs_networks.schema import (
    BoostingVsNetworksCase,
    NetworkSearch,
)
from telescope_pipeline.cases.boosting_vs_networks.training.network import train_network
from telescope_pipeline.cases.boosting_vs_networks.training.trees import train_trees
from telescope_pipeline.contract import Trained, TrainingJob


def train(job: TrainingJob[BoostingVsNetworksCase]) -> Trained:
    """Search and train one model; record errors, kernel norms and effective parameters.

    Networks are trained on the job's device, trees fitted on the processor.

    Returns:
        The history over steps or rounds, both from 1, and the final model.

    Raises:
        NonFiniteError: Every draw of the search diverged.
    """
    table, model = (str(job.member.values[name]) for name in ("table", "model"))
    seed_of = partial(job.seed_of, table, model)
    search = job.case.training.searches[model]
    if isinstance(search, NetworkSearch):
        return train_network(job, search, seed_of)
    return train_trees(job, search, seed_of)
