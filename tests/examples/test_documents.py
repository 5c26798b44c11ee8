"""Every code block of README.md and docs/*.md: Python runs, commands exist, settings are valid."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer.main
from ruamel.yaml import YAML
from torch import nn

from telescope_core import TelescopeLens
from telescope_pipeline.cli import app
from telescope_pipeline.parameters.model import Parameters

REPOSITORY = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SHELLS = ("bash", "console", "sh")
# Formulas, and diagrams without a language.
_PROSE = ("", "math")
# What shells and common tools bring; everything else must be known below.
_TOOLS = {"cat", "cd", "cp", "echo", "export", "ls", "mkdir", "mv", "rm", "sed", "test"}
_TOOLS |= {"git", "pip", "pipx", "mlflow", "tensorboard", "trackio", "wandb"}


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def _blocks() -> Iterator[Block]:
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        text = path.read_text()
        assert text.count("```") % 2 == 0, f"{path.name}: a block does not end"
        for found in _FENCE.finditer(text):
            line = text[: found.start()].count("\n") + 1
            yield Block(path.name, line, found[2], textwrap.dedent(found[3]))


BLOCKS = list(_blocks())


def _in(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def test_every_language_is_looked_at() -> None:
    known = {*_SHELLS, *_PROSE, "python", "toml", "yaml"}
    assert {block.language for block in BLOCKS} <= known
    fences = sum((REPOSITORY / "docs" / name).read_text().count("```") for name in _names("docs"))
    fences += (REPOSITORY / "README.md").read_text().count("```")
    assert len(BLOCKS) == fences // 2


def _names(folder: str) -> list[str]:
    return [path.name for path in (REPOSITORY / folder).glob("*.md")]


@pytest.fixture
def names() -> dict[str, Any]:
    """What a reader has at hand: a model, its data, a lens, and an optimizer and a layer."""
    torch.manual_seed(0)
    x_train, x_test = torch.randn(100, 3), torch.randn(20, 3)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.MSELoss()
    known = {
        "model": model,
        "optimizer": optimizer,
        "loss": loss,
        "x_train": x_train,
        "y_train": x_train[:, 0],
        "x_test": x_test,
        "batches": [torch.randperm(100)[:50] for _ in range(12)],
        "Heavy": type("Heavy", (torch.optim.SGD,), {}),
        "Mixing": type("Mixing", (nn.Module,), {}),
    }
    return known | {"lens": TelescopeLens(model, optimizer, loss, x_train, x_train[:, 0], probes=4)}


@pytest.mark.parametrize("block", _in("python"))
def test_python_runs(
    block: Block, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(block.text, str(block), "exec")
    if block.document == "live.md":
        # The examples, which test_examples.py runs as they are.
        examples = [path.read_text() for path in (REPOSITORY / "examples").glob("*.py")]
        assert block.text in examples
        return
    if "tensorboard" in block.text:
        pytest.importorskip("tensorboard", reason="needs telescope-lens[tensorboard]")
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    if block.document == "README.md":
        record = names["lens"].snapshot().to_record()
        assert record["step"] == 12
        assert 0 < record["test/effective_parameters"] < 100


@pytest.mark.parametrize("block", _in("toml"))
def test_toml_is_read(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", _in("yaml"))
def test_settings_are_valid(block: Block) -> None:
    yaml = YAML(typ="safe", pure=True)
    given = yaml.load(block.text)
    if "method" in given:
        # A sweep of W&B, which test_trial.py starts.
        assert (REPOSITORY / "examples" / "sweep.yaml").read_text().endswith(block.text)
        return
    whole = yaml.load((REPOSITORY / "params.yaml").read_text())
    Parameters.model_validate(whole | given)


def _commands(block: Block) -> Iterator[list[str]]:
    """The single commands of a block; what a console answers is none of them."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", "|", ";"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)


@pytest.mark.parametrize("block", _in(*_SHELLS))
def test_commands_exist(block: Block) -> None:
    commands = list(_commands(block))
    assert commands, f"{block} holds no command"
    for program, *arguments in commands:
        if program == "telescope":
            _check_telescope(arguments)
        elif program == "dvc":
            _check_dvc(arguments)
        elif program == "make":
            targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
            assert set(arguments) <= set(targets), arguments
        elif program == "python":
            assert (REPOSITORY / arguments[0]).is_file(), arguments
        else:
            assert program in _TOOLS, f"{block}: what is {program}?"


def _check_telescope(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group) or hasattr(command, "commands")
    known = command.commands
    if arguments[0].startswith("--"):
        assert arguments[0] in ("--help", "--version")
        return
    assert arguments[0] in known, f"telescope has no {arguments[0]}"
    options = {name for parameter in known[arguments[0]].params for name in parameter.opts}
    assert {word for word in arguments[1:] if word.startswith("-")} <= options, arguments


def _check_dvc(arguments: list[str]) -> None:
    parser = pytest.importorskip("dvc.cli.parser").get_main_parser()
    try:
        parsed = parser.parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        pytest.fail(f"dvc does not take {arguments}: {error!r}")
    assert parsed.func is not None


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{name}" for name in _names("docs"))])
def test_links_lead_somewhere(document: str) -> None:
    path = REPOSITORY / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            file, _, anchor = target.partition("#")
            there = path.parent / file
            assert there.exists(), f"{document} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in slugs, f"{document} links to {target}"
