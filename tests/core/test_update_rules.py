"""Every update rule repeats its optimizer: on a linear model S·Y + c is then the network."""

from __future__ import annotations

import pytest
import torch
from torch import optim

from telescope_core.lens import TelescopeLens
from telescope_core.testing import assert_agrees

VARIANTS = {
    "rmsprop": (optim.RMSprop, {}),
    "rmsprop-centered": (optim.RMSprop, {"centered": True, "weight_decay": 0.1}),
    "rmsprop-momentum": (optim.RMSprop, {"momentum": 0.8, "maximize": True, "lr": 0.002}),
    "rmsprop-all": (optim.RMSprop, {"momentum": 0.5, "centered": True, "weight_decay": 0.2}),
    "adagrad": (optim.Adagrad, {"lr": 0.1}),
    "adagrad-all": (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1}),
    "adagrad-start": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
    "nadam": (optim.NAdam, {}),
    "nadam-coupled": (optim.NAdam, {"weight_decay": 0.2, "momentum_decay": 0.1}),
    "nadam-decoupled": (optim.NAdam, {"weight_decay": 0.2, "decoupled_weight_decay": True}),
    "nadam-maximize": (optim.NAdam, {"maximize": True, "lr": 0.002}),
    "radam": (optim.RAdam, {"betas": (0.9, 0.7)}),
    "radam-unrectified": (optim.RAdam, {"weight_decay": 0.1}),
    "radam-decoupled": (
        optim.RAdam,
        {"betas": (0.9, 0.8), "weight_decay": 0.2, "decoupled_weight_decay": True},
    ),
    "adam-amsgrad": (optim.Adam, {"amsgrad": True, "betas": (0.5, 0.6)}),
    "adamw-amsgrad-maximize": (optim.AdamW, {"amsgrad": True, "maximize": True, "lr": 0.002}),
    "adam-foreach": (optim.Adam, {"foreach": True, "weight_decay": 0.1}),
    "adamw-fused": (optim.AdamW, {"fused": True}),
    "rmsprop-foreach": (optim.RMSprop, {"foreach": True, "momentum": 0.5}),
    "sgd-fused": (optim.SGD, {"fused": True, "momentum": 0.9, "weight_decay": 0.1}),
}


def loss(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


def train(make, options, *, steps=12, schedule=None, **lens_options):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(10, generator=generator, dtype=torch.float64)
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0)).double()
    groups = [
        {"params": [model[0].weight]},
        {"params": [model[0].bias], "lr": 0.5 * options.get("lr", 0.02)},
    ]
    optimizer = make(groups, **{"lr": 0.02, **options})
    lens = TelescopeLens(
        model, optimizer, loss, x, y, {"test": x[:3] + 1},
        **{"probes": "exact", "stride": 5, **lens_options},
    )  # fmt: skip
    for t in range(steps):
        index = torch.randperm(10, generator=generator)[:4]
        with lens.step(index):
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
            if schedule is not None:
                for group in optimizer.param_groups:
                    group["lr"] *= schedule(t)
    return lens, y


@pytest.mark.parametrize("schedule", [None, lambda t: 0.7 if t % 3 else 1.5], ids=["", "schedule"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_is_its_own_smoother(name, schedule):
    lens, y = train(*VARIANTS[name], schedule=schedule)
    for rows in ("train", "test"):
        f = lens.predictions(rows)[:, 0]
        assert_agrees(lens.smoothed(rows), f, tolerance=1e-10, what="S·Y + c, carried along")
        whole = lens.smoother(rows) @ y + lens.constant(rows)
        assert_agrees(whole, f, tolerance=1e-10, what="S·Y + c")
        assert float(lens.smoother(rows).abs().max()) > 1e-3, "nothing was learned"


@pytest.mark.parametrize("name", ["rmsprop-all", "adagrad-all", "nadam", "radam"])
def test_kernel_norms_use_the_preconditioner_of_the_last_step(name):
    make, options = VARIANTS[name]
    lens, _ = train(make, options, steps=1, stride=1, kernel_norms=True)
    first = lens.snapshot().to_record()["train/kernel_norm_max"]
    plain, _ = train(optim.SGD, {"lr": 1e-9}, steps=1, stride=1, kernel_norms=True)
    unscaled = plain.snapshot().to_record()["train/kernel_norm_max"]
    assert first > 0
    if name != "radam":  # Unrectified at first, so it has no preconditioner yet.
        assert first != pytest.approx(unscaled, rel=1e-3)
