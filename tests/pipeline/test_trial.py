"""``telescope trial``: a case with other settings, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from support import loopback

if TYPE_CHECKING:
    from conftest import Project


def test_a_trial_has_other_settings_and_leaves_the_project_alone(project: Project) -> None:
    before = project.git("status", "--porcelain").stdout
    text = (project.root / "params.yaml").read_text()
    done = project.telescope("trial", "first", "--", "--training.epochs=3", "model.widths=[2]")
    assert done.returncode == 0, done.stderr
    numbers = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert {"claims/held", "claims/all"} < numbers.keys()
    assert any(name.startswith("metrics/") for name in numbers)

    (folder,) = (project.root / ".telescope" / "trials").iterdir()
    tried = YAML(typ="safe").load(folder / "params.yaml")
    assert list(tried["cases"]) == ["first"]
    assert tried["cases"]["first"]["training"]["epochs"] == 3
    assert sorted(path.name for path in (folder / "runs" / "first").iterdir()) == [
        "width-0002_seed-0",
        "width-0002_seed-1",
    ]
    assert (project.root / "params.yaml").read_text() == text
    assert project.git("status", "--porcelain").stdout == before

    for change in ("training.epoch=3", "nothing.at=1", "training.epochs"):
        refused = project.telescope("trial", "first", change)
        assert refused.returncode == 2
        assert change.partition("=")[0] in refused.stderr


def test_under_an_agent_the_numbers_are_those_of_its_run(project: Project) -> None:
    with loopback.Server() as server:
        agent = {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": loopback.KEY,
            "WANDB_PROJECT": "testing",
            "WANDB_SWEEP_ID": "sweep-1",
            "WANDB_RUN_ID": "trial-1",
        }
        tried = project.telescope("trial", "first", "training.epochs=2", "seeds=1", **agent)
        assert tried.returncode == 0, tried.stderr
        ((name, run),) = server.runs.items()
    assert (name, run.project, run.state) == ("trial-1", "testing", "finished")
    assert run.fields["sweep"] == "sweep-1"
    summary = json.loads(run.summary)
    for line in tried.stdout.splitlines():
        number, value = line.split(": ", 1)
        assert value in ("None", str(summary.get(number)))


def test_the_sweep_of_the_docs_is_the_example(repository: Path) -> None:
    example = (repository / "examples" / "sweep.yaml").read_text()
    content = "".join(line for line in example.splitlines(True) if not line.startswith("#"))
    assert f"```yaml\n{content}```" in (repository / "docs" / "trackers.md").read_text()
    sweep = YAML(typ="safe").load(content)
    assert sweep["command"] == ["telescope", "trial", "double_descent", "${args_no_hyphens}"]
