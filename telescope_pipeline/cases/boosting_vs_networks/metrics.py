"""What boosting and networks measured on every table: errors, gaps, norms and parameters.

Everything is paired by seed: both models of a seed were trained and tested on the same rows. The
gap is the network's mean squared error minus the trees'. The relative gap divides it by the gap
without irregular rows, averaged over seeds; it is undefined (None) where that is not surely
positive, since a ratio to nothing says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.cases.boosting_vs_networks.sweep import MODELS, NETWORK, TREES, set_name
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    Seeds,
    estimate,
    estimate_of,
    final_rows,
    flat,
    of_group,
)

_SETS = ("train", "regular", "irregular")


class Comparison:
    """What was measured at the end of training on one table.

    Args:
        final: Last record of every member of the table.
        proportions: Parts of irregular rows in the test sets, 0 first.
        standard_errors: A difference counts as one if it exceeds this many.
    """

    def __init__(
        self, final: pd.DataFrame, proportions: list[float], standard_errors: float
    ) -> None:
        # Sorted, so that the seeds of both models stand beside each other.
        parts = {model: of_group(final, model, "model").sort_values("seed") for model in MODELS}
        self._final = {model: part for model, part in parts.items() if len(part)}
        self.models = list(self._final)
        self.proportions = proportions
        self.standard_errors = standard_errors

    @property
    def whole(self) -> bool:
        """Whether both models were trained, so that there is a gap."""
        return self.models == list(MODELS)

    def errors(self, model: str, proportion: float) -> Seeds:
        """Mean squared error of every seed."""
        return self._column(model, f"{set_name(proportion)}/mse")

    def gaps(self, proportion: float) -> Seeds:
        """Error of the network minus that of the trees, for every seed."""
        return self.errors(NETWORK, proportion) - self.errors(TREES, proportion)

    def relative_gaps(self, proportion: float) -> Seeds | None:
        """Gaps in units of the mean gap without irregular rows, if that is surely positive."""
        reference = estimate(self.gaps(0.0))
        if not reference.surely_above(0.0, self.standard_errors):
            return None
        return self.gaps(proportion) / reference.value

    def norm_ratios(self, model: str, proportion: float) -> Seeds:
        """Largest kernel norm on a test set over that on the training set, for every seed."""
        test = self._column(model, f"{set_name(proportion)}/kernel_norm_max")
        return test / self._column(model, "train/kernel_norm_max")

    def effective_parameters(self, model: str, name: str) -> Estimate:
        """Effective parameters on ``train``, ``regular`` or ``irregular``."""
        return estimate_of(self._final[model], f"{name}/effective_parameters")

    def chosen(self, model: str) -> dict[str, Any]:
        """Learning rates and lengths of training that the search chose, by seed."""
        return {
            "learning_rates": self._column(model, "search/learning_rate").tolist(),
            "steps": [int(step) for step in self._final[model]["step"]],
        }

    def _column(self, model: str, name: str) -> Seeds:
        return self._final[model][name].to_numpy(dtype=np.float64)


def compare(case: BoostingVsNetworksCase, history: pd.DataFrame) -> dict[str, Comparison]:
    """The comparison of both models by table, in the order of the parameters."""
    final = final_rows(history)
    proportions, errors = list(case.data.proportions), case.claims.standard_errors
    return {
        table: Comparison(of_group(final, table, "table"), proportions, errors)
        for table in case.data.tables
    }


def summarize(case: BoostingVsNetworksCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers by table; relative gaps are left out where they are undefined."""
    return {"table": {name: _summary(found) for name, found in compare(case, history).items()}}


def _summary(found: Comparison) -> dict[str, Any]:
    summary: dict[str, Any] = {"test": {}, "effective_parameters": {}, "search": {}}
    for proportion in found.proportions:
        values: dict[str, Any] = {}
        if found.whole:
            values |= flat("gap", estimate(found.gaps(proportion)))
            relative = found.relative_gaps(proportion)
            if relative is not None:
                values |= flat("relative_gap", estimate(relative))
        for model in found.models:
            values |= flat(f"{model}_mse", estimate(found.errors(model, proportion)))
            ratio = estimate(found.norm_ratios(model, proportion))
            values |= flat(f"{model}_kernel_norm_ratio", ratio)
        summary["test"][set_name(proportion)] = values
    for model in found.models:
        values = {}
        for name in _SETS:
            values |= flat(name, found.effective_parameters(model, name))
        summary["effective_parameters"][model] = values
        summary["search"][model] = found.chosen(model)
    return summary
