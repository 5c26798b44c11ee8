"""Tables, their irregular rows kept out of training, and fresh splits for every seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.boosting_vs_networks.irregularity import (
    Flags,
    Floats,
    irregular_rows,
    irregularity,
    standardize,
    unskew,
)
from telescope_pipeline.cases.boosting_vs_networks.names import file_stem
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase, TabularData
from telescope_pipeline.cases.boosting_vs_networks.source import load_table
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.tables import Table


def prepare(case: BoostingVsNetworksCase, seed: int) -> Prepared:
    """Transform every table once and split it anew for every seed.

    Args:
        case: The case's parameters.
        seed: The run's seed.

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
            stem = file_stem(name, replicate)
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
