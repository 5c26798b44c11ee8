"""Checking the code that ``params.yaml`` names before any stage depends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from telescope_core.errors import ParametersError
from telescope_pipeline.cases.own_model.checks import problems
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.user_code import locate, make_importable
from telescope_pipeline.store.folders import Layout


def check_user_code(
    path: Path, parameters: Parameters, cases: Sequence[str], stages: Sequence[str]
) -> None:
    """Import what the cases name and try it out as far as that takes no data.

    Functions must be there and take the arguments they will be given.  Before training, models and
    optimizers are made once for every setting of the sweep.

    Args:
        path: The parameter file, in whose folder modules are looked for.
        parameters: Its content.
        cases: The cases to check; those of other kinds name no code.
        stages: The stages whose code to check.

    Raises:
        ParametersError: With a line per problem.
    """
    root = Layout.beside(path).root
    make_importable(root)
    lines = [
        f"  cases.{name}.{problem}"
        for name in cases
        for problem in _problems(parameters.cases[name], root, stages)
    ]
    if lines:
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ParametersError("\n".join([f"{path}: {count}", *lines]))


def _problems(case: object, root: Path, stages: Sequence[str]) -> Iterator[str]:
    if not isinstance(case, OwnModelCase):
        return
    for stage in stages:
        yield from problems(case, stage)
        for leaf, reference in case.references(stage).items():
            yield from _hidden(leaf, reference, root)


def _hidden(leaf: str, reference: str, root: Path) -> Iterator[str]:
    """Say so if an installed package of the same name is found before the user's module."""
    module = reference.partition(":")[0]
    own, loaded = locate(module, root), getattr(sys.modules.get(module), "__file__", None)
    if own is not None and loaded is not None and Path(loaded).resolve() != own:
        name = module.split(".")[0]
        yield (
            f"{leaf}: got {reference!r}; expected the module in {own.parent}, but Python finds "
            f"another one called {name} first: rename yours"
        )
