"""Publishing offline: what the client's own files hold, read back, is what was published."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from support.synthetic import build
from support.wandb_reader import read_run
from telescope_pipeline.publish.digests import dvc_output
from telescope_pipeline.publish.publication import publish

_MEASURED = [
    "train/mse",
    "test/mse",
    "test/effective_parameters",
    "test/effective_parameters_stderr",
    "test/sometimes",
]


@dataclass
class Published:
    """A project that was published once, and what was read back."""

    project: Any
    receipt: dict[str, Any]
    runs: dict[str, Any]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    project = build(tmp_path_factory.mktemp("published") / "project")
    receipt = publish("wide", project.parameters, project.root)
    folders = {run["name"]: next(project.root.glob(run["folder"])) for run in receipt["runs"]}
    runs = {name: read_run(folder) for name, folder in folders.items()}
    return Published(project, receipt, runs, folders)


def test_there_is_one_run_per_member_and_one_for_the_case(published: Published) -> None:
    described = {
        name: (run.about.job_type, run.about.run_group) for name, run in published.runs.items()
    }
    assert described == {
        "wide: width 2, seed 0": ("member", "wide: width 2"),
        "wide: width 2, seed 1": ("member", "wide: width 2"),
        "wide: width 30, seed 0": ("member", "wide: width 30"),
        "wide: width 30, seed 1": ("member", "wide: width 30"),
        "wide": ("case", "cases"),
    }
    assert len(published.project.run_folders()) == 5
    for entry in published.receipt["runs"]:
        run = published.runs[entry["name"]]
        assert run.ended
        assert run.about.run_id == entry["id"]
        assert run.about.display_name == entry["name"]
        assert run.about.project == "testing"
        assert list(run.about.tags) == ["first", "second", "wide", "double_descent"]
    notes = published.runs["wide"].about.notes
    assert notes.startswith("Why does it fall?\n1 of 2 claims hold.\nHolds: Test error has a peak.")
    assert "Does not hold: The gap widens." in notes
    assert "Seed 1 of the setting width 2" in published.runs["wide: width 2, seed 1"].about.notes


@pytest.mark.parametrize(("width", "seed"), [(2, 0), (30, 1)])
def test_every_number_of_the_history(published: Published, width: int, seed: int) -> None:
    run = published.runs[f"wide: width {width}, seed {seed}"]
    history = published.project.history()
    member = history[(history["width"] == width) & (history["seed"] == seed)]

    assert run.metrics == {"step": "", "*": "step"}
    assert [row["step"] for row in run.history] == [0, 1, 10, 250]
    for row, (_, told) in zip(run.history, member.iterrows(), strict=True):
        values = {name: told[name] for name in _MEASURED}
        expected = {name: value for name, value in values.items() if not np.isnan(value)}
        assert row == {"step": told["step"], **expected}
    assert "test/sometimes" not in run.history[1]
    assert run.summary == run.history[-1]


def test_the_config_of_a_member_is_its_part_of_the_parameters(published: Published) -> None:
    config = published.runs["wide: width 30, seed 1"].config
    parameters = published.project.parameters
    case = parameters.cases["wide"]

    assert len(config.pop("content")) == 64
    assert config["sweep"] == {"width": 30}
    assert (config["setting"], config["seed"]) == ("width-0030", 1)
    assert config["parameters"]["model"] == {"widths": [30]}
    # What concerns the case as a whole would change the run when the member is the same.
    assert set(config["parameters"]) == {"data", "model", "training", "lens"}
    for section in ("data", "training", "lens"):
        assert config["parameters"][section] == getattr(case, section).model_dump(mode="json")
    assert config["run"] == {"seed": 0, "device": "cpu", "threads": 1}
    own = {"case", "kind", "setting", "sweep", "seed", "parameters", "run"}
    assert set(config) == own | {"commit", "dirty", "revision"}
    assert config["revision"] == published.receipt["group"]


def test_the_config_of_the_case_is_all_of_its_parameters(published: Published) -> None:
    config = published.runs["wide"].config
    expected = published.project.parameters.cases["wide"].model_dump(mode="json")

    assert {"kind": config["kind"], **config["parameters"]} == expected
    assert config["case"] == "wide"


def test_the_summary_of_the_case_holds_metrics_and_claims(published: Published) -> None:
    summary = dict(published.runs["wide"].summary)
    media = {key for key in summary if key.startswith(("plots/", "tables/"))} | {"claims"}
    for key in media:
        del summary[key]

    assert summary == {
        "claims/held": 1,
        "claims/all": 2,
        "claims/peak": True,
        "claims/gap-widens": False,
        "metrics/peak_width": 30,
        "metrics/width/0002/test_mse": 0.1,
        "metrics/width/0002/test_mse_stderr": 1 / 3,
    }


def test_pictures_are_the_plots(published: Published) -> None:
    (row,) = published.runs["wide"].history
    files = published.folders["wide"] / "files"
    for name in ("error", "parameters"):
        shown = row[f"plots/{name}"]
        plot = published.project.results() / "plots" / f"{name}.png"
        assert (files / shown["path"]).read_bytes() == plot.read_bytes()
        assert shown["caption"].endswith("over steps.")


def test_tables_are_those_of_the_plots(published: Published) -> None:
    (row,) = published.runs["wide"].history
    path = published.folders["wide"] / "files" / row["tables/error"]["path"]

    assert json.loads(path.read_text()) == {
        "columns": ["width", "label", "mse", "ok"],
        "data": [[2, "a", 1 / 3, True], [30, 'b, "c"', None, False]],
    }


def test_the_table_of_claims(published: Published) -> None:
    (row,) = published.runs["wide"].history
    table = json.loads((published.folders["wide"] / "files" / row["claims"]["path"]).read_text())
    claims = json.loads((published.project.results() / "claims.json").read_text())

    assert table["columns"] == ["id", "statement", "source", "observed", "threshold", "holds"]
    for cells, claim in zip(table["data"], claims, strict=True):
        found = dict(zip(table["columns"], cells, strict=True))
        found |= {key: json.loads(found[key]) for key in ("observed", "threshold")}
        assert found == claim


def test_artifacts_hold_the_files_and_name_their_hashes(published: Published) -> None:
    root = published.project.root
    run = published.runs["wide"]
    artifacts = {artifact.name: artifact for artifact in run.artifacts}
    results = ("claims.json", "figures.json", "history.parquet", "metrics.json", "plots")
    places = {
        "wide-data": (root / "data" / "wide", ["data/wide"]),
        "wide-members": (root / "runs" / "wide", ["runs/wide"]),
        "wide-results": (root / "results" / "wide", [f"results/wide/{name}" for name in results]),
    }
    assert set(artifacts) >= set(places)
    for name, (folder, outputs) in places.items():
        artifact = artifacts[name]
        metadata = json.loads(artifact.metadata)
        assert metadata["dvc"] == [dvc_output(root / output, root) for output in outputs]
        assert metadata["commit"] is None
        assert metadata["revision"] == published.receipt["group"]
        kept = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        expected = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file() and path.name != "receipt.json"
        }
        assert set(kept) == set(expected)
        for file, path in kept.items():
            # Inside the run's folder, so that it can be sent when the files have changed.
            assert path.is_relative_to(published.folders["wide"])
            assert path.read_bytes() == expected[file].read_bytes()


def test_nothing_tells_the_user_or_the_machine(published: Published) -> None:
    for name, run in published.runs.items():
        assert run.about.host == ""
        assert not run.about.HasField("git")
        assert not list((published.folders[name]).rglob("*.log"))
        assert not list((published.folders[name]).rglob("wandb-metadata.json"))
        assert not list((published.folders[name]).rglob("requirements.txt"))
    text = json.dumps(published.receipt)
    assert str(published.project.root) not in text
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4


def test_the_receipt_says_what_happened(published: Published) -> None:
    receipt = dict(published.receipt)
    runs = receipt.pop("runs")

    assert len(receipt.pop("content")) == 64
    assert receipt.pop("group").startswith("p")
    assert receipt == {
        "case": "wide",
        "tracker": "wandb",
        "mode_asked": "offline",
        "mode_used": "offline",
        "synced": False,
        "reason": "offline mode was asked for",
        "entity": None,
        "project": "testing",
        "options": {},
        "git_revision": None,
    }
    for run in runs:
        assert run["kept"]
        assert run["url"] is None
        assert run["folder"] == f"wandb/offline-run-*-{run['id']}"


def test_publishing_again_changes_nothing(published: Published) -> None:
    project = published.project
    before = {p: p.stat().st_mtime_ns for p in (project.root / "wandb").rglob("*")}

    assert publish("wide", project.parameters, project.root) == published.receipt
    assert {p: p.stat().st_mtime_ns for p in (project.root / "wandb").rglob("*")} == before


def test_the_same_results_elsewhere_give_the_same_receipt(
    published: Published, build_project: Callable[[str], Any]
) -> None:
    other = build_project("another place")

    assert publish("wide", other.parameters, other.root) == published.receipt


def _truncate(folder: Path) -> None:
    (path,) = folder.glob("*.wandb")
    path.write_bytes(path.read_bytes()[:-60])


def _unmark(folder: Path) -> None:
    (folder / "telescope.json").unlink()


def _lose_a_payload(folder: Path) -> None:
    next(path for path in (folder / "payload").rglob("*") if path.is_file()).unlink()


@pytest.mark.parametrize("damage", [_truncate, _unmark, _lose_a_payload])
def test_an_incomplete_folder_is_replaced(project: Any, damage: Callable[[Path], None]) -> None:
    receipt = publish("plain", project.parameters, project.root)
    whole = {folder.name for folder in project.run_folders()}
    (damaged,) = project.root.glob(receipt["runs"][-1]["folder"])
    damage(damaged)
    # A folder of another time, so that the new one cannot have its name.
    moved = damaged.with_name(damaged.name.replace("run-20", "run-19"))
    damaged.rename(moved)

    assert publish("plain", project.parameters, project.root) == receipt
    assert len(project.run_folders()) == 2
    assert not moved.exists()
    (folder,) = project.root.glob(receipt["runs"][-1]["folder"])
    assert read_run(folder).ended
    # The folders that were whole were left alone.
    assert len(whole & {folder.name for folder in project.run_folders()}) >= 1


def test_runs_are_known_by_what_they_are_made_of(project: Any) -> None:
    before = {run["name"]: run["id"] for run in _publish(project)["runs"]}
    manifest = project.root / "runs" / "wide" / "width-0030_seed-0" / "manifest.json"
    manifest.write_text('{"member": "width-0030_seed-0", "seed": 0, "code": "other"}')
    project.configure(project="another", tags=["third"])
    after = {run["name"]: run["id"] for run in _publish(project)["runs"]}

    other = {name for name in before if before[name] != after[name]}
    assert other == {"wide: width 30, seed 0", "wide"}
    # The folders of the other project made room for these.
    assert len(project.run_folders()) == 7


def test_a_case_without_sweep(project: Any) -> None:
    receipt = _publish(project, "plain")

    assert [run["name"] for run in receipt["runs"]] == ["plain: all, seed 0", "plain"]
    (folder,) = project.root.glob(receipt["runs"][0]["folder"])
    run = read_run(folder)
    assert run.config["sweep"] == {}
    assert (
        run.summary["train/mse"]
        == pd.read_parquet(project.results("plain") / "history.parquet")["train/mse"].iloc[-1]
    )


@pytest.mark.parametrize("tracking", [{"mode": "disabled"}, {"tracker": "none"}])
def test_switched_off_it_writes_nothing(project: Any, tracking: dict[str, str]) -> None:
    project.configure(**tracking)
    before = sorted(project.root.rglob("*"))
    environment = dict(os.environ)
    receipt = _publish(project)

    assert sorted(project.root.rglob("*")) == before
    assert dict(os.environ) == environment
    assert receipt["mode_used"] == "disabled"
    assert receipt["synced"] is False
    assert receipt["runs"] == []
    assert len(receipt["content"]) == 64


def _publish(project: Any, case: str = "wide") -> dict[str, Any]:
    return publish(case, project.parameters, project.root)
