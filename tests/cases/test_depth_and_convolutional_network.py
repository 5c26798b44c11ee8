"""Data and training of the cases on depth and on the convolutional network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.convolutional_network import data as images
from telescope_pipeline.cases.convolutional_network import sweep as levels
from telescope_pipeline.cases.convolutional_network.training import train as convolutional
from telescope_pipeline.cases.depth import sweep as depths
from telescope_pipeline.contract import TrainingJob
from telescope_pipeline.study.networks.convolutional import ConvolutionalNetwork
from telescope_pipeline.study.training.loop import Batches

_Trained = Callable[[str], tuple[Any, pd.DataFrame]]


def test_both_architectures_of_a_seed_train_on_the_same_split(build: Callable[..., Any]) -> None:
    members = depths.members(build("depth"))
    assert [member.values["depth"] for member in members] == [5] * 4 + [2] * 4
    assert {(member.seed, member.data) for member in members} == {(0, "seed-0"), (1, "seed-1")}


def test_both_orders_watch_one_run(trained: _Trained) -> None:
    """Inside the first block first order is the lazy linearisation; second order never is."""
    _, history = trained("depth")
    first = history[(history["step"] > 0) & (history["step"] <= 5)]
    lazy = first["test/linearization_error"].to_numpy()
    assert first["test/approximation_error@order1"].to_numpy() == pytest.approx(lazy, rel=1e-3)
    assert (first["test/approximation_error@order2"].to_numpy() < lazy).all()


def test_levels_of_noise_share_images_and_the_test_labels_stay_clean(
    build: Callable[..., Any], prepared: Callable[[str], Any]
) -> None:
    files = prepared("convolutional_network").files
    for seed in (0, 1):
        clean, noisy = (files[f"label-noise-{level}_seed-{seed}"] for level in (0.0, 0.25))
        for name in ("train_inputs", "test_inputs", "test_targets", "train_clean_targets"):
            assert torch.equal(clean[name], noisy[name])
        assert torch.equal(clean["train_targets"], clean["train_clean_targets"])
        assert int((noisy["train_targets"] != clean["train_targets"]).sum()) == 10
    assert clean["train_inputs"].shape == (40, 1, 8, 8)


def test_digits_keep_their_own_labels(build: Callable[..., Any]) -> None:
    """Every image is found in scikit-learn's table, under the label it was given."""
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    (file, *_) = images.prepare(build("convolutional_network", seeds=1), 0).files.values()
    for name in ("train", "test"):
        for image, label in zip(file[f"{name}_inputs"], file[f"{name}_targets"], strict=True):
            (row,) = (abs(pixels - 16 * image.flatten().numpy()).max(axis=1) < 1e-3).nonzero()
            assert int(label) in labels[row]


def test_the_loop_descends_cross_entropy(
    build: Callable[..., Any], prepared: Callable[[str], Any], train: Callable[..., Any]
) -> None:
    """The same run written as plain PyTorch ends at the same weights, bit for bit."""
    case = build("convolutional_network")
    member = levels.members(case)[-1]
    result = train("convolutional_network", case, member)
    data = prepared("convolutional_network").files[member.data]

    def seed_of(purpose: str) -> int:
        return derive_seed(0, "convolutional_network", purpose, member.seed)

    model = ConvolutionalNetwork(1, 8, 10, widths=(2, 3), seed=seed_of("weights"))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    batches = Batches(40, 12, seed_of("batches"))
    for step in range(5 * 4):
        index = batches.at(step)
        optimizer.zero_grad()
        outputs = model(data["train_inputs"][index])
        functional.cross_entropy(outputs, data["train_targets"][index]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, result.final[name])
    with torch.no_grad():
        loss = functional.cross_entropy(model(data["test_inputs"]), data["test_targets"])
    assert result.history["test/loss"].iloc[-1] == pytest.approx(float(loss), rel=1e-5)


def test_quantities_start_at_zero_and_are_measured_after_the_first_step(trained: _Trained) -> None:
    _, history = trained("convolutional_network")
    names = [
        name
        for name in history
        if "kernel_norm" in name
        or (("sensitivity" in name or "freedom" in name) and "stderr" not in name)
    ]
    assert len(names) == 2 * (2 + 1) + 1 + 3
    assert (history.loc[history["step"] == 0, names] == 0.0).all(axis=None)
    assert (history.loc[history["step"] > 0, names] != 0.0).all(axis=None)


@pytest.mark.parametrize(
    ("kind", "sections", "message"),
    [
        ("depth", {"data": {"train_size": 1000, "test_size": 798}}, "at most 1797 rows"),
        ("depth", {"data": {"train_size": 10, "test_size": 10}}, "at most data.train_size"),
        ("convolutional_network", {"model": {"widths": [2, 2, 2, 2]}}, "at most 3 widths"),
        (
            "convolutional_network",
            {"lens": {"probes": 4, "deflate": 5}},
            r"at most lens.probes \(4\)",
        ),
        (
            "convolutional_network",
            {
                "data": {
                    "source": "cifar10",
                    "train_size": 8,
                    "test_size": 20,
                    "label_noise": [0.0],
                }
            },
            "at most data.train_size",
        ),
    ],
)
def test_impossible_combinations_are_refused(
    build: Callable[..., Any], kind: str, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        build(kind, **sections)


def test_cifar10_trains_from_its_files(build: Callable[..., Any], checkpoints: Any) -> None:
    folder = os.environ.get("TELESCOPE_DATA")
    if folder is None or not (Path(folder) / "cifar-10-batches-bin").is_dir():
        pytest.skip("TELESCOPE_DATA names no folder with cifar-10-batches-bin/")
    data = {"source": "cifar10", "train_size": 24, "test_size": 12, "label_noise": [0.0]}
    training = {
        "epochs": 1,
        "batch_size": 12,
        "optimizer": {"name": "adam", "learning_rate": 0.001},
    }
    case = build(
        "convolutional_network", data=data, seeds=1, model={"widths": [2, 3, 4]}, training=training
    )
    drawn = images.prepare(case, 0)
    (member,) = levels.members(case)
    file = drawn.files[member.data]
    assert file["train_inputs"].shape == (24, 3, 32, 32)
    channels = file["train_inputs"].double().transpose(0, 1).flatten(1)
    assert channels.mean(dim=1).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    result = convolutional.train(
        TrainingJob(
            case,
            member,
            file,
            seed=0,
            device=torch.device("cpu"),
            checkpoint=checkpoints.StoredCheckpoint(),
            progress=lambda done, total: None,
        )
    )
    last = result.history.iloc[-1]
    assert last["step"] == 2
    assert last["train/degrees_of_freedom@convolutions.2"] != 0.0
