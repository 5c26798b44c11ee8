"""Tiny files in the official layouts, and registry entries that list their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from scipy import io as scipy_io

from telescope_pipeline.study.datasets.entry import DataFile, Entry, Form, Known
from telescope_pipeline.study.datasets.registry import lookup

MNIST_TRAIN_LABELS = [5, 3, 3, 0, 5, 9, 3, 5, 3, 5]
MNIST_TEST_LABELS = [3, 7, 5, 5, 3, 3]


def _idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def _listed(form: Form, data: bytes) -> Form:
    return replace(form, known=(Known("sha256", hashlib.sha256(data).hexdigest()),), addresses=())


@dataclass
class Tiny:
    """A data folder under construction and an entry that lists what was put into it."""

    folder: Path
    entry: Entry
    contents: dict[str, bytes] = field(default_factory=dict)

    def path(self, name: str, form: int = 0) -> Path:
        """Where a form of a file lies."""
        return self.folder / self.file(name).forms[form].path

    def file(self, name: str) -> DataFile:
        """The entry's file of a name."""
        return next(file for file in self.entry.files if file.name == name)

    def put(self, name: str, data: bytes, form: int = 0) -> None:
        """Pack a content as the form asks, write it, and list its checksum in the entry."""
        file = self.file(name)
        chosen = file.forms[form]
        packed = {
            "plain": lambda content: content,
            "gzip": lambda content: gzip.compress(content, mtime=0),
            "xz": lzma.compress,
        }[chosen.packing](data)
        path = self.folder / chosen.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed)
        self.contents[name] = data
        forms = list(file.forms)
        forms[form] = _listed(chosen, data if chosen.checked == "content" else packed)
        self.replace(name, tuple(forms))

    def replace(self, name: str, forms: tuple[Form, ...]) -> None:
        """List other forms for a file."""
        files = [
            replace(file, forms=forms) if file.name == name else file for file in self.entry.files
        ]
        self.entry = replace(self.entry, files=tuple(files))


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or fills the folders of whoever runs it unless it names them itself."""
    monkeypatch.setenv("TELESCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TELESCOPE_DATA", raising=False)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[str], Tiny]:
    """``tiny("mnist")`` starts an empty folder for an entry without addresses."""

    def start(name: str) -> Tiny:
        entry = lookup(name)
        files = tuple(
            replace(file, forms=tuple(replace(form, addresses=()) for form in file.forms))
            for file in entry.files
        )
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        return Tiny(folder, replace(entry, files=files))

    return start


@pytest.fixture
def tiny_mnist(tiny: Callable[[str], Tiny]) -> Tiny:
    """Ten training and six test images; pixel (r, c) of image i is (i + 3r + 5c) mod 256."""
    made = tiny("mnist")
    row, column = np.arange(28)[:, None], np.arange(28)[None, :]
    for prefix, labels in (("train", MNIST_TRAIN_LABELS), ("t10k", MNIST_TEST_LABELS)):
        index = np.arange(len(labels))[:, None, None]
        made.put(f"{prefix}-images-idx3-ubyte", _idx((index + 3 * row + 5 * column) % 256))
        made.put(f"{prefix}-labels-idx1-ubyte", _idx(np.array(labels)))
    return made


def cifar_batch(number: int, labels: list[int]) -> bytes:
    """Records whose red, green and blue planes are constant: 10 * number, label, position."""
    records = []
    for position, label in enumerate(labels):
        planes = bytes([10 * number]) * 1024 + bytes([label]) * 1024 + bytes([position]) * 1024
        records.append(bytes([label]) + planes)
    return b"".join(records)


@pytest.fixture
def tiny_cifar10(tiny: Callable[[str], Tiny]) -> Tiny:
    """Five batches of four images and a test batch of six; batches 1, 3 and 5 packed with xz."""
    made = tiny("cifar10")
    for number in range(1, 6):
        made.put(f"data_batch_{number}", cifar_batch(number, [3, 5, number, 9]), form=number % 2)
    made.put("test_batch", cifar_batch(6, [5, 3, 3, 0, 5, 9]))
    return made


@pytest.fixture
def tiny_svhn(tiny: Callable[[str], Tiny]) -> Tiny:
    """Training labels 1, 10, 9, 10 and test labels 10, 2; pixel values tell all four axes apart."""
    made = tiny("svhn")
    for name, labels in (("train", [1, 10, 9, 10]), ("test", [10, 2])):
        row, column = np.arange(32)[:, None, None, None], np.arange(32)[None, :, None, None]
        channel, index = np.arange(3)[None, None, :, None], np.arange(len(labels))
        images = row + 2 * column + 40 * channel + 17 * index
        buffer = io.BytesIO()
        scipy_io.savemat(
            buffer, {"X": images.astype(np.uint8), "y": np.array(labels, np.uint8)[:, None]}
        )
        made.put(name, buffer.getvalue())
    return made


def tar_gz(members: dict[str, bytes]) -> bytes:
    """A gzipped tar archive of the members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def tar_gz_of() -> Callable[[dict[str, bytes]], bytes]:
    return tar_gz


@dataclass
class Server:
    """A server on 127.0.0.1 that counts what it was asked for."""

    root: Path
    address: str
    asked: list[str]


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: object, asked: list[str], **kwargs: object) -> None:
        self.asked = asked
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "served"
    root.mkdir()
    asked: list[str] = []
    handler = partial(_Handler, directory=str(root), asked=asked)
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=partial(running.serve_forever, 0.01), daemon=True)
    thread.start()
    yield Server(root, f"http://127.0.0.1:{running.server_port}", asked)
    running.shutdown()
    running.server_close()
    thread.join()
