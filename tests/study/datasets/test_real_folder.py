"""The real files, where a data folder is named: published counts, shapes and means."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from telescope_pipeline.study.datasets.entry import ORIGINAL
from telescope_pipeline.study.datasets.files import Content, read_files
from telescope_pipeline.study.datasets.formats import parse_cifar10, parse_idx
from telescope_pipeline.study.datasets.images import cifar10, mnist
from telescope_pipeline.study.datasets.registry import lookup
from telescope_pipeline.study.datasets.tabular import per_household, table

# Read here, since no test is let near the folders of whoever runs it.
_NAMED = os.environ.get("TELESCOPE_DATA", "")
FOLDER = Path(_NAMED)

pytestmark = pytest.mark.skipif(not _NAMED, reason="TELESCOPE_DATA names no data folder")


def _available(name: str) -> bool:
    files = lookup(name).files
    return all(any((FOLDER / form.path).is_file() for form in file.forms) for file in files)


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test whose files are not in the folder."""
    return pytest.mark.skipif(
        bool(_NAMED) and not _available(name), reason=f"the data folder has no {name}"
    )


@needs("mnist")
def test_mnist_is_the_original() -> None:
    contents = read_files(lookup("mnist"), folder=FOLDER)
    assert {content.known.fidelity for content in contents.values()} == {ORIGINAL}
    labels = parse_idx(contents["train-labels-idx1-ubyte"].data, "labels")
    assert np.bincount(labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    images = parse_idx(contents["train-images-idx3-ubyte"].data, "images")
    assert images.shape == (60000, 28, 28)
    assert float(images.mean()) / 255 == pytest.approx(0.1307, abs=5e-5)
    assert float(images.std()) / 255 == pytest.approx(0.3081, abs=5e-5)


@needs("mnist")
def test_mnist_files_have_the_published_md5() -> None:
    published = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    for name, digest in published.items():
        packed = (FOLDER / "mnist" / f"{name}.gz").read_bytes()
        assert hashlib.md5(packed, usedforsecurity=False).hexdigest() == digest


@needs("mnist")
def test_mnist_unpacked_by_hand_is_accepted(tmp_path: Path) -> None:
    contents = read_files(lookup("mnist"), folder=FOLDER)
    (tmp_path / "mnist").mkdir()
    for name, content in contents.items():
        (tmp_path / "mnist" / name).write_bytes(content.data)
    again = read_files(lookup("mnist"), folder=tmp_path)
    assert {content.known.algorithm for content in again.values()} == {"sha256"}
    assert all(again[name].data == contents[name].data for name in contents)


@needs("mnist")
def test_the_task_of_the_paper_on_mnist() -> None:
    whole = mnist(classes=(3, 5), seed=0, folder=FOLDER)
    assert len(whole.train_inputs) == 6131 + 5421
    assert len(whole.test_inputs) == 1010 + 892
    sizes = {"train_size": 1000, "test_size": 1000, "size": (8, 8)}
    task = mnist(classes=(3, 5), seed=0, flat=True, folder=FOLDER, **sizes)
    assert task.train_inputs.shape == task.test_inputs.shape == (1000, 64)
    # The nearest training image tells the class; wrong labels would leave it to chance.
    nearest = torch.cdist(task.test_inputs, task.train_inputs).argmin(dim=1)
    hits = (task.train_targets[nearest] == task.test_targets).double().mean()
    assert float(hits) > 0.9


def _first_batch() -> Content:
    names = ["data_batch_1"]
    return read_files(lookup("cifar10"), folder=FOLDER, names=names)["data_batch_1"]


@needs("cifar10")
def test_the_first_batch_of_cifar10_has_the_published_counts() -> None:
    content = _first_batch()
    images, labels = parse_cifar10(content.data, "data_batch_1")
    assert np.bincount(labels).tolist() == [
        1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981
    ]  # fmt: skip
    assert images.shape == (10000, 3, 32, 32)
    if content.known.fidelity == ORIGINAL:
        # The frog of record 0, as published.
        assert images[0, 0, 0, :6].tolist() == [59, 43, 50, 68, 98, 119]
    else:
        assert "JPEG re-encoded" in content.known.fidelity


@pytest.mark.slow
@needs("cifar10")
def test_all_of_cifar10() -> None:
    task = cifar10(size=(1, 1), seed=0, folder=FOLDER)
    assert torch.bincount(task.train_targets).tolist() == [5000] * 10
    assert torch.bincount(task.test_targets).tolist() == [1000] * 10
    means = task.train_inputs.double().mean(dim=(0, 2, 3)).tolist()
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=3e-4)
    assert task.card["fidelity"] == _first_batch().known.fidelity


@pytest.mark.parametrize(
    ("name", "shape", "mean"),
    [
        ("houses", (20640, 8), 206855.8),
        ("california", (20640, 8), 2.068558),
        ("house_sales", (21613, 15), 540088.1),
        ("superconduct", (21263, 79), 34.42),
        ("diamonds", (53940, 6), 3932.8),
    ],
)
def test_tables_have_the_published_shapes_and_means(
    name: str, shape: tuple[int, int], mean: float
) -> None:
    if not _available(name):
        pytest.skip(f"the data folder has no {name}")
    loaded = table(name, folder=FOLDER)
    assert loaded.features.shape == shape
    assert float(loaded.target.mean()) == pytest.approx(mean, rel=2e-4)
    # The benchmark leaves out numbers with fewer than ten distinct values.
    assert int(loaded.features.nunique().min()) >= 10


@needs("houses")
@needs("california")
def test_both_housing_tables_are_the_same_houses() -> None:
    houses, california = table("houses", folder=FOLDER), table("california", folder=FOLDER)
    derived = per_household(houses.features.assign(median_house_value=houses.target))
    assert derived.pop("MedHouseVal").equals(california.target)
    assert derived.equals(california.features)
