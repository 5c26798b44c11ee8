"""Positions of rows travel with them and are taken out again."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from telescope_core.callbacks import IndexedDataset
from telescope_core.errors import ConfigurationError
from telescope_core.network.indexed import INDEX_KEY, take_index

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10)
ROWS = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [TensorDataset(X, Y), ROWS], ids=["tuples", "mappings"])
def test_a_batch_is_as_before_and_its_positions_are_right(rows, workers):
    plain = DataLoader(rows, batch_size=3, generator=torch.Generator().manual_seed(0), shuffle=True)
    loader = DataLoader(
        IndexedDataset(rows),
        batch_size=3,
        generator=torch.Generator().manual_seed(0),
        shuffle=True,
        num_workers=workers,
    )
    for expected, batch in zip(plain, loader, strict=True):
        index = take_index(batch)
        assert index.dtype == torch.int64
        x, y = batch.values() if isinstance(batch, dict) else batch
        expected_x, _ = expected.values() if isinstance(expected, dict) else expected
        assert type(batch) is type(expected)
        assert torch.equal(x, expected_x)
        assert torch.equal(x, X[index])
        assert torch.equal(y, Y[index])


def test_positions_are_those_of_the_wrapped_set():
    subset = Subset(TensorDataset(X, Y), [7, 3, 5])
    assert [row[-1][INDEX_KEY] for row in DataLoader(IndexedDataset(subset), batch_size=None)] == [
        0,
        1,
        2,
    ]
    inner = Subset(IndexedDataset(TensorDataset(X, Y)), [7, 3, 5])
    assert take_index(default_collate([inner[0], inner[2]])).tolist() == [7, 5]


Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([X, Y], "does not say which training rows"),
        ({"x": X}, "does not say which training rows"),
        (X, r"a batch \(Tensor\) does not say"),
        ([], "does not say"),
        ((X, Y, {INDEX_KEY: Y}), "is a tuple, from which"),
        (Pair(X, {INDEX_KEY: Y}), "is a Pair, from which"),
    ],
)
def test_batches_without_positions_are_refused(batch, message):
    with pytest.raises(ConfigurationError, match=message):
        take_index(batch)


def test_rows_that_cannot_carry_a_position_are_refused():
    with pytest.raises(ConfigurationError, match="a row of the dataset is a Tensor"):
        IndexedDataset(X)[0]
