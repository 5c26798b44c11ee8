"""Tables are split as described, irregular rows stay out of training, mixtures are exact."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from telescope_core.errors import DataError
from telescope_pipeline.cases.boosting_vs_networks import data
from telescope_pipeline.cases.boosting_vs_networks.data import (
    irregular_rows,
    irregularity,
    skewness,
    standardize,
    unskew,
)
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.cases.boosting_vs_networks.sweep import set_name
from telescope_pipeline.cases.boosting_vs_networks.training.mixtures import Mixtures
from telescope_pipeline.study.datasets import files, pack
from telescope_pipeline.study.datasets.tabular import Table

needs_folder = pytest.mark.skipif(
    not (Path(os.environ.get("TELESCOPE_DATA", "/nowhere")) / "tabular").is_dir(),
    reason="TELESCOPE_DATA does not name a folder with tabular/",
)


def _case(seeds: int = 2, **settings: Any) -> BoostingVsNetworksCase:
    sizes = {"train_size": 120, "validation_size": 40, "test_size": 30}
    return BoostingVsNetworksCase.model_validate(
        {
            "kind": "boosting_vs_networks",
            "seeds": seeds,
            "data": {"tables": ["diamonds"], **sizes, **settings},
            "model": {"hidden": [4]},
            "training": {
                "draws": 1,
                "network": {"epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd"}},
                "trees": {},
            },
            "lens": {"stride": 2},
            "claims": {},
            "plot": {},
        }
    )


def _made_up(rows: int = 400) -> Table:
    draws = np.random.default_rng(5)
    size = draws.normal(size=rows)
    features = pd.DataFrame(
        {
            "row": np.arange(rows, dtype=float),
            "small": 1e-3 * (size + 0.1 * draws.normal(size=rows)),
            "large": 1e3 * (size + 0.1 * draws.normal(size=rows)),
            "skewed": np.exp(2 * size),
        }
    )
    target = pd.Series(40 + 7 * size + draws.normal(size=rows))
    return Table(features, target, {"name": "made up", "files": []})


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Table:
    table = _made_up()
    monkeypatch.setattr(data, "load_table", lambda name: table)
    return table


def test_skewness_is_that_of_the_sample() -> None:
    features = np.random.default_rng(0).lognormal(size=(200, 3))
    np.testing.assert_allclose(skewness(features), stats.skew(features), rtol=1e-12)
    assert skewness(np.ones((5, 1))).tolist() == [0.0]


def test_only_skewed_features_become_logarithms() -> None:
    draws = np.random.default_rng(0)
    features = np.column_stack([draws.normal(size=500), draws.lognormal(size=500)])
    features[:, 1] *= -1
    transformed, skewed = unskew(features, 1.0)
    assert skewed.tolist() == [False, True]
    np.testing.assert_array_equal(transformed[:, 0], features[:, 0])
    np.testing.assert_allclose(transformed[:, 1], -np.log1p(-features[:, 1]))


def test_irregular_rows_are_far_out_along_the_main_direction() -> None:
    draws = np.random.default_rng(1)
    common = draws.normal(size=300)
    features = np.column_stack([common + 0.2 * draws.normal(size=300) for _ in range(4)])
    # Far out along a direction of little variance: not what counts.
    features[10] += [4, -4, 0, 0]
    far = np.arange(20)
    features[far] = np.where(far % 2, 6.0, -6.0)[:, None] + features[far]
    flags = irregular_rows(irregularity(standardize(features)), 20 / 300)
    assert np.flatnonzero(flags).tolist() == far.tolist()
    scaled = features * [1.0, 1e3, 1e-3, 7.0] + 5
    again = irregular_rows(irregularity(standardize(scaled)), 20 / 300)
    np.testing.assert_array_equal(flags, again)


def test_a_constant_feature_is_refused() -> None:
    with pytest.raises(DataError, match="feature 1 of the table is constant"):
        standardize(np.column_stack([np.arange(5.0), np.ones(5)]))


def test_irregular_rows_stay_out_of_training_and_parts_are_disjoint(made_up: Table) -> None:
    case = _case()
    prepared = data.prepare(case, 0)
    json.dumps(prepared.card, allow_nan=False)
    assert set(prepared.files) == {"diamonds_seed-0", "diamonds_seed-1"}
    raw = made_up.features.to_numpy()
    standardized = standardize(unskew(raw, case.data.skewness)[0])
    flags = irregular_rows(irregularity(standardized), case.data.irregular)
    assert flags.sum() == 40
    for tensors in prepared.files.values():
        seen: list[int] = []
        for part in ("train", "validation", "regular", "irregular"):
            inputs = tensors[f"{part}_inputs"].double().numpy()
            numbers = np.rint(inputs[:, 0] * raw[:, 0].std() + raw[:, 0].mean()).astype(int)
            np.testing.assert_allclose(inputs, standardized[numbers], rtol=1e-4, atol=1e-5)
            assert set(flags[numbers]) == {part == "irregular"}
            seen += numbers.tolist()
        assert len(seen) == len(set(seen)) == 120 + 40 + 30 + 30


def test_targets_have_variance_one_over_the_training_rows(made_up: Table) -> None:
    tensors = data.prepare(_case(), 0).files["diamonds_seed-1"]
    assert float(tensors["train_targets"].mean()) == pytest.approx(0, abs=1e-6)
    assert float(tensors["train_targets"].std(correction=0)) == pytest.approx(1, abs=1e-6)
    # The same map for every part: differences keep the ratio they had in the table.
    scale = float(tensors["irregular_targets"].std())
    assert scale > 1.2


def test_splits_follow_the_seed_of_the_run(made_up: Table) -> None:
    first, again, other = (data.prepare(_case(), seed).files for seed in (0, 0, 1))
    for stem, tensors in first.items():
        assert all(torch.equal(tensors[name], again[stem][name]) for name in tensors)
        assert not torch.equal(tensors["train_inputs"], other[stem]["train_inputs"])
    alone = data.prepare(_case(seeds=1), 0).files
    assert torch.equal(
        alone["diamonds_seed-0"]["train_inputs"], first["diamonds_seed-0"]["train_inputs"]
    )
    assert not torch.equal(
        first["diamonds_seed-0"]["train_inputs"], first["diamonds_seed-1"]["train_inputs"]
    )


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"test_size": 41}, "40 irregular rows, the case asks for 41"),
        ({"train_size": 300}, "360 regular rows, the case asks for 370"),
    ],
)
def test_a_table_that_is_too_small_is_refused(
    made_up: Table, sizes: dict[str, int], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        data.prepare(_case(**sizes), 0)


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("proportions", [[0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.1, 0.33], [0.0, 1.0]])
def test_every_set_is_a_union_of_segments(size: int, proportions: list[float]) -> None:
    mixtures = Mixtures(proportions, size)
    pools = {"regular": torch.arange(size), "irregular": 100 + torch.arange(size)}
    mixed = mixtures.mixed(pools)
    assert list(mixed) == mixtures.names
    segments = mixtures.segments()
    every = torch.cat([pools[s.pool][s.start : s.stop] for s in segments])
    assert sorted(every.tolist()) == [*range(size), *range(100, 100 + size)]
    assert len({segment.name for segment in segments}) == len(segments)
    for proportion in proportions:
        rows = mixed[set_name(proportion)]
        assert len(rows) == size
        assert int((rows >= 100).sum()) == round(proportion * size)
        inside = [pools[s.pool][s.start : s.stop] for s in mixtures.inside(proportion)]
        assert sorted(torch.cat(inside).tolist()) == sorted(rows.tolist())


def test_a_table_is_the_same_from_the_package_and_from_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TELESCOPE_DATA", raising=False)
    monkeypatch.setenv("TELESCOPE_CACHE", str(tmp_path / "none"))
    shipped = data.load_table("diamonds")
    (tmp_path / "tabular").mkdir()
    packed = (files.SHIPPED / "tabular" / "diamonds.csv.xz").read_bytes()
    plain = tmp_path / "tabular" / "diamonds.csv"
    plain.write_bytes(lzma.decompress(packed))
    monkeypatch.setenv("TELESCOPE_DATA", str(tmp_path))
    from_folder = data.load_table("diamonds")
    pd.testing.assert_frame_equal(from_folder.features, shipped.features)
    np.testing.assert_array_equal(from_folder.target, shipped.target)
    assert from_folder.card == shipped.card
    # A damaged file of the user's is an error, and no reason to take the one that is shipped.
    plain.write_text("carat,price\n1,2\n")
    with pytest.raises(DataError, match=r"diamonds\.csv"):
        data.load_table("diamonds")


def test_what_is_shipped_is_packed_from_the_published_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tabular").mkdir()
    packed = (files.SHIPPED / "tabular" / "diamonds.csv.xz").read_bytes()
    (tmp_path / "tabular" / "diamonds.csv").write_bytes(lzma.decompress(packed))
    monkeypatch.setenv("TELESCOPE_DATA", str(tmp_path))
    (written,) = pack.pack(tmp_path / "again")
    assert lzma.decompress(written.read_bytes()) == lzma.decompress(packed)


@needs_folder
@pytest.mark.parametrize("name", ["california", "houses", "house_sales"])
def test_real_tables_are_prepared(name: str) -> None:
    case = _case(seeds=1, tables=[name], train_size=2000, test_size=2000)
    prepared = data.prepare(case, 0)
    (tensors,) = prepared.files.values()
    assert len(tensors["irregular_inputs"]) == 2000
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert prepared.card["files"][f"{name}_seed-0"]["log_transformed"]
