"""What happens between the loss and the optimizer's step is followed, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD, AdamW

from telescope_core.errors import TrainingMismatchError
from telescope_core.lens import TelescopeLens


def mean_square(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


class Run:
    """A linear model, on which f, f̃ and S·Y + c agree when every step is followed rightly."""

    def __init__(self, optimizer=SGD, strategy="auto", **options):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
        self.y = torch.randn(12, generator=generator, dtype=torch.float64)
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Flatten(0)).double()
        self.optimizer = optimizer(self.model.parameters(), **{"lr": 0.3, **options})
        self.lens = TelescopeLens(
            self.model, self.optimizer, mean_square, self.x, self.y,
            probes="exact", stride=2, strategy=strategy,
        )  # fmt: skip

    def step(self, index, change=lambda run: None, scale=1.0, penalty=0.0):
        with self.lens.step(index):
            self.optimizer.zero_grad()
            value = scale * mean_square(self.model(self.x[index]), self.y[index])
            value = value + penalty * sum(p.square().sum() for p in self.model.parameters())
            value.backward()
            change(self)
            self.optimizer.step()

    def assert_followed(self):
        f = self.lens.predictions("train")[:, 0]
        torch.testing.assert_close(self.lens.smoothed("train"), f, rtol=0, atol=1e-10)
        whole = self.lens.smoother("train") @ self.y + self.lens.constant("train")
        torch.testing.assert_close(whole, f, rtol=0, atol=1e-10)


BATCH = torch.tensor([3, 7, 1, 4])


def clip_norm(run):
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)


def clip_value(run):
    torch.nn.utils.clip_grad_value_(run.model.parameters(), 0.05)


def add_noise(run):
    for p in run.model.parameters():
        p.grad += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("how", [{"change": clip_norm}, {"scale": 1024.0}], ids=["clip", "scale"])
def test_a_common_factor_is_followed(optimizer, how):
    run = Run(optimizer, lr=1e-3) if "scale" in how else Run(optimizer)
    for _ in range(7):
        run.step(BATCH, **how)
    run.assert_followed()


@pytest.mark.parametrize(
    "how",
    [{"change": clip_value}, {"change": add_noise}, {"penalty": 0.5}],
    ids=["clip by value", "noise", "penalty"],
)
def test_anything_else_is_refused_before_the_step(how):
    run = Run()
    before = [p.detach().clone() for p in run.model.parameters()]
    with pytest.raises(TrainingMismatchError, match=r"multiple.*accumulated.*weight decay"):
        run.step(BATCH, **how)
    for p, q in zip(run.model.parameters(), before, strict=True):
        assert torch.equal(p, q), "the optimizer must not have stepped"
    run.step(BATCH)
    run.assert_followed()


def test_another_batch_is_refused():
    run = Run()
    other = torch.tensor([0, 2, 5, 6])

    def swap(run):
        run.optimizer.zero_grad()
        mean_square(run.model(run.x[other]), run.y[other]).backward()

    with pytest.raises(TrainingMismatchError):
        run.step(BATCH, change=swap)


def test_accumulated_micro_batches_are_one_batch():
    run = Run(lr=0.1, momentum=0.9)
    for _ in range(5):
        with run.lens.step(BATCH):
            run.optimizer.zero_grad()
            for half in BATCH.split(2):
                (0.5 * mean_square(run.model(run.x[half]), run.y[half])).backward()
            run.optimizer.step()
    run.assert_followed()


def test_micro_batches_as_steps_of_their_own_are_refused():
    run = Run()
    run.step(BATCH[:2])
    with pytest.raises(TrainingMismatchError, match=r"ran 0 times"), run.lens.step(BATCH[2:]):
        mean_square(run.model(run.x[BATCH[2:]]), run.y[BATCH[2:]]).backward()


def test_a_small_constant_difference_is_refused_at_once():
    with pytest.raises(TrainingMismatchError, match=r"differs in .*weight"):
        Run().step(BATCH, penalty=1e-3)


def test_function_space_refuses_scaled_gradients():
    run = Run(strategy="function-space")
    with pytest.raises(TrainingMismatchError, match=r"scaled.*parameter-space"):
        run.step(torch.arange(12), scale=0.5)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(SGD, {"lr": 0.1, "momentum": 0.9}), (AdamW, {"lr": 0.01})],
    ids=["momentum", "moments"],
)
def test_dropped_buffers_are_followed(optimizer, options):
    run = Run(optimizer, **options)
    for _ in range(3):
        run.step(BATCH)
    run.optimizer.state.clear()
    for _ in range(4):
        run.step(BATCH)
    run.assert_followed()


def test_parameters_added_to_the_optimizer_are_refused():
    run = Run()
    run.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    with pytest.raises(TrainingMismatchError, match=r"3 parameters, 2 when"):
        run.step(BATCH)


def hook_a_parameter(model):
    parameter = next(model.parameters())
    parameter.register_hook(lambda gradient: 1.5 * gradient)


def hook_a_parameter_afterwards(model):
    def halve(parameter):
        parameter.grad.mul_(0.5)

    next(model.parameters()).register_post_accumulate_grad_hook(halve)


def hook_a_module(model):
    model[1].register_full_backward_hook(lambda _module, gradients, _: (gradients[0] ** 3,))


def drop_out(model):
    model[1].train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hook_a_parameter, r"0\.weight has gradient hooks"),
        (hook_a_parameter_afterwards, r"0\.weight has gradient hooks"),
        (hook_a_module, r"1 \(Dropout\) has backward hooks"),
        (drop_out, r"1 \(Dropout\) is in train mode now"),
    ],
)
def test_what_may_have_changed_the_gradient_is_named(change, message):
    torch.manual_seed(0)
    layers = (torch.nn.Linear(4, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 2))
    model = torch.nn.Sequential(*layers).eval().double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    lens = TelescopeLens(model, optimizer, mean_square, x, y, probes=4)
    change(model)

    def step():
        with lens.step(torch.arange(8)):
            mean_square(model(x), y).backward()
            optimizer.step()

    with pytest.raises(TrainingMismatchError, match=message):
        step()
