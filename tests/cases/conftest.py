"""Small versions of the cases, and a checkpoint that stores as files do."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from telescope_pipeline.contract import Member, TrainingJob
from telescope_pipeline.parameters.kinds import KINDS

# What a user's project folder is to the pipeline.
sys.path.append(str(Path(__file__).resolve().parent / "own_code"))

SMALL: dict[str, dict[str, Any]] = {
    "grokking_polynomial": {
        "kind": "grokking_polynomial",
        "seeds": 2,
        "data": {"dimension": 6, "train_size": 20, "test_size": 15},
        "model": {"hidden": 8, "epsilon": 0.2},
        "training": {
            "steps": 40,
            "learning_rate": 5.0,
            "comparison": {"steps": 24, "epsilons": [0.05, 0.5]},
        },
        "lens": {"stride": 4, "probes": "exact", "records": 8, "checkpoint_every": 11},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "double_descent": {
        "kind": "double_descent",
        "seeds": 2,
        "data": {"classes": [0, 1], "label_noise": 0.15},
        "model": {"widths": [2, 4, 6]},
        "training": {
            "epochs": 3,
            "batch_size": 100,
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.95},
        },
        "lens": {"stride": 4, "probes": 12, "deflate": 4, "records": 5, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "approximation_quality": {
        "kind": "approximation_quality",
        "seeds": 2,
        "data": {"train_size": 60, "test_size": 40},
        "model": {"hidden": [8, 6]},
        "training": {
            "steps": 18,
            "batch_size": 16,
            "settings": [
                {"optimizer": {"name": "sgd"}, "learning_rates": [0.01, 0.1]},
                {
                    "optimizer": {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.99]},
                    "learning_rates": [0.0001, 0.001],
                },
                {
                    "optimizer": {"name": "sgd", "momentum": 0.9},
                    "output": "sigmoid",
                    "learning_rates": [0.01, 0.1],
                },
            ],
        },
        "lens": {
            "lenses": [
                {"order": 1, "stride": 1},
                {"order": 1, "stride": 5},
                {"order": 2, "stride": 5},
            ],
            "records": 6,
            "checkpoint_every": 7,
        },
        "claims": {},
        "plot": {"dpi": 60},
    },
    "boosting_vs_networks": {
        "kind": "boosting_vs_networks",
        "seeds": 2,
        "data": {
            "tables": ["diamonds"],
            "train_size": 60,
            "validation_size": 20,
            "test_size": 12,
        },
        "model": {"hidden": [6, 5]},
        "training": {
            "draws": 2,
            "network": {
                "epochs": 4,
                "batch_size": 16,
                "optimizer": {"name": "sgd", "momentum": 0.9},
                "learning_rates": [0.001, 0.1],
            },
            "trees": {"median_learning_rate": 0.1, "estimators": [5.0, 20.0]},
        },
        "lens": {
            "stride": 3,
            "norm_stride": 2,
            "probes": 8,
            "deflate": 2,
            "records": 5,
            "checkpoint_every": 6,
        },
        "claims": {},
        "plot": {"dpi": 60},
    },
    "grokking_network": {
        "kind": "grokking_network",
        "seeds": 2,
        "data": {"source": "digits", "train_size": 30, "test_size": 20},
        "model": {"hidden": [8, 6], "alphas": [3.0, 2.0]},
        "training": {
            "steps": 24,
            "batch_size": 16,
            "warm_up": 9,
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.3},
            "comparison": {"steps": 15, "outputs": ["linear", "sigmoid"]},
        },
        "lens": {"stride": 4, "probes": 12, "deflate": 4, "records": 6, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "weight_averaging": {
        "kind": "weight_averaging",
        "seeds": 2,
        "data": {"source": "digits", "train_size": 60, "test_size": 40, "pretrain_size": 50},
        "model": {"widths": [2, 3], "blocks": 1},
        "training": {
            "starts": ["scratch", "pretrained"],
            "batch_size": 16,
            "crop": 1,
            "scratch": {"steps": 9, "learning_rate": 0.1, "milestones": [5, 7]},
            "pretraining": {"steps": 5, "learning_rate": 0.1},
            "finetuning": {"steps": 6, "learning_rate": 0.05},
        },
        "lens": {
            "spawn_steps": [0, 2, 4],
            "alphas": 3,
            "gradient_gap": 2,
            "gradient_rows": 6,
            "checkpoint_every": 7,
        },
        "claims": {},
        "plot": {"dpi": 60},
    },
    "design_choices": {
        "kind": "design_choices",
        "seeds": 2,
        "data": {"train_size": 40, "test_size": 30},
        "model": {"hidden": [6]},
        "training": {
            "steps": 24,
            "batch_size": 10,
            "choices": [
                {"name": "plain", "optimizer": {"name": "sgd", "learning_rate": 0.1}},
                {
                    "name": "momentum",
                    "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.8},
                },
                {
                    "name": "weight_decay",
                    "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.5},
                },
                {
                    "name": "sigmoid",
                    "optimizer": {"name": "sgd", "learning_rate": 0.1},
                    "output": "sigmoid",
                },
                {
                    "name": "adaptive",
                    "optimizer": {
                        "name": "adamw",
                        "learning_rate": 0.002,
                        "betas": [0.5, 0.9],
                        "weight_decay": 0.5,
                    },
                },
            ],
        },
        "lens": {"stride": 5, "probes": "exact", "records": 6, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "depth": {
        "kind": "depth",
        "seeds": 2,
        "data": {"train_size": 60, "test_size": 40},
        "model": {"depths": [2, 5], "architectures": ["plain", "residual"], "width": 6},
        "training": {
            "steps": 18,
            "batch_size": 16,
            "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5},
        },
        "lens": {"stride": 5, "records": 6, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "convolutional_network": {
        "kind": "convolutional_network",
        "seeds": 2,
        "data": {
            "source": "digits",
            "train_size": 40,
            "test_size": 20,
            "label_noise": [0.0, 0.25],
        },
        "model": {"widths": [2, 3]},
        "training": {
            "epochs": 5,
            "batch_size": 12,
            "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9},
        },
        "lens": {"stride": 5, "probes": 8, "deflate": 2, "records": 6, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "large_scale": {
        "kind": "large_scale",
        "seeds": 2,
        "data": {"rows": [60, 200], "features": 3, "test_size": 12, "compared_rows": 100},
        "model": {"hidden": [6, 5]},
        "training": {
            "steps": 16,
            "batch_size": 10,
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
        },
        "lens": {"stride": 4, "probes": 6, "records": 3, "checkpoint_every": 5},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "modular_addition": {
        "kind": "modular_addition",
        "seeds": 2,
        "data": {"modulus": 5, "train_fraction": 0.6},
        "model": {"width": 8, "heads": 2, "blocks": 1, "hidden": 12},
        "training": {
            "steps": 20,
            "batch_size": 10,
            "warm_up": 5,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 0.01,
                "betas": [0.9, 0.99],
                "weight_decay": 1.0,
            },
        },
        "lens": {"stride": 4, "probes": 10, "deflate": 3, "records": 6, "checkpoint_every": 7},
        "claims": {},
        "plot": {"dpi": 60},
    },
    "own_model": {
        "kind": "own_model",
        "seeds": 2,
        "model": {"call": "own_networks:build", "options": {"hidden": 5}},
        "data": {"call": "own_networks:load", "options": {"rows": 30}},
        "loss": "half_mse",
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "training": {"steps": 20, "batch_size": 8},
        "lens": {"stride": 4, "probes": 8, "deflate": 2, "records": 6, "checkpoint_every": 7},
        "sweep": {"data.options.noise": [0.0, 0.1]},
        "claims": [{"metric": "test/loss", "below": 10.0}],
        "plot": {"dpi": 60},
    },
}


class Interrupted(Exception):  # noqa: N818
    """The process was killed."""


class StoredCheckpoint:
    """Keeps the state as bytes and text, as a file would, and may stop the run after saving."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.saves = 0
        self._stored: tuple[bytes, str] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if self._stored is None:
            return None
        tensors, state = self._stored
        return from_bytes(tensors), json.loads(state)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._stored = to_bytes(tensors), json.dumps(state, allow_nan=False)
        self.saves += 1
        if self.saves == self.stop_after:
            raise Interrupted


def job(
    case: Any, member: Member, data: dict[str, Tensor], checkpoint: Any = None, seed: int = 0
) -> TrainingJob[Any]:
    """A member to train, on the CPU and without progress."""
    return TrainingJob(
        case,
        member,
        data,
        seed=seed,
        device=torch.device("cpu"),
        checkpoint=checkpoint or StoredCheckpoint(),
        progress=lambda done, total: None,
    )


def module(kind: str, name: str) -> ModuleType:
    return import_module(f"telescope_pipeline.cases.{kind}.{name}")


@pytest.fixture(params=sorted(SMALL))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoints() -> Any:
    """The checkpoint and its interruption, for tests that import nothing from here."""
    return SimpleNamespace(StoredCheckpoint=StoredCheckpoint, Interrupted=Interrupted)


@pytest.fixture
def build() -> Callable[..., Any]:
    """Build a small case; keyword arguments replace whole sections."""

    def build_case(kind: str, **sections: Any) -> Any:
        return KINDS[kind].model_validate(copy.deepcopy(SMALL[kind]) | sections)

    return build_case


@pytest.fixture(scope="session")
def prepared() -> Callable[[str], Any]:
    """Data of each small case, generated once."""
    cache: dict[str, Any] = {}

    def prepare(kind: str) -> Any:
        if kind not in cache:
            case = KINDS[kind].model_validate(copy.deepcopy(SMALL[kind]))
            cache[kind] = module(kind, "data").prepare(case, 0)
        return cache[kind]

    return prepare


@pytest.fixture(scope="session")
def train(prepared: Callable[[str], Any]) -> Callable[..., Any]:
    """Train one member of a small case."""

    def train_member(
        kind: str, case: Any, member: Member, checkpoint: StoredCheckpoint | None = None
    ) -> Any:
        return module(kind, "training.train").train(
            job(case, member, prepared(kind).files[member.data], checkpoint)
        )

    return train_member


@pytest.fixture(scope="session")
def trained(train: Callable[..., Any]) -> Callable[[str], tuple[Any, pd.DataFrame]]:
    """A small case and the history of all its members, as the stages pass it on."""
    cache: dict[str, tuple[Any, pd.DataFrame]] = {}

    def run(kind: str) -> tuple[Any, pd.DataFrame]:
        if kind not in cache:
            case = KINDS[kind].model_validate(copy.deepcopy(SMALL[kind]))
            parts = []
            for member in module(kind, "sweep").members(case):
                history = train(kind, case.narrowed(member.values, member.seed), member).history
                identity = {"member": member.name, "group": member.group, "seed": member.seed}
                for place, (name, value) in enumerate((identity | member.values).items()):
                    history.insert(place, name, value)
                parts.append(history)
            cache[kind] = case, pd.concat(parts, ignore_index=True)
        return cache[kind]

    return run
