"""How long training will take: told before it starts, from earlier runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from telescope_pipeline.cost import recorded_cost
from telescope_pipeline.executors.executor import worker_count
from telescope_pipeline.parameters import RunSettings, load_case, load_parameters
from telescope_pipeline.progress import duration
from telescope_pipeline.stages.train import members_left
from telescope_pipeline.store.folders import Layout

# Processor seconds of a member of each kind with the settings that the project comes with, for a
# case that was not trained here yet.
_USUAL = {
    "approximation_quality": 9.0,
    "boosting_vs_networks": 32.0,
    "convolutional_network": 25.0,
    "depth": 4.0,
    "design_choices": 3.0,
    "double_descent": 22.0,
    "grokking_network": 25.0,
    "grokking_polynomial": 45.0,
    "large_scale": 40.0,
    "modular_addition": 68.0,
    "weight_averaging": 25.0,
}
# Starting a worker.
_START = 4.0


@dataclass(frozen=True)
class Estimate:
    """What is left to train of a case.

    Attributes:
        case: Its name.
        members: Members in all.
        seconds: Processor seconds of each member that is left; None if nothing tells them.
        left: Members that are left.
        measured: Whether the case was trained here before, at whatever settings.
    """

    case: str
    members: int
    left: int
    seconds: tuple[float, ...] | None
    measured: bool

    @property
    def known(self) -> bool:
        """Whether there is anything to estimate from."""
        return self.seconds is not None


def estimate(case_name: str, parameters_path: Path) -> Estimate:
    """Estimate what training a case will take.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Returns:
        The members that are left, with the seconds that they took the last time, or that members
        like them took, or that a member of the kind usually takes.

    Raises:
        TelescopeError: If the parameters are not usable.
    """
    _, case = load_case(parameters_path, case_name)
    names, members = members_left(case_name, parameters_path)
    before = recorded_cost(Layout.beside(parameters_path), case_name) or {}
    usual = sum(before.values()) / len(before) if before else _USUAL.get(case.kind)
    seconds = None if usual is None else tuple(before.get(name, usual) for name in names)
    return Estimate(case_name, members, len(names), seconds, bool(before))


def estimates(parameters_path: Path) -> list[str]:
    """Estimate all cases of a parameter file.

    Returns:
        A line for every case, and one for all of them together.

    Raises:
        TelescopeError: If the parameters are not usable.
    """
    parameters = load_parameters(parameters_path)
    found = [estimate(name, parameters_path) for name in parameters.cases]
    lines = [sentence(each, parameters.run) for each in found]
    if len(found) > 1 and any(each.left for each in found):
        clock = sum(on_the_clock(each.seconds or (), parameters.run) for each in found)
        unknown = [each.case for each in found if each.left and not each.known]
        without = f", {' and '.join(unknown)} apart" if unknown else ""
        lines.append(f"together: about {duration(clock)}{without}")
    return lines


def sentence(found: Estimate, run: RunSettings) -> str:
    """What a user should know before training starts."""
    if not found.left:
        return f"{found.case}: all {found.members} members are there already"
    count = f"{found.left} of {found.members}" if found.left < found.members else f"{found.left}"
    what = f"{found.case}: {count} member{'s' if found.members != 1 else ''} to train"
    if found.seconds is None:
        return f"{what}; how long that takes is known once it was done"
    workers = min(worker_count(run), found.left)
    clock = duration(on_the_clock(found.seconds, run))
    where = f"with {workers} workers" if workers != 1 else "with 1 worker"
    if run.executor != "local":
        where, clock = "of processor time", duration(sum(found.seconds))
    source = "by its last run" if found.measured else "on a usual machine"
    return f"{what}, about {clock} {where}, {source}"


def on_the_clock(seconds: Iterable[float], run: RunSettings) -> float:
    """Spread members over workers, each going to the one that is free first.

    Returns:
        Seconds until the last one is done.
    """
    each = list(seconds)
    free = [_START] * min(worker_count(run), max(len(each), 1))
    for taken in each:
        first = min(range(len(free)), key=free.__getitem__)
        free[first] += taken
    return max(free) if each else 0.0
