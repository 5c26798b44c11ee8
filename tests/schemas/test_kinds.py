from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.parameters.model import RunSettings
from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.schemas.sections import SGD, Case


def test_every_kind_has_its_model_and_the_modules_that_stages_ask_for(repository: Path) -> None:
    for kind, model in KINDS.items():
        assert model.model_fields["kind"].annotation.__args__ == (kind,)  # type: ignore[union-attr]
        folder = repository / "telescope_pipeline" / "cases" / kind
        for part in ("data", "sweep", "training/train", "metrics", "claims", "figures"):
            assert (folder / f"{part}.py").is_file()
    assert "nothing" not in KINDS
    with pytest.raises(KeyError):
        KINDS["nothing"]


def test_a_kind_is_imported_when_it_is_asked_for() -> None:
    script = (
        "import sys\n"
        "from telescope_pipeline.parameters.kinds import KINDS\n"
        "assert len(KINDS) == len(list(KINDS))\n"
        "loaded = [k for k in KINDS if f'telescope_pipeline.cases.{k}.schema' in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_members_are_planned_without_torch() -> None:
    script = (
        "import sys\n"
        "from importlib import import_module\n"
        "from telescope_pipeline.parameters.kinds import KINDS\n"
        "import telescope_pipeline.executors.local, telescope_pipeline.stages.train\n"
        "for kind in KINDS:\n"
        "    import_module(f'telescope_pipeline.cases.{kind}.sweep')\n"
        "    assert 'torch' not in sys.modules, kind\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


_OWN = {
    "kind": "own_model",
    "seeds": 2,
    "model": {"call": "my_model:build", "options": {"hidden": 3}},
    "data": "my_model:load",
    "loss": "my_model:loss",
    "optimizer": "my_model:optimizer",
    "training": {"steps": 20},
    "lens": {"probes": "exact"},
    "sweep": {"model.options.hidden": [3, 5], "training.steps": [20, 30]},
    "plot": {},
}


def _default_case(kind: str, repository: Path) -> Case:
    # The project has no model of a user's.
    if kind == "own_model":
        return KINDS[kind].model_validate(_OWN)
    return load_parameters(repository / "params.yaml").cases[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrowed_case_has_its_member_and_no_other_value(kind: str, repository: Path) -> None:
    case = _default_case(kind, repository)
    sweep = import_module(f"telescope_pipeline.cases.{kind}.sweep")
    members = sweep.members(case)
    assert len({member.name for member in members}) == len(members)
    for member in members:
        narrowed = case.narrowed(member.values, member.seed)
        again = sweep.members(narrowed)
        assert member in again
        assert all(other.values == member.values for other in again)
        assert narrowed.narrowed(member.values, member.seed) == narrowed
        # What the training sees must itself be a valid case.
        assert type(case).model_validate(narrowed.model_dump()) == narrowed


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_survives_the_way_to_another_process(kind: str, repository: Path) -> None:
    case = _default_case(kind, repository)
    assert pickle.loads(pickle.dumps(case)) == case


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_cannot_be_changed(kind: str, repository: Path) -> None:
    case = _default_case(kind, repository)
    with pytest.raises(ValidationError, match="frozen"):
        case.seeds = 5


def test_a_sweep_that_cannot_be_narrowed_says_so() -> None:
    case = Case.model_construct(kind="x", seeds=2)
    assert case.narrowed({}, 3).seeds == 4
    with pytest.raises(NotImplementedError, match="width"):
        case.narrowed({"width": 3}, 0)


@given(st.one_of(st.text(), st.floats(), st.integers(max_value=0), st.none(), st.booleans()))
def test_counts_are_positive_integers(value: object) -> None:
    with pytest.raises(ValidationError):
        RunSettings.model_validate({"seed": 0, "threads": value})


@pytest.mark.parametrize(
    ("options", "valid"),
    [
        ({}, True),
        ({"momentum": 0.9, "nesterov": True}, True),
        ({"nesterov": True}, False),
        ({"momentum": 0.9, "dampening": 0.1, "nesterov": True}, False),
        ({"weight_decay": -1.0}, False),
    ],
)
def test_sgd_refuses_what_torch_refuses(options: dict[str, object], valid: bool) -> None:
    if valid:
        assert SGD.model_validate({"name": "sgd", **options})
        return
    with pytest.raises(ValidationError):
        SGD.model_validate({"name": "sgd", **options})
