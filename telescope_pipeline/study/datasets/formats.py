"""Parses the file formats of the image data sets; every inconsistency is an error.

All functions take the verified bytes of a file and its path, which only serves for messages.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescope_core.errors import DataError, MissingDependencyError

Bytes = NDArray[np.uint8]

_IDX_UNSIGNED_BYTE = 0x08
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CLASSES = 10


def parse_idx(data: bytes, path: str) -> Bytes:
    """Parse the idx format of MNIST (unsigned bytes).

    Args:
        data: A header of two zero bytes, the type, the number of dimensions and their big-endian
            sizes, followed by the values.
        path: Where it lies.

    Returns:
        An array with the dimensions of the header.

    Raises:
        DataError: The header is not of this format, or its sizes do not fit the length.
    """
    if len(data) < 4 or data[:3] != bytes((0, 0, _IDX_UNSIGNED_BYTE)):
        raise DataError(f"{path} is not an idx file of unsigned bytes; it starts {data[:4].hex()}")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{path} ends within the header of its {data[3]} dimensions")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    # Exact: sizes from a damaged header may overflow a machine integer.
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path} has {len(data)} bytes; {shape} values need {expected}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def parse_mnist(images: bytes, labels: bytes, path: str) -> tuple[Bytes, Bytes]:
    """Parse one split of MNIST: a file of images and a file of labels.

    Args:
        images: Three dimensions in the idx format.
        labels: One dimension in the idx format.
        path: Where the images lie.

    Returns:
        Images (rows, 1, height, width) and labels (rows,).

    Raises:
        DataError: They are not images (rows, height, width) and labels (rows,) from 0 to 9.
    """
    pixels, digits = parse_idx(images, path), parse_idx(labels, f"the labels of {path}")
    if pixels.ndim != 3 or digits.ndim != 1 or len(pixels) != len(digits):
        raise DataError(
            f"{path} has images {pixels.shape} and labels {digits.shape}; "
            "(rows, height, width) and (rows,) expected"
        )
    _check_labels(digits, path)
    return pixels[:, None], digits


def parse_cifar10(data: bytes, path: str) -> tuple[Bytes, Bytes]:
    """Parse one batch of the binary version of CIFAR-10.

    Args:
        data: Records of one label and 3072 pixels: red, green and blue, each row by row.
        path: Where it lies.

    Returns:
        Images (rows, 3, 32, 32) and labels (rows,).

    Raises:
        DataError: The length is not a whole number of records, or a label is above 9.
    """
    if not data or len(data) % _CIFAR_RECORD:
        raise DataError(
            f"{path} has {len(data)} bytes, not a whole number of records of {_CIFAR_RECORD}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0]
    _check_labels(labels, path)
    return records[:, 1:].reshape(-1, *_CIFAR_SHAPE), labels


def parse_svhn(data: bytes, path: str) -> tuple[Bytes, Bytes]:
    """Parse one file of SVHN's cropped digits (MATLAB 5).

    Args:
        data: The variables X (32, 32, 3, rows) and y (rows, 1), where label 10 means the digit 0.
        path: Where it lies.

    Returns:
        Images (rows, 3, 32, 32) and labels (rows,) from 0 to 9.

    Raises:
        DataError: It is not a MATLAB file, or the variables are not of these shapes.
        MissingDependencyError: SciPy is not installed.
    """
    try:
        from scipy import io as scipy_io
    except ImportError as error:
        raise MissingDependencyError("SVHN needs SciPy: pip install scipy") from error
    try:
        variables: dict[str, Any] = scipy_io.loadmat(io.BytesIO(data), variable_names=["X", "y"])
    # The reader raises whatever a damaged byte leads it to.
    except Exception as error:
        raise DataError(f"{path} is not a readable MATLAB file: {error}") from error
    images, labels = variables.get("X"), variables.get("y")
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise DataError(f"{path} does not hold the variables X and y")
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or labels.size != images.shape[3]:
        raise DataError(
            f"{path} has X {images.shape} and y {labels.shape}; (32, 32, 3, n) and (n, 1) expected"
        )
    if images.dtype != np.uint8:
        raise DataError(f"{path} has X of {images.dtype}; uint8 expected")
    digits = labels.reshape(-1).astype(np.int64)
    if digits.min(initial=1) < 1 or digits.max(initial=1) > _CLASSES:
        raise DataError(f"{path} has labels outside 1 to 10")
    return images.transpose(3, 2, 0, 1), (digits % _CLASSES).astype(np.uint8)


def _check_labels(labels: Bytes, path: str) -> None:
    if labels.size and int(labels.max()) >= _CLASSES:
        raise DataError(f"{path} has the label {int(labels.max())}; 0 to 9 expected")
