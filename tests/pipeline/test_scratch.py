from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch

from telescope_core.errors import ArtifactError
from telescope_pipeline.store.folders import Layout
from telescope_pipeline.store.scratch import Scratch

KEY = "ab" * 32


def test_a_finished_member_is_found_and_its_checkpoint_dropped(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / ".telescope")
    assert not scratch.holds(KEY)
    scratch.checkpoint(KEY).save({"w": torch.ones(2)}, {"epoch": 1})
    scratch.store(KEY, {"history.parquet": b"table", "final.safetensors": b"tensors"})
    assert scratch.holds(KEY)
    assert scratch.path(KEY, "history.parquet").read_bytes() == b"table"
    assert scratch.checkpoint(KEY).load() is None


def test_two_experiments_finish_the_same_member_at_the_same_time(tmp_path: Path) -> None:
    contents = {f"{i}.bin": bytes([i]) * 1000 for i in range(8)}
    failures: list[ArtifactError] = []
    for repetition in range(5):
        key, ready = f"{repetition:064x}", threading.Barrier(4)

        def finish(key: str = key, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                Scratch(tmp_path).store(key, contents)
            except ArtifactError as error:
                failures.append(error)

        threads = [threading.Thread(target=finish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Scratch(tmp_path).holds(key)
    assert failures == []
    assert len(list((tmp_path / "members").iterdir())) == 5


@pytest.mark.parametrize("below", [".", "paper"])
def test_a_copy_made_for_an_experiment_shares_the_scratch_folder(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert Layout(copy / below).scratch == copy / below / ".telescope"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert Layout(copy / below).scratch == tmp_path / below / ".telescope"
    assert Layout(tmp_path / below).scratch == tmp_path / below / ".telescope"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".dvc").mkdir(parents=True)
    assert Layout(elsewhere).scratch == elsewhere / ".telescope"


@pytest.mark.parametrize("damage", ["changed", "missing", "unsealed", "no-mapping"])
def test_a_damaged_member_is_thrown_away(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = Scratch(tmp_path)
    scratch.store(KEY, {"history.parquet": b"table"})
    (history,) = tmp_path.rglob("history.parquet")
    seal = history.with_name("seal.json")
    if damage == "changed":
        history.write_bytes(b"tablf")
    elif damage == "missing":
        history.unlink()
    elif damage == "unsealed":
        seal.unlink()
    else:
        seal.write_text("[]")
    with caplog.at_level(logging.WARNING):
        assert not scratch.holds(KEY)
    assert "computed again" in caplog.text
    assert not history.parent.exists()


def test_a_checkpoint_returns_what_was_saved(tmp_path: Path) -> None:
    checkpoint = Scratch(tmp_path).checkpoint(KEY)
    assert checkpoint.load() is None
    checkpoint.save({"w": torch.zeros(3)}, {"epoch": 1})
    tensors = {"w": torch.randn(3, 2).T, "step": torch.tensor(4)}
    state = {"epoch": 2, "rows": [{"x": 0.1}], "none": None}
    checkpoint.save(tensors, state)
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == state
    assert all(torch.equal(loaded[0][name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("position", [4, 40, -1])
def test_a_tampered_checkpoint_starts_training_over(
    position: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Scratch(tmp_path).checkpoint(KEY)
    checkpoint.save({"w": torch.ones(3)}, {"epoch": 1})
    content = bytearray(checkpoint.path.read_bytes())
    content[position] ^= 1
    checkpoint.path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load() is None
    assert "starts over" in caplog.text
    assert not checkpoint.path.exists()


def test_a_state_that_is_not_json_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoint = Scratch(tmp_path).checkpoint(KEY)
    checkpoint.save({"w": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(ArtifactError, match="not JSON-able"):
        checkpoint.save({"w": torch.ones(1)}, {"epoch": object()})
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == {"epoch": 1}
