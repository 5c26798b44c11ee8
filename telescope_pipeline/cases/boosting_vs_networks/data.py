"""Tables, their irregular rows kept out of training, and fresh splits for every seed.

What counts as irregular follows Section 4.2 and the Appendix of the paper, which leave open when a
feature counts as skewed, and over which rows scales and the principal component are computed. Here
a feature is skewed when the absolute value of its sample skewness exceeds a threshold, and all of
these are computed over the whole table; labels play no part in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase, TabularData
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.tabular import Table, table
from telescope_pipeline.study.sweep import seed_stem

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def prepare(case: BoostingVsNetworksCase, seed: int) -> Prepared:
    """Transform every table once and split it anew for every seed.

    Returns:
        One file per table and seed with the inputs (rows, d) and targets (rows,) of ``train``,
        ``validation``, ``regular`` and ``irregular``; the last two are what test sets are mixed
        from, ``test_size`` rows each.

    Raises:
        DataError: A table cannot be read, or is too small for the split.
    """
    files: dict[str, dict[str, Tensor]] = {}
    cards: dict[str, Any] = {}
    for name in case.data.tables:
        loaded = load_table(name)
        transformed, flags, card = _transform(loaded, case.data)
        target = loaded.target.to_numpy(dtype=np.float64)
        for replicate in range(case.seeds):
            split_seed = derive_seed(seed, "boosting_vs_networks", "split", name, replicate)
            rows = _split(name, flags, case.data, split_seed)
            mean, scale = float(target[rows["train"]].mean()), float(target[rows["train"]].std())
            if scale == 0:
                raise DataError(f"{name}: the targets of the training rows are all the same")
            tensors: dict[str, Tensor] = {}
            for part, index in rows.items():
                tensors[f"{part}_inputs"] = _float32(transformed[index])
                tensors[f"{part}_targets"] = _float32((target[index] - mean) / scale)
            stem = seed_stem(replicate, name)
            files[stem] = tensors
            cards[stem] = card | {
                "split_seed": split_seed,
                "target_mean": round(mean, 6),
                "target_scale": round(scale, 6),
                "rows_of": {part: len(index) for part, index in rows.items()},
            }
    return Prepared(files, {"name": "tables", "files": cards})


def _transform(loaded: Table, settings: TabularData) -> tuple[Floats, Flags, dict[str, Any]]:
    raw = loaded.features.to_numpy(dtype=np.float64)
    unskewed, skewed = unskew(raw, settings.skewness)
    standardized = standardize(unskewed)
    flags = irregular_rows(irregularity(standardized), settings.irregular)
    names = [str(name) for name in loaded.features.columns]
    card = loaded.card | {
        "normalisation": "log transform of skewed features, then mean 0 and deviation 1 of each",
        "log_transformed": [name for name, log in zip(names, skewed, strict=True) if log],
        "irregular_rows": int(flags.sum()),
    }
    return standardized, flags, card


def _split(name: str, flags: Flags, settings: TabularData, seed: int) -> dict[str, Any]:
    """Positions of the rows of each part, drawn without replacement."""
    sizes = {
        "train": settings.train_size,
        "validation": settings.validation_size,
        "regular": settings.test_size,
    }
    have = {"regular": int((~flags).sum()), "irregular": int(flags.sum())}
    need = {"regular": sum(sizes.values()), "irregular": settings.test_size}
    for what, rows in need.items():
        if rows > have[what]:
            raise DataError(
                f"{name} has {have[what]} {what} rows, the case asks for {rows}; lower test_size"
                + (" or raise irregular" if what == "irregular" else " or train_size")
            )
    draws = np.random.default_rng(seed)
    regular = draws.permutation(np.flatnonzero(~flags))
    ends = np.cumsum(list(sizes.values()))
    parts = dict(zip(sizes, np.split(regular, ends)[:-1], strict=True))
    irregular = draws.permutation(np.flatnonzero(flags))[: settings.test_size]
    return parts | {"irregular": irregular}


def _float32(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def skewness(features: Floats) -> Floats:
    """Third standardised moment of every column, 0 for a constant one.

    Args:
        features: (rows, d).

    Returns:
        (d,).
    """
    centred = features - features.mean(axis=0)
    spread = np.sqrt(np.square(centred).mean(axis=0))
    third = (centred**3).mean(axis=0)
    return np.asarray(np.divide(third, spread**3, out=np.zeros_like(spread), where=spread > 0))


def unskew(features: Floats, threshold: float) -> tuple[Floats, Flags]:
    """Log-transform skewed columns: ``sign(x) · log(1 + |x|)``, which takes zeros and signs.

    Args:
        features: (rows, d).
        threshold: A column of larger absolute skewness is transformed.

    Returns:
        The columns and, for each, whether it was transformed.
    """
    skewed = np.abs(skewness(features)) > threshold
    logs = np.sign(features) * np.log1p(np.abs(features))
    return np.where(skewed, logs, features), skewed


def standardize(features: Floats) -> Floats:
    """Give every column mean 0 and standard deviation 1.

    Args:
        features: (rows, d).

    Returns:
        (rows, d).

    Raises:
        DataError: A column is constant.
    """
    spread = features.std(axis=0)
    constant = np.flatnonzero(spread == 0)
    if len(constant):
        raise DataError(
            f"feature {constant[0]} of the table is constant; drop it, it cannot be standardised"
        )
    return np.asarray((features - features.mean(axis=0)) / spread)


def irregularity(standardized: Floats) -> Floats:
    """Absolute distance of the first principal component's scores to their median.

    Args:
        standardized: (rows, d), columns of mean 0.

    Returns:
        (rows,).
    """
    _, directions = np.linalg.eigh(standardized.T @ standardized)
    scores = standardized @ directions[:, -1]
    return np.asarray(np.abs(scores - np.median(scores)))


def irregular_rows(distances: Floats, part: float) -> Flags:
    """The given part of the rows, those with the largest distances; ties go to earlier rows.

    Args:
        distances: (rows,), from :func:`irregularity`.
        part: Between 0 and 1.

    Returns:
        (rows,), whether a row is irregular.
    """
    flags = np.zeros(len(distances), dtype=np.bool_)
    flags[np.argsort(-distances, kind="stable")[: round(part * len(distances))]] = True
    return flags


def load_table(name: str) -> Table:
    """Load a table with the target of the tabular benchmark.

    Its checksum is verified wherever it lies, plain or packed, and the card is the same.

    Args:
        name: ``houses``, ``superconduct``, ``california``, ``house_sales`` or ``diamonds``.

    Returns:
        The table.

    Raises:
        DataError: The file is missing or is not the registered one.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    loaded = table(name, target="benchmark")
    place = {"path", "checksum_of"}
    files = [
        {key: value for key, value in file.items() if key not in place} | {"checksum_of": "file"}
        for file in loaded.card["files"]
    ]
    return replace(loaded, card=loaded.card | {"files": files})
