"""Files are found in a fixed order, verified before use, and never half there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telescope_core.errors import DataError, MissingDependencyError
from telescope_pipeline.study.datasets.entry import Known
from telescope_pipeline.study.datasets.files import cache_folder, data_folder, read_files

IMAGES = "train-images-idx3-ubyte"
needs_pooch = pytest.mark.skipif(
    importlib.util.find_spec("pooch") is None, reason="pooch is not installed"
)


def _files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _serve(tiny: Any, server: Any, name: str, served: str) -> None:
    """Move a file of the tiny folder to the server and give it the server's address."""
    path = tiny.path(name)
    (server.root / served).write_bytes(path.read_bytes())
    path.unlink()
    form = replace(tiny.file(name).forms[0], addresses=(f"{server.address}/{served}",))
    tiny.replace(name, (form,))


# Where files are looked for


def test_the_argument_goes_before_the_variable_and_the_cache(
    tiny_mnist: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TELESCOPE_DATA", str(tmp_path))
    assert data_folder(tiny_mnist.folder) == tiny_mnist.folder
    assert data_folder(None) == tmp_path
    assert cache_folder() == tmp_path / "cache"
    contents = read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
    assert {name: content.data for name, content in contents.items()} == tiny_mnist.contents


def test_the_variable_and_the_cache_are_read(
    tiny_mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELESCOPE_DATA", str(tiny_mnist.folder))
    assert read_files(tiny_mnist.entry)[IMAGES].data == tiny_mnist.contents[IMAGES]
    monkeypatch.delenv("TELESCOPE_DATA")
    cache_folder().parent.mkdir(exist_ok=True)
    tiny_mnist.folder.rename(cache_folder())
    assert read_files(tiny_mnist.entry)[IMAGES].data == tiny_mnist.contents[IMAGES]


def test_without_a_variable_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("TELESCOPE_CACHE")
    assert cache_folder().is_relative_to(platformdirs.user_cache_dir("telescope"))


@pytest.mark.parametrize("by_argument", [True, False])
def test_a_named_folder_that_does_not_exist_is_an_error(
    by_argument: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    monkeypatch.setenv("TELESCOPE_DATA", str(wrong))
    with pytest.raises(DataError, match="folder=" if by_argument else "TELESCOPE_DATA="):
        data_folder(wrong if by_argument else None)


def test_names_limit_what_is_read(tiny_mnist: Any) -> None:
    tiny_mnist.path("t10k-images-idx3-ubyte").unlink()
    assert list(read_files(tiny_mnist.entry, folder=tiny_mnist.folder, names=[IMAGES])) == [IMAGES]


def test_a_file_may_lie_there_unpacked(tiny_mnist: Any) -> None:
    data = tiny_mnist.contents[IMAGES]
    tiny_mnist.path(IMAGES).unlink()
    tiny_mnist.put(IMAGES, data, form=1)
    content = read_files(tiny_mnist.entry, folder=tiny_mnist.folder)[IMAGES]
    assert content.data == data
    assert content.record()["path"] == f"mnist/{IMAGES}"


# What is refused


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_a_truncated_file_is_refused(tiny_mnist: Any, keep: int) -> None:
    path = tiny_mnist.path(IMAGES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{IMAGES}.* is damaged or is another file"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_a_truncated_xz_file_is_refused(tiny_cifar10: Any, keep: int) -> None:
    path = tiny_cifar10.path("data_batch_1", form=1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"data_batch_1\.bin\.xz"):
        read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder)


def test_one_changed_bit_is_refused(tiny_mnist: Any) -> None:
    path = tiny_mnist.path(IMAGES)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="its digest is none of sha256:"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


def test_a_foreign_file_of_the_right_name_and_format_is_refused(tiny_mnist: Any) -> None:
    other = tiny_mnist.path("t10k-images-idx3-ubyte").read_bytes()
    tiny_mnist.path(IMAGES).write_bytes(other)
    with pytest.raises(DataError, match="another file"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


def test_a_listed_file_that_cannot_be_unpacked_is_refused(tiny_mnist: Any) -> None:
    path = tiny_mnist.path(IMAGES)
    path.write_bytes(path.read_bytes()[:-10])
    damaged = replace(
        tiny_mnist.file(IMAGES).forms[0], known=(Known("sha256", _sha256(path.read_bytes())),)
    )
    tiny_mnist.replace(IMAGES, (damaged,))
    with pytest.raises(DataError, match="truncated or damaged"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


def test_nothing_is_unpacked_beyond_the_expected_size(tiny_cifar10: Any) -> None:
    files = tuple(replace(file, size=3072) for file in tiny_cifar10.entry.files)
    entry = replace(tiny_cifar10.entry, files=files)
    with pytest.raises(DataError, match="more than the expected 3072 bytes"):
        read_files(entry, folder=tiny_cifar10.folder)


def test_a_damaged_local_file_is_not_passed_over_for_the_cache(tiny_mnist: Any) -> None:
    cached = cache_folder() / "mnist" / f"{IMAGES}.gz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(tiny_mnist.path(IMAGES).read_bytes())
    tiny_mnist.path(IMAGES).write_bytes(b"damaged")
    with pytest.raises(DataError, match=str(tiny_mnist.path(IMAGES))):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


def test_different_versions_are_not_mixed(tiny_cifar10: Any) -> None:
    form = tiny_cifar10.file("data_batch_2").forms[0]
    known = replace(form.known[0], fidelity="JPEG re-encoded")
    tiny_cifar10.replace("data_batch_2", (replace(form, known=(known,)),))
    with pytest.raises(DataError, match=r"data_batch_2\.bin is 'JPEG re-encoded'"):
        read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder)
    names = ["data_batch_2"]
    content = read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder, names=names)
    assert content["data_batch_2"].record()["fidelity"] == "JPEG re-encoded"


# Archives


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _into_archive(tiny: Any, tar_gz_of: Callable[[dict[str, bytes]], bytes]) -> Path:
    """Pack all batches into the official archive and remove the loose ones."""
    form = tiny.file("test_batch").forms[2]
    members = {tiny.file(n).forms[2].member: data for n, data in tiny.contents.items()}
    path = tiny.folder / form.path
    path.write_bytes(tar_gz_of({"cifar-10-batches-bin/readme.html": b"hello", **members}))
    known = (Known("sha256", _sha256(path.read_bytes())),)
    for name in tiny.contents:
        tiny.replace(name, (replace(tiny.file(name).forms[2], known=known),))
    for loose in (tiny.folder / "cifar-10-batches-bin").iterdir():
        loose.unlink()
    return path


def test_batches_are_read_from_the_official_archive(
    tiny_cifar10: Any, tar_gz_of: Callable[[dict[str, bytes]], bytes]
) -> None:
    _into_archive(tiny_cifar10, tar_gz_of)
    contents = read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder)
    assert {name: content.data for name, content in contents.items()} == tiny_cifar10.contents
    assert list(contents) == [file.name for file in tiny_cifar10.entry.files]


def test_an_archive_without_a_batch_is_refused(
    tiny_cifar10: Any, tar_gz_of: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = _into_archive(tiny_cifar10, tar_gz_of)
    path.write_bytes(tar_gz_of({"cifar-10-batches-bin/test_batch.bin": b"x"}))
    known = (Known("sha256", _sha256(path.read_bytes())),)
    for name in tiny_cifar10.contents:
        form = replace(tiny_cifar10.file(name).forms[0], known=known)
        tiny_cifar10.replace(name, (form,))
    with pytest.raises(DataError, match=r"does not hold .*data_batch_1\.bin"):
        read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder)


def test_a_member_of_a_zip_archive_is_checked_itself(tiny: Callable[[str], Any]) -> None:
    made = tiny("superconduct")
    form = made.file("superconduct").forms[1]
    known = (Known("sha256", _sha256(b"a,b\n1,2\n")),)
    made.replace("superconduct", (replace(form, known=known),))
    path = made.path("superconduct")
    path.parent.mkdir()
    for level in (0, 9):  # However it is packed.
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as bundle:
            bundle.writestr("train.csv", "a,b\n1,2\n")
            bundle.writestr("unique_m.csv", "x")
        content = read_files(made.entry, folder=made.folder)["superconduct"]
        assert content.data == b"a,b\n1,2\n"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("train.csv", "a,b\n1,3\n")
    with pytest.raises(DataError, match="bytes of content"):
        read_files(made.entry, folder=made.folder)


# Downloads


@needs_pooch
def test_a_missing_file_is_downloaded_once_and_kept(tiny_mnist: Any, server: Any) -> None:
    _serve(tiny_mnist, server, IMAGES, "images.gz")
    for _ in range(2):
        contents = read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
        assert contents[IMAGES].data == tiny_mnist.contents[IMAGES]
    assert server.asked == ["/images.gz"]
    assert _files_below(cache_folder()) == [f"mnist/{IMAGES}.gz"]


@needs_pooch
def test_an_archive_is_downloaded_once_for_all_its_members(
    tiny_cifar10: Any, server: Any, tar_gz_of: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = _into_archive(tiny_cifar10, tar_gz_of)
    path.rename(server.root / "archive.tar.gz")
    for name in tiny_cifar10.contents:
        form = tiny_cifar10.file(name).forms[0]
        form = replace(form, addresses=(f"{server.address}/archive.tar.gz",))
        tiny_cifar10.replace(name, (form,))
    contents = read_files(tiny_cifar10.entry, folder=tiny_cifar10.folder)
    assert {name: content.data for name, content in contents.items()} == tiny_cifar10.contents
    assert server.asked == ["/archive.tar.gz"]


@needs_pooch
def test_a_second_address_helps_out(tiny_mnist: Any, server: Any) -> None:
    _serve(tiny_mnist, server, IMAGES, "images.gz")
    form = tiny_mnist.file(IMAGES).forms[0]
    addresses = (f"{server.address}/gone.gz", *form.addresses)
    tiny_mnist.replace(IMAGES, (replace(form, addresses=addresses),))
    contents = read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
    assert contents[IMAGES].data == tiny_mnist.contents[IMAGES]
    assert server.asked == ["/gone.gz", "/images.gz"]


@needs_pooch
@pytest.mark.parametrize("damage", [b"<html>Not here</html>", b"", None])
def test_a_wrong_download_leaves_nothing_behind(
    tiny_mnist: Any, server: Any, damage: bytes | None
) -> None:
    _serve(tiny_mnist, server, IMAGES, "images.gz")
    served = server.root / "images.gz"
    served.write_bytes(served.read_bytes()[:-5] if damage is None else damage)
    with pytest.raises(DataError, match="is damaged or is another file"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
    assert _files_below(cache_folder()) == []


@needs_pooch
def test_without_a_network_one_error_names_every_file_and_the_folder(tiny_mnist: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    missing = [IMAGES, "t10k-labels-idx1-ubyte"]
    for name in missing:
        tiny_mnist.path(name).unlink()
        form = tiny_mnist.file(name).forms[0]
        address = f"http://127.0.0.1:{port}/{name}.gz"
        tiny_mnist.replace(name, (replace(form, addresses=(address,)),))
    with pytest.raises(DataError) as caught:
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
    message = str(caught.value)
    assert all(f"mnist/{name}.gz" in message for name in missing)
    assert "train-labels" not in message
    assert "folder= or TELESCOPE_DATA" in message
    assert str(tiny_mnist.folder) in message
    assert f"127.0.0.1:{port}" in message


def test_without_an_address_the_error_says_where_to_put_the_file(tiny_mnist: Any) -> None:
    tiny_mnist.path(IMAGES).unlink()
    with pytest.raises(DataError, match=rf"no address to download[\s\S]*mnist/{IMAGES}\.gz"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


def test_without_pooch_the_error_says_so_and_where_to_put_the_file(
    tiny_mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_mnist.path(IMAGES).unlink()
    form = replace(tiny_mnist.file(IMAGES).forms[0], addresses=("http://127.0.0.1:1/x.gz",))
    tiny_mnist.replace(IMAGES, (form,))
    original = importlib.import_module

    def refuse(name: str, *args: Any) -> Any:
        if name == "pooch":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingDependencyError, match=rf"pip install pooch[\s\S]*mnist/{IMAGES}"):
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)


@needs_pooch
def test_the_progress_bar_is_only_for_terminals(
    tiny_mnist: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        cached = cache_folder() / "mnist" / f"{IMAGES}.gz"
        cached.unlink(missing_ok=True)
        if tiny_mnist.path(IMAGES).exists():
            _serve(tiny_mnist, server, IMAGES, "images.gz")
        monkeypatch.setattr("sys.stderr", stream)
        read_files(tiny_mnist.entry, folder=tiny_mnist.folder)
        assert bool(stream.getvalue()) == shown
