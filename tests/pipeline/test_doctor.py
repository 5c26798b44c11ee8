from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from telescope_pipeline import doctor
from telescope_pipeline.cli import app
from telescope_pipeline.doctor import Finding, examine


@pytest.fixture
def copy(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder without its code, whose wiring is taken to be right."""
    shutil.copy(repository / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(repository / ".dvc" / "config", tmp_path / ".dvc" / "config")
    monkeypatch.setattr("telescope_pipeline.wiring.disagreements", lambda root, cases: [])
    scripts = Path(sys.executable).parent
    monkeypatch.setattr(shutil, "which", lambda name: f"{scripts}/{name}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    return tmp_path


def _of(folder: Path, subject: str) -> Finding:
    (finding,) = [f for f in examine(folder / "params.yaml") if f.subject == subject]
    return finding


def test_a_sound_project_has_nothing_broken(copy: Path) -> None:
    findings = examine(copy / "params.yaml")
    assert [finding for finding in findings if finding.state == "broken"] == []
    assert sorted(path.name for path in copy.iterdir()) == [".dvc", "params.yaml"]


def test_the_projects_own_wiring_is_looked_at(repository: Path) -> None:
    assert _of(repository, "dvc.yaml").state == "fine"


def test_bad_parameters_are_broken_and_the_rest_is_still_looked_at(copy: Path) -> None:
    (copy / "params.yaml").write_text("run: 3\n")
    assert _of(copy, "parameters").state == "broken"
    assert "run: got 3" in _of(copy, "parameters").detail
    assert _of(copy, "disk").state == "fine"


def test_a_wiring_that_differs_is_broken(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telescope_pipeline.wiring.disagreements", lambda root, cases: ["train: x"])
    finding = _of(copy, "dvc.yaml")
    assert finding.state == "broken"
    assert finding.detail == "train: x\nwrite them with `make wiring`"


def test_a_users_model_belongs_into_a_pipeline_of_its_own(copy: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    path = copy / "params.yaml"
    parameters = yaml.load(path)
    template = Path(doctor.__file__).parent / "scaffold" / "templates" / "params.yaml.txt"
    parameters["cases"]["mine"] = yaml.load(template)["cases"]["mine"]
    yaml.dump(parameters, path)
    finding = _of(copy, "dvc.yaml")
    assert finding.state == "broken"
    assert "cases.mine names code of yours" in finding.detail
    assert "telescope init" in finding.detail


def test_a_project_without_dvc_is_broken(copy: Path) -> None:
    shutil.rmtree(copy / ".dvc")
    assert _of(copy, "DVC repository").state == "broken"


def test_a_record_without_results_says_where_to_get_them(copy: Path) -> None:
    assert "none yet" in _of(copy, "results").detail
    (copy / "dvc.lock").write_text("schema: '2.0'\n")
    finding = _of(copy, "results")
    assert finding.state == "warning"
    assert "run `dvc repro`, or name the store" in finding.detail
    with (copy / ".dvc" / "config.local").open("w") as config:
        config.write("[core]\n    remote = store\n['remote \"store\"']\n    url = /store\n")
    assert "`dvc pull` brings what was pushed" in _of(copy, "results").detail
    for case in YAML(typ="safe", pure=True).load(copy / "params.yaml")["cases"]:
        (copy / "results" / case).mkdir(parents=True)
        (copy / "results" / case / "metrics.json").touch()
    assert _of(copy, "results").state == "fine"


def test_a_command_off_the_path_is_broken(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert _of(copy, "telescope command").state == "broken"
    monkeypatch.setattr(shutil, "which", lambda name: "/elsewhere/bin/telescope")
    assert _of(copy, "telescope command").state == "warning"


def test_an_old_or_missing_library_is_broken(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "wandb":
            raise doctor.PackageNotFoundError(name)
        return "1.13.1" if name == "torch" else "99.0"

    monkeypatch.setattr(doctor, "version", version)
    assert _of(copy, "torch").state == "broken"
    assert _of(copy, "wandb").state == "broken"
    assert _of(copy, "dvc").state == "fine"


def test_a_full_disk_is_noted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(copy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert _of(copy, "disk").state == "warning"


def test_a_folder_that_cannot_be_written_is_broken(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert _of(copy, "folders").state == "broken"


def test_too_many_threads_are_noted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (copy / "params.yaml").read_text()
    assert "workers: auto" in text
    (copy / "params.yaml").write_text(text.replace("workers: auto", "workers: 4000"))
    assert _of(copy, "processors").state == "warning"


@pytest.mark.parametrize("where", ["environment", "netrc", "nowhere"])
def test_a_key_is_reported_but_never_shown(
    where: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "0123456789abcdef" * 2 + "deadbeef"
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("mode: offline", "mode: online"))
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", secret)
    elif where == "netrc":
        path = copy / "netrc"
        path.write_text(f"machine api.wandb.ai\n  login user\n  password {secret}\n")
        path.chmod(0o600)
    result = CliRunner().invoke(app, ["doctor", "--params", str(copy / "params.yaml")])
    assert secret not in result.output
    assert _of(copy, "tracker").state == ("broken" if where == "nowhere" else "fine")
    assert result.exit_code == (1 if where == "nowhere" else 0)
