"""The hashes in artifact metadata are those of DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.digests import dvc_output, files_below


def test_hashes_are_those_in_dvc_lock(tmp_path: Path) -> None:
    (tmp_path / "folder" / "b" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "b.txt").write_bytes(b"crlf\r\nlines\r\n")
    (tmp_path / "folder" / "b" / "deep" / "\u00fc.bin").write_bytes(bytes(range(256)))
    (tmp_path / "folder" / ".hidden").write_bytes(b"")
    (tmp_path / "file.json").write_bytes(b'{"a": 1}\n')
    pipeline = (
        "stages: {make: {cmd: 'true', outs: [file.json: {persist: true}, folder: {persist: true}]}}"
    )
    (tmp_path / "dvc.yaml").write_text(pipeline)
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    lock = YAML(typ="safe").load((tmp_path / "dvc.lock").read_text())
    outs = {out["path"]: out for out in lock["stages"]["make"]["outs"]}

    for name in ("folder", "file.json"):
        expected = {key: value for key, value in outs[name].items() if key != "hash"}
        assert dvc_output(tmp_path / name, tmp_path) == expected


def test_a_missing_or_empty_output_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no such file"):
        dvc_output(tmp_path / "nothing", tmp_path)
    with pytest.raises(ArtifactError, match="no files"):
        files_below(tmp_path / "empty")
