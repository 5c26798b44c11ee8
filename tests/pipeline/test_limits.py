"""Parameter files that would take for ever to read, or whose messages nobody could."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from telescope_core.errors import ParametersError
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.parameters.limits import check_bounds

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], y{n}: 1}}\n" for n in range(1, 9)
)
_MANY_KEYS = "run: {" + ", ".join(f"more{n}: {n}" for n in range(9000)) + "}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, r"line \d+: got more than 50,000 values, those behind aliases counted each time"),
        (_MERGED, r"line \d+: got more than 50,000 values"),
        ("a: &a [1, *a]\n", r"line 1: got \*a inside what it stands for; expected no circle"),
        ("a: " + "[" * 3000 + "]" * 3000, "line 1: got more than 32 levels of nesting"),
        ("".join(" " * n + f"k{n}:\n" for n in range(1000)), "got more than 32 levels"),
        ("a: " + "{b: " * 3000 + "}" * 3000, "line 1: got more than 32 levels"),
        ("run:\n  seed: " + "9" * 5000, r"line 2: got a number of 5,000 characters; expected at"),
        ("run: {seed: -0x" + "f" * 5000 + "}", "got a number of 5,003 characters"),
        ("run: {seed: 0." + "5" * 5000 + "}", "got a number of 5,002 characters"),
        ("when: 2024-13-45\n", "not valid YAML: month must be in"),
        ("# " + "x" * 1_000_001, "got 1,000,003 bytes; expected at most 1,000,000"),
        (_MANY_KEYS, r"run\.more0: unknown key \(value 0\)"),
        ("tracking: {mode: '" + "x " * 99_999 + "'}", r"tracking\.mode: got 'x x x"),
        ("? " + "long " * 9_999 + "\n: 1\n", r"  long long .* characters in all.*unknown"),
    ],
)
def test_a_file_beyond_all_bounds_is_one_short_message(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParametersError, match=message) as raised:
        load_parameters(path)
    assert len(str(raised.value)) < 20_000
    assert max(map(len, str(raised.value).splitlines())) < 2000


def test_problems_beyond_the_first_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(_MANY_KEYS)
    with pytest.raises(ParametersError) as raised:
        load_parameters(path)
    head, *lines, last = str(raised.value).splitlines()
    assert head.endswith("problems")
    assert len(lines) == 50
    # The sections tracking and cases and the key seed are missing, too.
    assert last == "  and 8953 more, to be told when these are mended"


def test_aliases_within_bounds_are_values_like_others(tmp_path: Path) -> None:
    text = "a: &a {b: &b [1, 2]}\nc: *a\nd: {<<: *a, e: *b}\n" + "f: [" + "*a, " * 9000 + "]\n"
    check_bounds(tmp_path, text)
    with pytest.raises(ParametersError, match="line 5: got more than 50,000 values"):
        check_bounds(tmp_path, text + "g: [" + "*a, " * 3000 + "]\n")


@pytest.mark.parametrize("text", [_BOMB, "a: " + "[" * 3000, "run: {seed: " + "9" * 5000 + "}"])
def test_the_command_says_so_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "telescope_pipeline.cli", "validate"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml")
    assert len(done.stderr) < 300
