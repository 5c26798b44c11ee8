"""File formats are read byte for byte, and what is not one is refused."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import io as scipy_io

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.formats import (
    parse_cifar10,
    parse_idx,
    parse_mnist,
    parse_svhn,
)

# Two images of 2x3 pixels, written out by hand.
IDX = bytes.fromhex("000008030000000200000002000000030102030405060708090a0bff")


def _idx(values: Any) -> bytes:
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def test_idx_is_read_row_by_row() -> None:
    expected = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 255]]]
    assert parse_idx(IDX, "x").tolist() == expected
    assert parse_idx(bytes.fromhex("0000080100000003030509"), "x").tolist() == [3, 5, 9]


@given(st.integers(0, len(IDX) - 1))
def test_a_shortened_idx_file_is_refused(length: int) -> None:
    with pytest.raises(DataError):
        parse_idx(IDX[:length], "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IDX + b"\0", "29 bytes"),
        (b"\0\0\x0d\x01" + IDX[4:], "not an idx file of unsigned bytes"),
        (b"\x1f\x8b\x08\x00" + IDX[4:], "not an idx file of unsigned bytes"),
        (struct.pack(">4B4I", 0, 0, 8, 4, *[65535] * 4), "need 18445618199572250645"),
    ],
)
def test_other_idx_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(data, "x")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 2, 2)), np.zeros(2)),
        (np.zeros((3, 4)), np.zeros(3)),
        (np.zeros((2, 2, 2)), np.array([0, 10])),
    ],
)
def test_images_and_labels_must_belong_together(images: Any, labels: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        parse_mnist(_idx(images), _idx(labels), "x")


def test_cifar_records_are_label_then_red_green_blue_rows() -> None:
    red = bytes(range(256)) * 4
    green = bytes(1024)
    blue = bytes([7]) * 1024
    images, labels = parse_cifar10(bytes([9]) + red + green + blue + bytes(3073), "x")
    assert labels.tolist() == [9, 0]
    assert images.shape == (2, 3, 32, 32)
    assert images[0, 0, 0].tolist() == list(range(32))
    assert images[0, 0, 8, 0] == 0
    assert images[0, 0, 31, 31] == 255
    assert not images[0, 1].any()
    assert (images[0, 2] == 7).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (bytes(3072), "not a whole number of records"),
        (bytes(3074), "not a whole number of records"),
        (bytes([10]) + bytes(3072), "label 10; 0 to 9 expected"),
    ],
)
def test_other_cifar_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_cifar10(data, "x")


def _mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, variables)
    return buffer.getvalue()


def test_svhn_axes_and_the_label_ten() -> None:
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[4, 9, 2, 1] = 200  # Row 4, column 9, blue, second image.
    images, labels = parse_svhn(_mat(X=x, y=np.array([[10], [9]])), "x")
    assert images.shape == (2, 3, 32, 32)
    assert images[1, 2, 4, 9] == 200
    assert int(images.sum(dtype=np.int64)) == 200
    assert labels.tolist() == [0, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not matlab at all", "not a readable MATLAB file"),
        (_mat(Z=np.zeros(3)), "does not hold the variables X and y"),
        (_mat(X=np.zeros((2, 32, 32, 3), np.uint8), y=np.ones((2, 1))), r"\(32, 32, 3, n\)"),
        (_mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.ones((3, 1))), r"\(32, 32, 3, n\)"),
        (_mat(X=np.zeros((32, 32, 3, 2)), y=np.ones((2, 1))), "uint8 expected"),
        (_mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.zeros((2, 1))), "outside 1 to 10"),
        (_mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.full((2, 1), 11)), "outside 1 to 10"),
    ],
)
def test_other_mat_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_svhn(data, "x")


def test_a_shortened_mat_file_is_refused() -> None:
    data = _mat(X=np.ones((32, 32, 3, 2), np.uint8), y=np.ones((2, 1)))
    for length in range(0, len(data) - 8, 517):
        with pytest.raises(DataError):
            parse_svhn(data[:length], "x")
