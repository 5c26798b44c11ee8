"""Two classes from every source: what is drawn, what the card says, what is refused."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.schemas.sources import BinarySource, ImageSource
from telescope_pipeline.study.datasets import sources as _sources
from telescope_pipeline.study.datasets.sources import draw_binary
from telescope_pipeline.study.sweep import drawn_per_seed

_FOLDER = os.environ.get("TELESCOPE_DATA", "")
_HERE = {
    "digits": True,
    "mnist1d": True,
    "mnist": bool(_FOLDER) and (Path(_FOLDER) / "mnist").is_dir(),
    "cifar10": bool(_FOLDER) and (Path(_FOLDER) / "cifar-10-batches-bin").is_dir(),
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"train_size": 90, "test_size": 40},
    "mnist": {"classes": [3, 5], "train_size": 90, "test_size": 40},
    "cifar10": {"classes": ["cat", "dog"], "train_size": 90, "test_size": 40},
    "mnist1d": {"classes": [0, 1]},
}
_CLASSES = {
    "digits": ["even", "odd"],
    "mnist": ["3", "5"],
    "cifar10": ["cat", "dog"],
    "mnist1d": ["0", "1"],
}


def _section(source: str, **changes: Any) -> Any:
    settings = {"source": source, **_SETTINGS[source], **changes}
    adapter: TypeAdapter[Any] = TypeAdapter(BinarySource)
    return adapter.validate_python(settings)


@pytest.fixture(params=sorted(_SETTINGS))
def source(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not _HERE[name]:
        pytest.skip(f"TELESCOPE_DATA names no folder with {name}")
    return name


@functools.cache
def _drawn(source: str, label_noise: float = 0.2, seed: int = 3) -> Any:
    return draw_binary(_section(source, label_noise=label_noise), seed)


def test_noise_flips_its_share_of_the_training_labels(source: str) -> None:
    noisy = _drawn(source)
    flipped = noisy.train_targets != noisy.extras["train_clean_targets"]
    expected = round(0.2 * len(noisy.train_targets))
    assert int(flipped.sum()) == noisy.card["label_noise"]["flipped"] == expected
    assert noisy.card["label_noise"]["seed"] is not None


def test_inputs_are_vectors_and_labels_zeros_and_ones(source: str) -> None:
    drawn = _drawn(source)
    assert drawn.train_inputs.shape[1] == (40 if source == "mnist1d" else 64)
    for targets in (drawn.train_targets, drawn.test_targets):
        assert targets.dtype == torch.float32
        assert sorted(set(targets.tolist())) == [0.0, 1.0]


def test_the_card_tells_where_the_numbers_come_from(source: str) -> None:
    drawn = _drawn(source)
    card = json.loads(json.dumps(drawn.card, allow_nan=False))
    assert {"source", "licence", "task", "normalisation", "label_noise"} <= set(card)
    assert [card["classes"][label] for label in ("0", "1")] == _CLASSES[source]
    counts = card["train"]["classes"]
    assert counts["1"] == int(drawn.train_targets.sum())
    assert sum(counts.values()) == len(drawn.train_targets)
    assert set(card["sha256"]) == set(drawn.tensors())
    raw = drawn.test_inputs.numpy().astype("<f4").tobytes()
    assert card["sha256"]["test_inputs"] == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", ["digits", "mnist1d"])
def test_noise_changes_labels_alone_and_the_seed_decides_it(name: str) -> None:
    clean, noisy = _drawn(name, 0.0), _drawn(name)
    assert torch.equal(noisy.extras["train_clean_targets"], clean.train_targets)
    assert torch.equal(noisy.train_inputs, clean.train_inputs)
    assert torch.equal(noisy.test_targets, clean.test_targets)
    again = draw_binary(_section(name, label_noise=0.2), 3).tensors()
    assert all(torch.equal(again[key], value) for key, value in noisy.tensors().items())
    assert not torch.equal(_drawn(name, 0.2, 4).train_targets, noisy.train_targets)


def test_every_seed_of_a_case_gets_its_own_draw_and_card() -> None:
    section = _section("digits")
    prepared = drawn_per_seed(
        "digits", 3, lambda drawn_with: draw_binary(section, drawn_with), 5, "case", "data"
    )
    assert list(prepared.files) == list(prepared.card["files"]) == ["seed-0", "seed-1", "seed-2"]
    assert prepared.card["name"] == "digits"
    alone = draw_binary(_section("digits"), derive_seed(5, "case", "data", 2))
    assert torch.equal(prepared.files["seed-2"]["train_rows"], alone.extras["train_rows"])


def test_digits_noise_follows_a_seed_of_its_own() -> None:
    first, second = (draw_binary(_section("digits", label_noise=0.3), seed) for seed in (0, 1))
    assert first.card["label_noise"]["seed"] != second.card["label_noise"]["seed"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (
            "mnist",
            [f"mnist/{part}-ubyte" for part in (
                "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"
            )],
        ),
        (
            "cifar10",
            [f"cifar-10-batches-bin/{part}.bin" for part in (
                "data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5",
                "test_batch",
            )],
        ),
    ],
)  # fmt: skip
def test_damaged_files_are_one_error(
    name: str, files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TELESCOPE_DATA", str(tmp_path))
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"(damaged|not|expected)"):
        draw_binary(_section(name), 0)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"source": "mnist", "classes": [3, 3]}, "classes"),
        ({"source": "mnist", "side": 29}, "side"),
        ({"source": "cifar10", "classes": ["cat", "cow"]}, "classes"),
        ({"source": "cifar10", "side": 33}, "side"),
        ({"source": "mnist1d", "label_noise": 1.5}, "label_noise"),
        ({"source": "mnist1d", "train_size": 10}, "train_size"),
        ({"source": "digits", "train_size": 1000, "test_size": 798}, "digits"),
    ],
)
def test_impossible_sources_are_refused(settings: dict[str, Any], where: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(BinarySource)
    with pytest.raises(ValidationError) as refused:
        adapter.validate_python(settings)
    assert where in str(refused.value.errors()[0]["loc"])


def test_images_only_where_their_number_is_a_parameter() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ImageSource)
    with pytest.raises(ValidationError, match="mnist1d"):
        adapter.validate_python({"source": "mnist1d"})


def test_data_without_a_source_are_of_the_default_one(build: Callable[..., Any]) -> None:
    assert build("double_descent", data={"label_noise": 0.1}).data.source == "mnist1d"
    sizes = {"train_size": 60, "test_size": 40}
    assert build("approximation_quality", data=sizes).data.source == "digits"


def test_sources_are_imported_when_they_are_asked_for() -> None:
    """One source works without the packages that the others need."""
    text = Path(_sources.__file__).read_text()
    top = text.split("def ")[0]
    assert "mnist1d import" not in top
    assert "images import" not in top
