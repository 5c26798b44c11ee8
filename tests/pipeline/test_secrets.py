"""Keys and passwords do not show in messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from telescope_core.errors import ParametersError
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.schemas.messages import LONGEST, presentable, shortened, text_of
from telescope_pipeline.schemas.secrets import HIDDEN, masked, without_environment

_KEY = "0123456789abcdef0123456789abcdef01234567"  # as long as those of W&B


@pytest.mark.parametrize(
    ("leaf", "value", "secret"),
    [
        ("tracking.api_key", "sesame", "sesame"),
        ("tracking.apiKey", {"inner": ["sesame"]}, "sesame"),
        ("tracking.token", 48151623, "48151623"),
        ("tracking.mode", _KEY, _KEY),
        ("tracking.mode", f"online {_KEY}", _KEY),
        ("tracking.mode", "sk-ant-sesame-open", "sesame"),
        ("tracking.mode", "https://me:sesame@wandb.example", "sesame"),
        ("tracking.entity", f"me {_KEY}", _KEY),
        ("tracking.options", [_KEY], _KEY),
        ("tracking.options", [{"password": "sesame"}], "sesame"),
        ("tracking.options", ["api_key=sesame"], "sesame"),
        ("tracking.options", {"deep": {"secret": "sesame"}}, "sesame"),
        ("tracking.options", {"deep": [[_KEY]]}, _KEY),
        ("tracking.options", {"key": "sesame"}, "sesame"),
        ("tracking.tags", [{"token": "sesame"}], "sesame"),
        ("tracking.unknown", {"wandb": {"api-key": "sesame"}}, "sesame"),
        (f"tracking.{_KEY}", None, _KEY),
        ("run.seed", _KEY, _KEY),
        ("cases.double_descent.password", "sesame", "sesame"),
        ("cases.double_descent.kind", {"token": "sesame"}, "sesame"),
    ],
)
def test_a_value_that_looks_like_a_key_is_not_echoed(
    leaf: str, value: object, secret: str, repository: Path, tmp_path: Path
) -> None:
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load(repository / "params.yaml")
    *way, last = leaf.split(".")
    section = parameters
    for name in way:
        section = section[name]
    section[last] = value
    path = tmp_path / "params.yaml"
    yaml.dump(parameters, path)
    with pytest.raises(ParametersError) as raised:
        load_parameters(path)
    message = str(raised.value)
    assert secret not in message
    assert secret[:8] not in message
    assert HIDDEN in message or "(value not shown)" in message


def test_a_case_about_tokens_shows_its_values(repository: Path, tmp_path: Path) -> None:
    text = (repository / "params.yaml").read_text()
    assert "\n  double_descent:" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("\n  double_descent:", "\n  rare_tokens:\n    sedes: 3", 1))
    with pytest.raises(ParametersError, match=r"rare_tokens\.sedes: unknown key \(value 3\)"):
        load_parameters(path)


@pytest.mark.parametrize(
    "value",
    ["double_descent", "weight_averaging", "my.networks_2:build", 3, 2.5, True, None, "mse", "a b"],
)
def test_plain_values_stay(value: object) -> None:
    assert masked({"leaf": [value]}) == {"leaf": [value]}


def test_values_of_the_environment_are_named_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    block = "-----BEGIN-----\nfirst line of it\nsecond line of it"
    for name, value in {
        "WANDB_API_KEY": "sesame-open",
        "HF_TOKEN": "sesame-open-now",
        "DB_PASSWORD": 'quo"ted\\pass',
        "DEPLOY_KEY": block,
        "SHORT_SECRET": "no",
        "PWD": "/home/somebody",
        "HARMLESS": "plainly seen",
    }.items():
        monkeypatch.setenv(name, value)
    assert (
        without_environment("a sesame-open b sesame-open-now") == "a <WANDB_API_KEY> b <HF_TOKEN>"
    )
    assert without_environment(repr('quo"ted\\pass')) == "'<DB_PASSWORD>'"
    assert "line of it" not in without_environment(f"{block!r} {block} first line of it")
    for plain in ("no", "/home/somebody/x", "plainly seen"):
        assert without_environment(plain) == plain
    assert "sesame" not in text_of(ValueError("x" * 990 + "sesame-open"))


def test_the_command_shows_no_value_of_the_environment(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "open sesame")
    text = (repository / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("device: cpu", "device: open sesame", 1))
    done = subprocess.run(
        [sys.executable, "-m", "telescope_pipeline.cli", "validate"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "run.device: got '<MY_SECRET>'; expected cpu" in done.stderr


class _UntoldError(Exception):
    def __str__(self) -> str:
        raise SystemExit(0)


def test_a_text_is_one_line_of_bounded_length() -> None:
    assert text_of(ValueError("two\n  lines")) == "two lines"
    assert text_of(_UntoldError()) == "a text that cannot be made: SystemExit"
    long = text_of(ValueError("x" * 2_000_000 + "end"))
    assert len(long) <= 1000
    assert "(2000003 characters in all)" in long
    assert long.endswith("xend")
    assert shortened("short") == "short"


def test_a_message_has_bounded_lines() -> None:
    message = presentable("\n".join(["y" * 5000] * 500)).splitlines()
    assert len(message) == 61
    assert message[-1] == "  and 440 more lines"
    assert {len(line) for line in message[:-1]} == {LONGEST}
