"""Which run files count as whole, and which run folders as complete."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from telescope_core.errors import TrackerError
from telescope_core.trackers import RunDescription
from telescope_pipeline.publish.record import RunRecord
from telescope_pipeline.publish.wandb.folders import (
    Shipment,
    complete_folder,
    mark_complete,
    remove_folders,
    run_folders,
    shipments,
)
from telescope_pipeline.publish.wandb.run_file import check_run_file

_BLOCK = 32768
SHIPMENT = Shipment("abc", "project", None, "d")
RECORD = RunRecord(RunDescription("abc", "a run", "", ""))


def _write(path: Path, messages: list[bytes]) -> None:
    """Write messages as the client does, split where a block ends."""
    content = bytearray(b":W&B\xe1\xbe\x00")
    for message in messages:
        rest, first = message, True
        while rest or first:
            room = _BLOCK - len(content) % _BLOCK
            if room < 7:
                content += bytes(room)
                continue
            body, rest = rest[: room - 7], rest[room - 7 :]
            kind = {(True, False): 1, (True, True): 2, (False, True): 3, (False, False): 4}[
                first, bool(rest)
            ]
            checksum = zlib.crc32(bytes([kind]) + body)
            content += struct.pack("<IHB", checksum, len(body), kind) + body
            first = False
    path.write_bytes(content)


def _messages(rows: int, size: int = 10, ended: bool = True) -> list[bytes]:
    messages = []
    for _ in range(rows):
        row = Record()
        item = row.history.item.add()
        item.key, item.value_json = "x", "1" * size
        messages.append(row.SerializeToString())
    last = Record()
    last.exit.exit_code = 0
    return [*messages, *([last.SerializeToString()] if ended else [])]


@pytest.mark.parametrize(("rows", "size"), [(0, 0), (3, 10), (5, 20_000), (2, 100_000), (9, 7274)])
def test_a_whole_file_passes(tmp_path: Path, rows: int, size: int) -> None:
    path = tmp_path / "run-a.wandb"
    _write(path, _messages(rows, size))
    check_run_file(path, rows)


@pytest.mark.parametrize("cut", [1, 8, 30, 25_000])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run-a.wandb"
    _write(path, _messages(5, 20_000))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(TrackerError, match=r"run-a\.wandb is cut short"):
        check_run_file(path, 5)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    _write(path, _messages(5, 100))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrackerError, match="cut short"):
        check_run_file(path, 5)


def test_a_file_without_an_end_or_with_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    _write(path, _messages(5, ended=False))
    with pytest.raises(TrackerError, match="ends with 'history'"):
        check_run_file(path, 5)
    _write(path, _messages(4))
    with pytest.raises(TrackerError, match="holds 4 rows of history; expected 5"):
        check_run_file(path, 5)


def test_what_is_no_run_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    with pytest.raises(TrackerError, match="cannot be read"):
        check_run_file(path, 0)
    path.write_bytes(b"something else")
    with pytest.raises(TrackerError, match="not a run's file"):
        check_run_file(path, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder of the run ``abc``."""
    folder = tmp_path / "wandb" / "offline-run-20200101_000000-abc"
    (folder / "payload").mkdir(parents=True)
    (folder / "payload" / "f").write_bytes(b"12345")
    (folder / "run-abc.wandb").write_bytes(b"content")
    mark_complete(folder, SHIPMENT, RECORD)
    return folder


def test_a_marked_folder_is_complete(tmp_path: Path, folder: Path) -> None:
    assert complete_folder(tmp_path, SHIPMENT) == folder
    for change in ({"digest": "other content"}, {"id": "bc"}, {"project": "p"}, {"entity": "e"}):
        assert complete_folder(tmp_path, replace(SHIPMENT, **change)) is None
    assert complete_folder(tmp_path / "nowhere", SHIPMENT) is None


def test_what_lies_ready_to_be_sent_is_found(tmp_path: Path, folder: Path) -> None:
    foreign = folder.with_name("offline-run-20210101_000000-foreign")
    foreign.mkdir()
    (foreign / "telescope.json").write_text("[]")
    assert shipments(tmp_path) == {folder: SHIPMENT}
    (folder / "payload" / "f").write_bytes(b"1234")
    assert shipments(tmp_path) == {}


def test_sending_a_folder_leaves_it_complete(tmp_path: Path, folder: Path) -> None:
    (folder / "run-abc.wandb.synced").touch()
    (folder / "files").mkdir()
    (folder / "files" / "config.yaml").write_text("a: 1")

    assert complete_folder(tmp_path, SHIPMENT) == folder


@pytest.mark.parametrize("file", ["run-abc.wandb", "payload/f", "telescope.json"])
def test_a_changed_folder_is_not_complete(tmp_path: Path, folder: Path, file: str) -> None:
    with (folder / file).open("ab") as stream:
        stream.write(b"x")
    assert complete_folder(tmp_path, SHIPMENT) is None
    (folder / file).unlink()
    assert complete_folder(tmp_path, SHIPMENT) is None


def test_two_folders_of_one_run_are_none_and_both_are_removed(tmp_path: Path, folder: Path) -> None:
    other = folder.with_name("offline-run-20210101_000000-abc")
    other.mkdir()
    kept = folder.with_name("offline-run-20210101_000000-xabc")
    kept.mkdir()

    assert run_folders(tmp_path, "abc") == [folder, other]
    assert complete_folder(tmp_path, SHIPMENT) is None
    remove_folders(tmp_path, "abc")
    assert run_folders(tmp_path, "abc") == []
    assert kept.exists()
