"""Image tasks: the right pixels and labels, from disjoint splits, decided by the seed alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.study.datasets.dataset import Dataset
from telescope_pipeline.study.datasets.images import cifar10, mnist, svhn
from telescope_pipeline.study.datasets.label_noise import flip_labels

# The tasks of Sections 3 and 4.1, on all images in their full size.
THREES: dict[str, Any] = {"seed": 0, "classes": (3, 5), "flat": True}
CATS: dict[str, Any] = {"seed": 0, "classes": ("cat", "dog"), "flat": True, "gray": True}


def _mnist(tiny: Any, **options: Any) -> Dataset:
    return mnist(folder=tiny.folder, entry=tiny.entry, **{**THREES, **options})


def _cifar10(tiny: Any, **options: Any) -> Dataset:
    return cifar10(folder=tiny.folder, entry=tiny.entry, **{**CATS, **options})


def test_mnist_keeps_two_classes_in_the_order_of_the_file(tiny_mnist: Any) -> None:
    task = _mnist(tiny_mnist)
    # Labels 5 3 3 0 5 9 3 5 3 5 and 3 7 5 5 3 3.
    assert task.extras["train_rows"].tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert task.train_targets.tolist() == [1, 0, 0, 1, 0, 1, 0, 1]
    assert task.extras["test_rows"].tolist() == [0, 2, 3, 4, 5]
    assert task.test_targets.tolist() == [0, 1, 1, 0, 0]
    assert task.train_targets.dtype == task.train_inputs.dtype == torch.float32
    # Pixel (r, c) of image i is (i + 3r + 5c) mod 256.
    row_4 = task.train_inputs[3].view(28, 28)
    assert float(row_4[2, 3]) == pytest.approx((4 + 6 + 15) / 255)
    assert float(row_4[27, 27]) == pytest.approx(((4 + 81 + 135) % 256) / 255)


def test_the_order_of_the_classes_is_the_order_of_the_labels(tiny_mnist: Any) -> None:
    there, back = _mnist(tiny_mnist, classes=(3, 5)), _mnist(tiny_mnist, classes=("5", "3"))
    assert torch.equal(there.train_inputs, back.train_inputs)
    assert torch.equal(there.train_targets, 1 - back.train_targets)


def test_more_classes_become_indices(tiny_mnist: Any) -> None:
    task = _mnist(tiny_mnist, classes=(9, 5, 0))
    assert task.train_targets.dtype == torch.int64
    assert task.train_targets.tolist() == [1, 2, 1, 0, 1, 1]
    assert task.card["classes"] == {"0": "9", "1": "5", "2": "0"}
    assert "train_clean_targets" not in task.extras
    every = _mnist(tiny_mnist, classes=None)
    assert every.train_targets.tolist() == [5, 3, 3, 0, 5, 9, 3, 5, 3, 5]


def test_pixels_are_averaged_over_areas(tiny_mnist: Any) -> None:
    images = _mnist(tiny_mnist).train_inputs.view(-1, 28, 28)
    halved = _mnist(tiny_mnist, size=(14, 7), flat=False).train_inputs
    assert halved.shape == (8, 1, 14, 7)
    by_hand = images.view(-1, 14, 2, 7, 4).mean(dim=(2, 4))
    torch.testing.assert_close(halved[:, 0], by_hand)
    # 28 to 8: output i averages pixels floor(3.5 i) to ceil(3.5 (i + 1)).
    eight = _mnist(tiny_mnist, size=(8, 8)).train_inputs.view(-1, 8, 8)
    torch.testing.assert_close(eight[:, 1, 7], images[:, 3:7, 24:28].mean(dim=(1, 2)))
    torch.testing.assert_close(eight[:, 2, 0], images[:, 7:11, 0:4].mean(dim=(1, 2)))


def test_draws_are_seeded_nested_and_from_their_own_split(tiny_mnist: Any) -> None:
    before = torch.get_rng_state()
    small, large, again, other = (
        _mnist(tiny_mnist, train_size=n, test_size=3, seed=seed)
        for n, seed in ((3, 1), (6, 1), (6, 1), (6, 2))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(large.tensors()[k], again.tensors()[k]) for k in large.tensors())
    assert torch.equal(large.extras["train_rows"][:3], small.extras["train_rows"])
    assert torch.equal(large.extras["test_rows"], small.extras["test_rows"])
    assert not torch.equal(large.extras["train_rows"], other.extras["train_rows"])
    assert len(set(large.extras["train_rows"].tolist())) == 6
    generator = torch.Generator().manual_seed(derive_seed(1, "mnist", "train"))
    whole = _mnist(tiny_mnist)
    order = torch.randperm(8, generator=generator)[:6]
    assert torch.equal(large.extras["train_rows"], whole.extras["train_rows"][order])
    position = {row: i for i, row in enumerate(whole.extras["train_rows"].tolist())}
    picked = [position[row] for row in large.extras["train_rows"].tolist()]
    assert torch.equal(large.train_inputs, whole.train_inputs[picked])
    assert torch.equal(large.train_targets, whole.train_targets[picked])


def test_noise_is_on_training_labels_only_and_seeded_by_name(tiny_mnist: Any) -> None:
    clean, noisy = _mnist(tiny_mnist), _mnist(tiny_mnist, label_noise=0.25)
    assert torch.equal(noisy.extras["train_clean_targets"], clean.train_targets)
    assert torch.equal(noisy.test_targets, clean.test_targets)
    seed = derive_seed(0, "mnist", "label noise")
    assert torch.equal(noisy.train_targets, flip_labels(clean.train_targets, 0.25, seed))
    assert noisy.card["label_noise"] == {"proportion": 0.25, "seed": seed, "flipped": 2}
    chosen = _mnist(tiny_mnist, label_noise=0.25, noise_seed=9)
    assert torch.equal(chosen.train_targets, flip_labels(clean.train_targets, 0.25, 9))


def test_cifar10_joins_the_batches_in_order(tiny_cifar10: Any) -> None:
    task = _cifar10(tiny_cifar10, classes=None, gray=False, flat=False)
    assert task.train_inputs.shape == (20, 3, 32, 32)
    # Planes are 10 * batch, label, position; labels are 3, 5, batch, 9.
    planes = (task.train_inputs[:, :, 0, 0] * 255).round().int()
    batches = np.repeat(np.arange(1, 6), 4)
    labels = [label for batch in range(1, 6) for label in (3, 5, batch, 9)]
    assert planes[:, 0].tolist() == (10 * batches).tolist()
    assert planes[:, 1].tolist() == task.train_targets.tolist() == labels
    assert planes[:, 2].tolist() == [0, 1, 2, 3] * 5
    assert (task.test_inputs[:, 0] * 255).round().unique().tolist() == [60]
    assert task.test_targets.tolist() == [5, 3, 3, 0, 5, 9]


def test_gray_is_the_luma_of_the_colours(tiny_cifar10: Any) -> None:
    task = _cifar10(tiny_cifar10)  # Cats (3) and dogs (5).
    assert task.train_inputs.shape == (12, 1024)
    assert task.test_targets.tolist() == [1, 0, 0, 1]
    # The dog of batch 4: red 40, green 5, blue 1.
    row = task.extras["train_rows"].tolist().index(13)
    assert float(task.train_targets[row]) == 1
    luma = (0.299 * 40 + 0.587 * 5 + 0.114 * 1) / 255
    torch.testing.assert_close(task.train_inputs[row], torch.full((1024,), luma))


def test_standardising_uses_the_training_images_only(tiny_cifar10: Any) -> None:
    raw = _cifar10(tiny_cifar10, gray=False, flat=False)
    scaled = _cifar10(tiny_cifar10, gray=False, flat=False, standardise=True)
    mean = raw.train_inputs.double().mean(dim=(0, 2, 3), keepdim=True)
    std = raw.train_inputs.double().std(dim=(0, 2, 3), correction=0, keepdim=True)
    for part in ("train_inputs", "test_inputs"):
        expected = (getattr(raw, part).double() - mean) / std
        torch.testing.assert_close(getattr(scaled, part).double(), expected, rtol=1e-5, atol=1e-5)
    assert "standard deviations" in scaled.card["normalisation"]


def test_svhn_reads_colours_and_the_digit_zero(tiny_svhn: Any) -> None:
    task = svhn(seed=0, folder=tiny_svhn.folder, entry=tiny_svhn.entry)
    assert task.train_targets.tolist() == [1, 0, 9, 0]
    assert task.test_targets.tolist() == [0, 2]
    # Pixel (r, c) of channel k of image i is r + 2c + 40k + 17i.
    assert float(task.train_inputs[2, 1, 3, 30]) == pytest.approx((3 + 60 + 40 + 34) / 255)
    assert task.train_inputs.shape == (4, 3, 32, 32)


def test_the_card_is_json_and_tells_the_source_and_the_fidelity(tiny_mnist: Any) -> None:
    task = _mnist(tiny_mnist, label_noise=0.25)
    card = json.loads(json.dumps(task.card))
    assert card["fidelity"] == "original, checksum verified"
    assert [file["path"] for file in card["files"]] == [
        file.forms[0].path for file in tiny_mnist.entry.files
    ]
    assert card["files"][0]["checksum"] == str(tiny_mnist.entry.files[0].forms[0].known[0])
    assert card["train"]["inputs"] == [8, 784]
    assert card["train"]["classes"] == {
        "0": int((task.train_targets == 0).sum()),
        "1": int((task.train_targets == 1).sum()),
    }
    assert card["test"]["classes"] == {"0": 3, "1": 2}
    assert {"source", "licence", "citation", "normalisation", "preprocessing"} <= set(card)
    assert str(tiny_mnist.folder) not in json.dumps(card)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": (3, 3)}, "two or more different classes"),
        ({"classes": (3, "3")}, "two or more different classes"),
        ({"classes": (3,)}, "two or more different classes"),
        ({"classes": (3, 10)}, "0 to 9"),
        ({"classes": ("three", 5)}, "0 to 9"),
        ({"classes": "35"}, "0 to 9"),
        ({"train_size": 0}, "train_size=0"),
        ({"train_size": 9}, "has 8 images of these classes"),
        ({"test_size": 6}, "official test split; test_size=6"),
        ({"size": (0, 8)}, r"from \(1, 1\) to \(28, 28\)"),
        ({"size": (8, 29)}, r"from \(1, 1\) to \(28, 28\)"),
        ({"label_noise": 1.5}, "proportion between 0 and 1"),
        ({"classes": (3, 5, 9), "label_noise": 0.1}, "two classes"),
    ],
)
def test_refuses_what_the_data_cannot_give(
    tiny_mnist: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _mnist(tiny_mnist, **options)
