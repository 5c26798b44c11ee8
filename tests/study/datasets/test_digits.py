"""The digits are split without overlap and labelled by parity."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn import datasets

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.digits import load_digits


def test_split_is_disjoint_and_covers_what_was_asked() -> None:
    split = load_digits(train_size=1000, test_size=797, seed=0)
    train, test = split.extras["train_rows"], split.extras["test_rows"]
    assert len(train) == 1000
    assert len(test) == 797
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))


def test_pixels_and_parity_come_from_the_stated_rows() -> None:
    split = load_digits(train_size=300, test_size=200, seed=4)
    pixels, labels = datasets.load_digits(return_X_y=True)
    rows = split.extras["train_rows"]
    expected = torch.from_numpy(pixels).float()[rows] / 16
    assert torch.equal(split.train_inputs, expected)
    assert split.train_targets.tolist() == [float(labels[row] % 2) for row in rows.tolist()]
    assert float(split.train_inputs.min()) == 0.0
    assert float(split.train_inputs.max()) == 1.0


def test_seed_decides_the_split_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_digits(100, 100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert not torch.equal(first.train_inputs, other.train_inputs)
    assert torch.equal(before, torch.get_rng_state())


def test_card_counts_the_classes() -> None:
    split = load_digits(100, 50, seed=1)
    card = json.loads(json.dumps(split.card))
    assert card["train"]["classes"]["1"] == int(split.train_targets.sum())
    assert sum(card["test"]["classes"].values()) == 50
    assert card["label_noise"]["flipped"] == 0


@pytest.mark.parametrize("sizes", [(0, 10), (10, 0), (1000, 798)])
def test_refuses_sizes_beyond_the_data_set(sizes: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="1797 images"):
        load_digits(*sizes, seed=0)


def test_noise_flips_training_labels_and_keeps_the_clean_ones() -> None:
    clean, noisy = load_digits(100, 50, 1), load_digits(100, 50, 1, 0.15, noise_seed=7)
    assert torch.equal(noisy.extras["train_clean_targets"], clean.train_targets)
    assert int((noisy.train_targets != clean.train_targets).sum()) == 15
    assert torch.equal(noisy.test_targets, clean.test_targets)
    assert noisy.card["label_noise"] == {"proportion": 0.15, "seed": 7, "flipped": 15}
    other = load_digits(100, 50, 1, 0.15, noise_seed=8)
    assert not torch.equal(noisy.train_targets, other.train_targets)
