"""Publishing offline: what the client's own files hold, read back, is what was published."""

from __future__ import annotations

import json
import math
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


def test_there_is_one_run_per_group_and_one_for_the_case(published: Published) -> None:
    assert {name: run.about.job_type for name, run in published.runs.items()} == {
        "wide/width-0002": "members",
        "wide/width-0030": "members",
        "wide": "case",
    }
    assert len(published.project.run_folders()) == 3
    for entry in published.receipt["runs"]:
        run = published.runs[entry["name"]]
        assert run.ended
        assert run.about.run_id == entry["id"]
        assert run.about.display_name == entry["name"]
        assert run.about.project == "testing"
        assert run.about.run_group == published.receipt["group"]
        assert list(run.about.tags) == ["first", "second"]


@pytest.mark.parametrize("width", [2, 30])
def test_every_number_of_the_history(published: Published, width: int) -> None:
    run = published.runs[f"wide/width-{width:04d}"]
    members = published.project.history()
    members = members[members["width"] == width]

    assert run.metrics == {"step": "", "*": "step"}
    assert [row["step"] for row in run.history] == [0, 1, 10, 250]
    for row in run.history:
        at_step = members[members["step"] == row["step"]]
        expected = {"step": row["step"], "seeds": 2}
        for name in _MEASURED:
            values = at_step[name].dropna().to_numpy()
            if len(values) > 0:
                expected[name] = pytest.approx(values.mean(), rel=1e-14)
            if len(values) > 1 and not name.endswith("_stderr"):
                variance = values.var(ddof=1) / len(values)
                if f"{name}_stderr" in at_step:
                    variance += (at_step[f"{name}_stderr"] ** 2).sum() / len(values) ** 2
                stderr = math.sqrt(variance)
                expected[f"stderr/{name}"] = pytest.approx(stderr, rel=1e-9)
        assert row == expected
    assert "test/sometimes" not in run.history[1]
    assert run.summary == run.history[-1]


def test_the_config_of_a_group_is_its_part_of_the_parameters(published: Published) -> None:
    config = published.runs["wide/width-0030"].config
    parameters = published.project.parameters
    case = parameters.cases["wide"]

    assert len(config.pop("content")) == 64
    assert config["sweep"] == {"width": 30}
    assert config["seeds"] == [0, 1]
    assert config["parameters"]["model"] == {"widths": [30]}
    # What concerns the case as a whole would change the run when the group is the same.
    assert set(config["parameters"]) == {"data", "model", "training", "lens"}
    for section in ("data", "training", "lens"):
        assert config["parameters"][section] == getattr(case, section).model_dump(mode="json")
    assert config["run"] == {"seed": 0, "device": "cpu", "threads": 1}
    assert set(config) == {"case", "kind", "sweep", "seeds", "parameters", "run"}


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
    artifacts = {
        artifact.name: (run, artifact)
        for run, content in published.runs.items()
        for artifact in content.artifacts
        if artifact.name[:4] == "wide"
    }
    places = {
        "wide-data": ("wide/width-0002", root / "data" / "wide", "*", ["data/wide"]),
        "wide-runs-width-0002": ("wide/width-0002", root / "runs/wide", "*02_*", ["runs/wide"]),
        "wide-runs-width-0030": ("wide/width-0030", root / "runs/wide", "*30_*", ["runs/wide"]),
        "wide-results": (
            "wide",
            root / "results" / "wide",
            "*",
            [
                "results/wide/claims.json",
                "results/wide/figures.json",
                "results/wide/history.parquet",
                "results/wide/metrics.json",
                "results/wide/plots",
            ],
        ),
    }
    assert set(artifacts) == set(places)
    for name, (run, folder, members, outputs) in places.items():
        assert artifacts[name][0] == run
        artifact = artifacts[name][1]
        metadata = json.loads(artifact.metadata)
        assert metadata["dvc"] == [dvc_output(root / output, root) for output in outputs]
        assert metadata["git_revision"] is None
        assert metadata["pipeline_revision"] == published.receipt["group"]
        kept = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        expected = {
            path.relative_to(folder).as_posix(): path
            for top in folder.glob(members)
            for path in (top.rglob("*") if top.is_dir() else [top])
            if path.is_file()
        }
        expected.pop("receipt.json", None)
        assert set(kept) == set(expected)
        for file, path in kept.items():
            # Inside the run's folder, so that it can be sent when the files have changed.
            assert path.is_relative_to(published.folders[run])
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
    receipt = publish("wide", project.parameters, project.root)
    whole = {folder.name for folder in project.run_folders()}
    (damaged,) = project.root.glob(receipt["runs"][-1]["folder"])
    damage(damaged)
    # A folder of another time, so that the new one cannot have its name.
    moved = damaged.with_name(damaged.name.replace("run-20", "run-19"))
    damaged.rename(moved)

    assert publish("wide", project.parameters, project.root) == receipt
    assert len(project.run_folders()) == 3
    assert not moved.exists()
    (folder,) = project.root.glob(receipt["runs"][-1]["folder"])
    assert read_run(folder).ended
    # The folders that were whole were left alone.
    assert len(whole & {folder.name for folder in project.run_folders()}) >= 2


def test_what_did_not_change_keeps_its_runs(project: Any) -> None:
    before = {run["name"]: run["id"] for run in _publish(project)["runs"]}
    history = project.history()
    history.loc[history["width"] == 30, "test/mse"] *= np.float64(1 + 1e-15)
    assert not history.equals(project.history())
    history.to_parquet(project.results() / "history.parquet")
    after = {run["name"]: run["id"] for run in _publish(project)["runs"]}

    assert before["wide/width-0002"] == after["wide/width-0002"]
    assert before["wide/width-0030"] != after["wide/width-0030"]
    assert before["wide"] != after["wide"]
    assert len(project.run_folders()) == 5


def test_the_tracker_settings_change_no_id(project: Any) -> None:
    before = [run["id"] for run in _publish(project)["runs"]]
    project.configure(project="another")

    assert [run["id"] for run in _publish(project)["runs"]] == before
    # The folders of the other project made room for these.
    assert len(project.run_folders()) == 3


def test_a_case_without_sweep(project: Any) -> None:
    receipt = _publish(project, "plain")

    assert [run["name"] for run in receipt["runs"]] == ["plain/all", "plain"]
    (folder,) = project.root.glob(receipt["runs"][0]["folder"])
    run = read_run(folder)
    assert run.config["sweep"] == {}
    # One seed has no spread; the error of the probes is known all the same.
    errors = [key for key in run.summary if key.startswith("stderr/")]
    assert errors == ["stderr/test/effective_parameters"]
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
