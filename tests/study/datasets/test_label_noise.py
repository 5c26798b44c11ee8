"""Label noise changes exactly the stated part of the labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.label_noise import flip_labels, relabel


@given(
    n=st.integers(1, 300),
    proportion=st.floats(0, 1),
    seed=st.integers(0, 2**62),
)
def test_flips_exactly_the_rounded_proportion(n: int, proportion: float, seed: int) -> None:
    labels = torch.arange(n) % 2
    noisy = flip_labels(labels, proportion, seed)
    assert int((noisy != labels).sum()) == round(proportion * n)
    assert set(noisy.tolist()) <= {0, 1}


def test_keeps_dtype_and_leaves_the_input_alone() -> None:
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    noisy = flip_labels(labels, 1.0, seed=0)
    assert noisy.dtype == labels.dtype
    assert labels.tolist() == [0, 1, 1, 0]
    assert noisy.tolist() == [1, 0, 0, 1]


def test_seed_decides_which_labels_flip_and_the_global_generator_stays() -> None:
    labels = torch.zeros(200)
    before = torch.get_rng_state()
    first, again, other = (flip_labels(labels, 0.3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_flips_are_spread_over_the_whole_vector() -> None:
    flips = sum(flip_labels(torch.zeros(100), 0.2, seed) for seed in range(400))
    assert isinstance(flips, torch.Tensor)
    # Binomial(400, .2) per position: mean 80, standard deviation 8; five of them either way.
    assert 40 < float(flips.min()) < float(flips.max()) < 120


@pytest.mark.parametrize("proportion", [-0.1, 1.1, float("nan")])
def test_refuses_what_is_not_a_proportion(proportion: float) -> None:
    with pytest.raises(DataError, match="proportion between 0 and 1"):
        flip_labels(torch.zeros(4), proportion, 0)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2]), torch.zeros(2, 2)])
def test_refuses_labels_that_are_not_binary(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="vector of labels 0 and 1"):
        flip_labels(labels, 0.5, 0)


@given(
    n=st.integers(1, 200),
    classes=st.integers(2, 12),
    proportion=st.floats(0, 1),
    seed=st.integers(0, 2**62),
)
def test_relabels_exactly_the_rounded_proportion(
    n: int, classes: int, proportion: float, seed: int
) -> None:
    labels = torch.arange(n) % classes
    noisy = relabel(labels, proportion, classes, seed)
    assert noisy.dtype == torch.int64
    assert int((noisy != labels).sum()) == round(proportion * n)
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < classes


def test_more_noise_contains_less_and_the_global_generator_stays() -> None:
    labels, before = torch.arange(300) % 10, torch.get_rng_state()
    little, much = (relabel(labels, part, 10, seed=4) for part in (0.1, 0.4))
    changed = little != labels
    assert torch.equal(much[changed], little[changed])
    assert torch.equal(labels, torch.arange(300) % 10)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(little, relabel(labels, 0.1, 10, seed=5))


def test_new_classes_are_uniform_over_the_others() -> None:
    noisy = relabel(torch.full((6000,), 2), 1.0, 4, seed=0)
    counts = torch.bincount(noisy, minlength=4).tolist()
    assert counts[2] == 0
    # Binomial(6000, 1/3): mean 2000, standard deviation 37; five of them either way.
    assert all(abs(counts[label] - 2000) < 185 for label in (0, 1, 3))


@pytest.mark.parametrize(
    ("labels", "proportion", "classes", "message"),
    [
        (torch.zeros(4).long(), 1.5, 3, "proportion between 0 and 1"),
        (torch.zeros(4).long(), 0.5, 1, "at least 2 classes"),
        (torch.tensor([0, 3]), 0.5, 3, "class indices below 3"),
        (torch.zeros(2, 2).long(), 0.5, 3, "class indices below 3"),
    ],
)
def test_relabel_refuses_what_it_cannot_change(
    labels: torch.Tensor, proportion: float, classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        relabel(labels, proportion, classes, 0)
