"""What training the cases has cost, in processor seconds of their members."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from telescope_pipeline.parameters import load_case, load_parameters
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


def recorded_cost(layout: Layout, case_name: str) -> dict[str, float] | None:
    """What the members of a case took when they were trained, whenever that was.

    Args:
        layout: The project's folders.
        case_name: A case.

    Returns:
        Seconds of the process that trained a member by the member's name, which hardly depend on
        what else the machine did; None where the case was not trained, or not all was recorded.
    """
    path = layout.timing(case_name)
    if not path.is_file():
        return None
    members = files.read_json(path)["members"]
    seconds = {name: timing.get("cpu_seconds") for name, timing in members.items()}
    return None if None in seconds.values() else seconds


def _measured(layout: Layout, parameters_path: Path, case_name: str) -> list[str]:
    """What the kind has to say about what its members measured, if it measures anything."""
    _, case = load_case(parameters_path, case_name)
    kind = f"telescope_pipeline.cases.{case.kind}"
    if find_spec(f"{kind}.costs") is None:
        return []
    found: list[str] = import_module(f"{kind}.costs").costs(
        case, files.read_json(layout.timing(case_name))["members"]
    )
    return found


def lines(parameters_path: Path) -> list[str]:
    """A line for every case of a parameter file, and one for all of them."""
    layout = Layout.beside(parameters_path)
    said, total = [], 0.0
    for name in load_parameters(parameters_path).cases:
        seconds = recorded_cost(layout, name)
        if seconds is None:
            said.append(f"{name}: not known before it is trained")
        else:
            total += sum(seconds.values())
            said.append(f"{name}: {sum(seconds.values()):.0f} s, {len(seconds)} members")
            said += [f"  {line}" for line in _measured(layout, parameters_path, name)]
    return [*said, f"together: {total:.0f} s"]
