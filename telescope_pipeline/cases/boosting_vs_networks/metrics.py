"""Summary and claims of boosting against networks, from the recorded tables alone.

Everything is paired by seed: both models of a seed were trained and tested on the same rows. The
gap is the network's mean squared error minus the trees'. The relative gap divides it by the gap
without irregular rows, averaged over seeds; it is undefined (None) where that is not surely
positive, since a ratio to nothing says nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from telescope_pipeline.cases.boosting_vs_networks.names import MODELS, NETWORK, TREES, set_name
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, estimate, final_rows

SOURCE = "Section 4.2, Figs. 5 and 14"
_SETS = ("train", "regular", "irregular")
_Floats = npt.NDArray[np.float64]


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
        self.models = [model for model in MODELS if (final["model"] == model).any()]
        # Sorted, so that the seeds of both models stand beside each other.
        self._final = {
            model: final[final["model"] == model].sort_values("seed") for model in self.models
        }
        self.proportions = proportions
        self.standard_errors = standard_errors

    @property
    def whole(self) -> bool:
        """Whether both models were trained, so that there is a gap."""
        return self.models == list(MODELS)

    def errors(self, model: str, proportion: float) -> _Floats:
        """Mean squared error of every seed."""
        return self._column(model, f"{set_name(proportion)}/mse")

    def gaps(self, proportion: float) -> _Floats:
        """Error of the network minus that of the trees, for every seed."""
        return self.errors(NETWORK, proportion) - self.errors(TREES, proportion)

    def relative_gaps(self, proportion: float) -> _Floats | None:
        """Gaps in units of the mean gap without irregular rows, if that is surely positive."""
        reference = estimate(self.gaps(0.0))
        if not reference.surely_above(0.0, self.standard_errors):
            return None
        return self.gaps(proportion) / reference.value

    def norm_ratios(self, model: str, proportion: float) -> _Floats:
        """Largest kernel norm on a test set over that on the training set, for every seed."""
        test = self._column(model, f"{set_name(proportion)}/kernel_norm_max")
        return test / self._column(model, "train/kernel_norm_max")

    def effective_parameters(self, model: str, name: str) -> Estimate:
        """Effective parameters on ``train``, ``regular`` or ``irregular``."""
        column = f"{name}/effective_parameters"
        return estimate(self._column(model, column), self._column(model, column + "_stderr"))

    def chosen(self, model: str) -> dict[str, Any]:
        """Learning rates and lengths of training that the search chose, by seed."""
        return {
            "learning_rates": self._column(model, "search/learning_rate").tolist(),
            "steps": [int(step) for step in self._final[model]["step"]],
        }

    def _column(self, model: str, name: str) -> _Floats:
        return self._final[model][name].to_numpy(dtype=np.float64)


def compare(case: BoostingVsNetworksCase, history: pd.DataFrame) -> dict[str, Comparison]:
    """The comparison of both models on every table.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        By table, in the order of the parameters.
    """
    final = final_rows(history)
    proportions, errors = list(case.data.proportions), case.claims.standard_errors
    return {
        table: Comparison(final[final["table"] == table], proportions, errors)
        for table in case.data.tables
    }


def summarize(case: BoostingVsNetworksCase, history: pd.DataFrame) -> dict[str, Any]:
    """Errors, gaps, kernel-norm ratios and effective parameters of every table.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers by table; relative gaps are left out where they are undefined.
    """
    return {"table": {name: _summary(found) for name, found in compare(case, history).items()}}


def _summary(found: Comparison) -> dict[str, Any]:
    summary: dict[str, Any] = {"test": {}, "effective_parameters": {}, "search": {}}
    for proportion in found.proportions:
        values: dict[str, Any] = {}
        if found.whole:
            values |= _flat("gap", estimate(found.gaps(proportion)))
            relative = found.relative_gaps(proportion)
            if relative is not None:
                values |= _flat("relative_gap", estimate(relative))
        for model in found.models:
            values |= _flat(f"{model}_mse", estimate(found.errors(model, proportion)))
            ratio = estimate(found.norm_ratios(model, proportion))
            values |= _flat(f"{model}_kernel_norm_ratio", ratio)
        summary["test"][set_name(proportion)] = values
    for model in found.models:
        values = {}
        for name in _SETS:
            values |= _flat(name, found.effective_parameters(model, name))
        summary["effective_parameters"][model] = values
        summary["search"][model] = found.chosen(model)
    return summary


def _flat(name: str, measured: Estimate) -> dict[str, float]:
    return {name: measured.value, f"{name}_stderr": measured.stderr}


def claims(case: BoostingVsNetworksCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims; each must hold on every table.

    A claim about a model that the case leaves out is left out too.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    tables = compare(case, history)
    models = case.training.searches
    found: list[Claim] = []
    if set(models) == set(MODELS):
        found += [
            _trees_win(case, tables),
            _grows(
                case,
                "gap-grows",
                "The network's error exceeds the trees' by more, the larger the part of irregular "
                "examples in the test set.",
                {name: {p: t.gaps(p) for p in t.proportions} for name, t in tables.items()},
            ),
        ]
    if NETWORK in models:
        found.append(
            _grows(
                case,
                "network-kernel-norm-ratio-grows",
                "The largest norm of the network's tangent kernel over a test set, relative to "
                "the training set, grows with the part of irregular examples.",
                {
                    name: {p: t.norm_ratios(NETWORK, p) for p in t.proportions}
                    for name, t in tables.items()
                },
            )
        )
    if TREES in models:
        found.append(_trees_bounded(case, tables))
    return found


def _trees_win(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Claim:
    errors = case.claims.standard_errors
    gaps = {name: estimate(table.gaps(0.0)) for name, table in tables.items()}
    return Claim(
        id="trees-beat-network-on-regular",
        statement="Without irregular examples in the test set the boosted trees' error is smaller "
        "than the network's.",
        source=SOURCE,
        observed={"gap": {name: gap.record for name, gap in gaps.items()}},
        threshold={"gap": 0.0, "standard_errors": errors},
        holds=all(gap.surely_above(0.0, errors) for gap in gaps.values()),
    )


def _grows(
    case: BoostingVsNetworksCase,
    name: str,
    statement: str,
    measured: dict[str, dict[float, _Floats]],
) -> Claim:
    """A claim that something grows from the first proportion to the last and never surely falls."""
    errors = case.claims.standard_errors
    observed: dict[str, Any] = {}
    holds = True
    for table, values in measured.items():
        first, last = next(iter(values)), max(values)
        overall = estimate(values[last] - values[first])
        falls = [
            f"{left:g}-{right:g}"
            for left, right in itertools.pairwise(values)
            if estimate(values[right] - values[left]).surely_below(0.0, errors)
        ]
        observed[table] = {
            "by_proportion": {f"{p:g}": estimate(at_p).record for p, at_p in values.items()},
            "overall": overall.record,
            "falls": falls,
        }
        holds = holds and not falls and overall.surely_above(0.0, errors)
    return Claim(
        id=name,
        statement=statement,
        source=SOURCE,
        observed=observed,
        threshold={"overall": 0.0, "standard_errors": errors},
        holds=holds,
    )


def _trees_bounded(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Claim:
    limit = case.claims.trees_norm_ratio
    ratios = {
        name: {p: estimate(table.norm_ratios(TREES, p)) for p in table.proportions}
        for name, table in tables.items()
    }
    furthest = max(abs(ratio.value - 1) for by_p in ratios.values() for ratio in by_p.values())
    return Claim(
        id="trees-kernel-norm-ratio-near-one",
        statement="The largest norm of the trees' kernels over a test set, relative to the "
        f"training set, stays within {limit:g} of 1 whatever the part of irregular examples.",
        source=SOURCE,
        observed={
            "ratio": {
                name: {f"{p:g}": ratio.record for p, ratio in by_p.items()}
                for name, by_p in ratios.items()
            },
            "furthest_from_one": furthest,
            # A leaf always holds training rows, so no test row's norm exceeds theirs.
            "largest": max(ratio.value for by_p in ratios.values() for ratio in by_p.values()),
        },
        threshold={"furthest_from_one": limit},
        holds=furthest <= limit,
    )
