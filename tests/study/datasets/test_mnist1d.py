"""MNIST-1D is generated offline, the same every time, with noise on training labels only."""

from __future__ import annotations

import json
import random
import socket

import numpy as np
import pytest
import torch

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets import mnist1d, mnist1d_signals
from telescope_pipeline.study.datasets.mnist1d import generate_mnist1d


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the data set must be generated without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_same_signals_every_time_and_fresh_noise_by_seed() -> None:
    first = generate_mnist1d((0, 1), 0.15, noise_seed=1)
    mnist1d._generate.cache_clear()
    again = generate_mnist1d((0, 1), 0.15, noise_seed=1)
    other = generate_mnist1d((0, 1), 0.15, noise_seed=2)
    assert all(torch.equal(first.tensors()[k], again.tensors()[k]) for k in first.tensors())
    assert torch.equal(first.train_inputs, other.train_inputs)
    assert torch.equal(first.test_targets, other.test_targets)
    assert not torch.equal(first.train_targets, other.train_targets)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_signals_are_those_of_the_package() -> None:
    package = pytest.importorskip("mnist1d.data", reason="compared with the package mnist1d")
    state = random.getstate(), np.random.get_state()
    expected = package.make_dataset(package.get_dataset_args())
    random.setstate(state[0])
    np.random.set_state(state[1])
    assert package.get_dataset_args().seed == mnist1d_signals.SEED
    drawn = mnist1d_signals.signals()
    np.testing.assert_array_equal(drawn.train, expected["x"])
    np.testing.assert_array_equal(drawn.test, expected["x_test"])
    np.testing.assert_array_equal(drawn.train_digits, expected["y"])
    np.testing.assert_array_equal(drawn.test_digits, expected["y_test"])


def test_noise_is_exact_and_on_training_labels_only() -> None:
    clean = generate_mnist1d((0, 1), 0.0, noise_seed=1)
    noisy = generate_mnist1d((0, 1), 0.15, noise_seed=1)
    flipped = int((noisy.train_targets != clean.train_targets).sum())
    assert flipped == round(0.15 * len(clean.train_targets)) == noisy.card["label_noise"]["flipped"]
    assert torch.equal(noisy.test_targets, clean.test_targets)
    assert torch.equal(noisy.extras["train_clean_targets"], clean.train_targets)


def test_classes_are_selected_and_become_zero_and_one() -> None:
    pair = generate_mnist1d((3, 7), 0.0, noise_seed=0)
    swapped = generate_mnist1d((7, 3), 0.0, noise_seed=0)
    assert torch.equal(pair.train_inputs, swapped.train_inputs)
    assert torch.equal(pair.train_targets, 1 - swapped.train_targets)
    # 5000 signals in ten equal classes, 4000 of them for training, in random order.
    assert len(pair.train_targets) + len(pair.test_targets) == 1000
    assert pair.train_inputs.shape[1] == 40
    assert set(pair.train_targets.tolist()) == {0.0, 1.0}
    assert float(pair.train_targets.sum() + pair.test_targets.sum()) == 500


def test_labels_belong_to_their_signals() -> None:
    """A nearest-neighbour rule does far better than chance on the clean labels."""
    data = generate_mnist1d((0, 1), 0.0, noise_seed=0)
    nearest = torch.cdist(data.test_inputs, data.train_inputs).argmin(dim=1)
    hits = (data.train_targets[nearest] == data.test_targets).double().mean()
    assert float(hits) > 0.7


def test_global_generators_are_left_alone() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    mnist1d._generate.cache_clear()
    generate_mnist1d((0, 1), 0.15, noise_seed=1)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected


def test_card_describes_the_tensors() -> None:
    data = generate_mnist1d((0, 1), 0.15, noise_seed=9)
    card = json.loads(json.dumps(data.card))
    assert card["train"]["inputs"] == list(data.train_inputs.shape)
    assert card["train"]["classes"] == {
        "0": int((data.train_targets == 0).sum()),
        "1": int((data.train_targets == 1).sum()),
    }
    assert card["label_noise"] == {"proportion": 0.15, "seed": 9, "flipped": 119}
    assert card["licence"] == "Apache-2.0"
    assert {tensor.dtype for tensor in data.tensors().values()} == {torch.float32}


@pytest.mark.parametrize("classes", [(0, 0), (0, 10), (-1, 3)])
def test_refuses_classes_that_are_not_two_digits(classes: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="two different classes"):
        generate_mnist1d(classes, 0.1, noise_seed=0)


def test_refuses_a_proportion_above_one() -> None:
    with pytest.raises(DataError, match=r"proportion between 0 and 1, got 1\.5"):
        generate_mnist1d((0, 1), 1.5, noise_seed=0)
