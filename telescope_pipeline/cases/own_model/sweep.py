"""The members, by swept values and seed, and the names of groups, files and sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from telescope_pipeline.cases.own_model.schema import OwnModelCase, slug
from telescope_pipeline.contract import Member, Scalar
from telescope_pipeline.study.sweep import replicates, seed_stem

WHOLE = "all"
"""The group of a case without a sweep."""

_INPUTS, _TARGETS = "_inputs", "_targets"


def members(case: OwnModelCase) -> list[Member]:
    """One member per combination of swept values and seed."""
    return [
        member
        for values in case.combinations()
        for member in replicates(
            group_name(values), case.seeds, values, data=partial(file_stem, values)
        )
    ]


def group_name(values: Mapping[str, Scalar]) -> str:
    """Name of the members with these swept values, e.g. ``learning_rate-0.1_width-30``."""
    parts = [f"{name}-{slug(value)}" for name, value in _short(values).items()]
    return "_".join(parts) or WHOLE


def group_label(values: Mapping[str, Scalar]) -> str:
    """A group as a figure names it, e.g. ``learning_rate = 0.1``."""
    return ", ".join(f"{name} = {value}" for name, value in _short(values).items())


def file_stem(values: Mapping[str, Scalar], replicate: int) -> str:
    """Name of the data file of a member; only what is swept in ``data`` makes a difference."""
    of_data = {leaf: value for leaf, value in values.items() if leaf.split(".")[0] == "data"}
    return seed_stem(replicate, group_name(of_data) if of_data else "")


def set_names(tensors: Iterable[str]) -> list[str]:
    """Names of the sets that these tensors hold, training and test set first."""
    found = {name.removesuffix(_INPUTS) for name in tensors if name.endswith(_INPUTS)}
    return ["train", "test", *sorted(found - {"train", "test"})]


def split_name(tensor: str) -> tuple[str, str] | None:
    """Split ``test_inputs`` into ``("test", "inputs")``; None for other names."""
    for ending in (_INPUTS, _TARGETS):
        if tensor.endswith(ending) and tensor != ending:
            return tensor.removesuffix(ending), ending[1:]
    return None


def _short(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Name values by the last part of their leaf where that tells them apart."""
    last = [leaf.split(".")[-1] for leaf in values]
    alone = {name for name in last if last.count(name) == 1}
    return {
        short if short in alone else leaf.replace(".", "-"): value
        for short, (leaf, value) in zip(last, values.items(), strict=True)
    }
