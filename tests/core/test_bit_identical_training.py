"""The lens changes nothing about training, not one bit."""

import pytest
import torch
from torch import nn

from telescope_core.lens import TelescopeLens
from telescope_core.testing import OPTIMIZERS, Scenario

PROBES = [None, 5, "exact"]


def outcome(scenario, attach):
    """Parameters, optimizer state and random numbers after a run, with or without observers."""
    torch.manual_seed(11)
    training = scenario.start()
    lens = attach(training)
    for number in range(scenario.steps):
        training.run(*([lens] if lens else []), steps=1)
        if lens and number % 3 == 1:
            lens.snapshot().to_record()
            lens.state_dict()
    buffers = [
        value
        for p in training.model.parameters()
        for _, value in sorted(training.optimizer.state.get(p, {}).items())
        if isinstance(value, torch.Tensor)
    ]
    gradients = [p.grad for p in training.model.parameters()]
    numbers = torch.random.get_rng_state()
    return [*training.parameters(), *buffers, *gradients, numbers], training


def assert_same_bits(scenario, attach):
    without, _ = outcome(scenario, lambda training: None)
    observed, training = outcome(scenario, attach)
    assert len(without) == len(observed)
    for a, b in zip(without, observed, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    return training


@pytest.mark.parametrize("probes", PROBES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_bits_with_every_optimizer(optimizer, probes, lens_of):
    scenario = Scenario("mlp-outputs", optimizer, "cross-entropy", steps=7, schedule="after")
    options = {"probes": probes, "stride": 3, "kernel_norms": probes == 5}
    assert_same_bits(scenario, lambda training: lens_of(training, **options))


@pytest.mark.parametrize("probes", PROBES, ids=str)
@pytest.mark.parametrize(
    ("specimen", "loss"),
    [
        ("attention", "cross-entropy"),
        ("convolution", "mse"),
        ("tied", "huber"),
        ("sigmoid", "half-squared"),
    ],
)
def test_same_bits_with_every_model(specimen, loss, probes, lens_of):
    scenario = Scenario(specimen, "adamw", loss, steps=5)
    assert_same_bits(scenario, lambda training: lens_of(training, probes=probes, stride=2))


@pytest.mark.parametrize("probes", PROBES, ids=str)
def test_same_bits_in_function_space(probes, lens_of):
    scenario = Scenario("mlp-vector", "sgd", "mse", batch_size=None)
    assert_same_bits(scenario, lambda training: lens_of(training, probes=probes, stride=4))


class Noisy(nn.Module):
    """Dropout that is off, and single precision: what users really have."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 3)
        )
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.layers(x))


def test_same_bits_in_single_precision_with_data_order_from_the_global_generator():
    def train(probes, *, watched):
        torch.manual_seed(0)
        model = Noisy().eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        x, y = torch.randn(12, 4), torch.randint(3, (12,))
        loss = nn.CrossEntropyLoss()
        if watched:
            lens = TelescopeLens(model, optimizer, loss, x, y, stride=3, probes=probes)
        for _ in range(8):
            index = torch.randperm(12)[:5]
            optimizer.zero_grad()
            if watched:
                with lens.step(index):
                    loss(model(x[index]), y[index]).backward()
                    optimizer.step()
                lens.snapshot()
            else:
                loss(model(x[index]), y[index]).backward()
                optimizer.step()
        modes = [module.training for module in model.modules()]
        return [*model.state_dict().values(), torch.random.get_rng_state()], modes

    plain, modes = train(None, watched=False)
    for probes in PROBES:
        watched, modes_after = train(probes, watched=True)
        assert modes_after == modes
        assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_no_hooks_flags_or_gradients_are_left_behind(lens_of):
    training = Scenario("tied", "adamw", "mse").start()
    lens = lens_of(training, probes=4, kernel_norms=True)
    assert all(p.grad is None for p in training.model.parameters())
    training.run(lens)
    lens.snapshot()
    for module in training.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    optimizer = training.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert all(p.requires_grad for p in training.model.parameters())
    assert torch.is_grad_enabled()


def test_hooks_are_removed_when_the_step_fails(lens_of):
    training = Scenario("mlp-vector", "adamw").start()
    lens = lens_of(training)
    with pytest.raises(KeyError, match="the loop's own"), lens.step(training.batches[0]):
        raise KeyError("the loop's own error")
    assert not training.optimizer._optimizer_step_post_hooks
    training.run(lens)  # nothing had moved, so the lens goes on
    assert lens.steps == 10


def test_the_same_run_twice_gives_the_same_bits(lens_of):
    def record():
        training = Scenario("mlp-outputs", "adamw", "cross-entropy").start()
        lens = lens_of(training, probes=6, deflate=2, stride=3, kernel_norms=True)
        training.run(lens)
        return lens.snapshot().to_record()

    torch.manual_seed(0)
    first = record()
    torch.manual_seed(1)
    assert record() == first
