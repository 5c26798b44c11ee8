from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from telescope_core.errors import ArtifactError
from telescope_pipeline.store import files


def test_json_keeps_order_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    files.write_json(path, {"z": 1, "a": [1.5, None, "ö"]})
    assert path.read_text() == '{\n  "z": 1,\n  "a": [\n    1.5,\n    null,\n    "ö"\n  ]\n}\n'
    assert files.read_json(path) == {"z": 1, "a": [1.5, None, "ö"]}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_json_refuses_what_it_has_no_word_for(value: object, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, 1)
    with pytest.raises(ArtifactError, match=r"x\.json"):
        files.write_json(path, {"value": value})
    assert files.read_json(path) == 1


def test_tables_keep_values_types_and_bytes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"step": [0, 1], "name": ["a", "b"], "test/mse": [1.0, math.nan]})
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    files.write_parquet(first, frame)
    files.write_parquet(second, frame.set_index(pd.Index([7, 9])))
    assert first.read_bytes() == second.read_bytes()
    pd.testing.assert_frame_equal(files.read_parquet(first), frame)


def test_tensors_keep_values_and_bytes_whatever_their_order(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"b": base.view(2, 3).T, "a": base, "n": torch.tensor(3)}
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    files.write_tensors(first, tensors)
    files.write_tensors(second, dict(reversed(tensors.items())))
    assert first.read_bytes() == second.read_bytes()
    read = files.parse_tensors(first, first.read_bytes())
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["x.json", "x.parquet", "x.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damaged_files_are_one_clear_error(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write = {
        ".json": lambda: files.write_json(path, {"a": [1, 2, 3]}),
        ".parquet": lambda: files.write_parquet(path, pd.DataFrame({"a": [1.0, 2.0]})),
        ".safetensors": lambda: files.write_tensors(path, {"a": torch.ones(3)}),
    }
    read = {
        ".json": files.read_json,
        ".parquet": files.read_parquet,
        ".safetensors": lambda path: files.parse_tensors(path, files.read_bytes(path)),
    }
    write[path.suffix]()
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) - 6] if damage == "truncated" else b"")
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        read[path.suffix](path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        files.write_json(path, "new")
    monkeypatch.undo()
    assert files.read_json(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.new_folder(target) as folder:
        files.write_text(folder / "a.txt", "1")
        assert not target.exists()
    with files.new_folder(target) as folder:
        files.write_text(folder / "b.txt", "2")
    assert [path.name for path in target.iterdir()] == ["b.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.new_folder(target) as folder:
        files.write_text(folder / "a.txt", "1")

    def fill_half() -> None:
        with files.new_folder(target) as folder:
            files.write_text(folder / "b.txt", "2")
            raise KeyError("half way")

    with pytest.raises(KeyError):
        fill_half()
    assert [path.name for path in target.iterdir()] == ["a.txt"]
    assert list(tmp_path.iterdir()) == [target]


_SLOW = """
import sys, time
from pathlib import Path
from telescope_pipeline.store import files
with files.new_folder(Path(sys.argv[1])) as folder:
    files.write_text(folder / "a.txt", "half")
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    target, ready = tmp_path / "out" / "case", tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", _SLOW, str(target), str(ready)])
    try:
        deadline = time.monotonic() + 30
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert ready.exists()
    assert not target.exists()
    with files.new_folder(target) as folder:
        files.write_text(folder / "a.txt", "whole")
    assert list(target.parent.iterdir()) == [target]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.new_folder(tmp_path / "out") as folder:
            files.write_text(folder / "a.txt", "1")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "a.txt").stat().st_mode & 0o777 == 0o640
