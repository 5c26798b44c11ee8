"""The account from rows agrees with the dense oracles, with replays and with the network itself."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, Adamax, NAdam, RAdam, RMSprop

from support.runs import attached
from telescope_core.testing import (
    LOSSES,
    OPTIMIZERS,
    DenseOracle,
    MidpointOracle,
    RowAccount,
    Scenario,
    ShadowColumns,
    assert_agrees,
    sensitivity_by_replay,
)

SQUARED = ["mse", "half-squared", "mse-sum"]
QUADRATURES = {
    "start": (DenseOracle, 1),
    "trapezoid": (DenseOracle, 2),
    "midpoint": (MidpointOracle, 2),
}


def assert_same(actual, expected, *, affine, tolerance=1e-9):
    for name in ("train", "test", "other"):
        for quantity in ("predictions", "telescoped", "linearized", "smoother") + (
            ("constant", "smoothed") if affine else ()
        ):
            assert_agrees(
                getattr(actual, quantity)(name),
                getattr(expected, quantity)(name),
                tolerance=tolerance,
                what=f"{quantity} of {name}",
            )


def seeded(generator=0):
    return torch.Generator().manual_seed(generator)


CASES = [
    (
        Scenario(specimen, optimizer, loss, rows=6, steps=7, schedule=schedule, batch_size=batch),
        quadrature,
        stride,
    )
    for (optimizer, (specimen, loss)), (quadrature, stride), schedule, batch in zip(
        itertools.product(
            OPTIMIZERS,
            (
                ("mlp-vector", "mse"),
                ("mlp-column", "binary-cross-entropy"),
                ("tied", "mse-sum"),
                ("mlp-outputs", "cross-entropy"),
            ),
        ),
        itertools.cycle(itertools.product(QUADRATURES, (1, 3, 4))),
        itertools.cycle([None, "before", None, "after", None]),
        itertools.cycle([3, None, 4]),
        strict=False,
    )
] + [
    (Scenario(specimen, optimizer, loss, rows=5, steps=5), quadrature, 2)
    for specimen, optimizer, loss, quadrature in (
        ("random-features-3", "sgd-nesterov", "half-squared", "trapezoid"),
        ("sigmoid", "adam-decay", "half-squared", "midpoint"),
        ("convolution", "adamw-groups", "cross-entropy", "trapezoid"),
        ("attention", "sgd-groups", "cross-entropy-smoothed", "midpoint"),
        ("lstm", "adam-groups", "huber", "start"),
        ("gru", "sgd-dampening", "mse", "trapezoid"),
    )
]


@pytest.mark.parametrize(
    ("scenario", "quadrature", "stride"),
    CASES,
    ids=lambda value: f"stride{value}" if isinstance(value, int) else str(value),
)
def test_agrees_with_the_dense_oracle(scenario, quadrature, stride):
    kind, order = QUADRATURES[quadrature]
    training = scenario.start()
    account = attached(RowAccount, training, quadrature=quadrature, stride=stride)
    oracle = attached(kind, training, order=order, stride=stride)
    for moment in (0, 5, scenario.steps):
        training.run(account, oracle, steps=moment - training.done)
        assert_same(account, oracle, affine=scenario.loss in SQUARED)
    assert float(account.smoother("test").abs().max()) > 1e-3, "nothing was learned"
    for name in account.sets:
        expected = oracle.effective_parameters(name)
        assert account.effective_parameters(name) == pytest.approx(expected, rel=1e-9)
    assert account.degrees_of_freedom() == pytest.approx(oracle.degrees_of_freedom(), rel=1e-9)


def test_agrees_with_a_replay_of_training():
    scenario = Scenario("tied", "adam-decay", "cross-entropy-smoothed", rows=6, steps=6)
    training = scenario.start()
    direction = torch.randn(6, 2, dtype=torch.float64, generator=seeded())
    expected = sensitivity_by_replay(training, direction, order=2, stride=2)
    account = attached(RowAccount, training, stride=2)
    training.run(account)
    for name, wanted in expected.items():
        actual = torch.einsum("ikjl,jl->ik", account.smoother(name), direction)
        scale = float(wanted.abs().max())
        assert_agrees(actual / scale, wanted / scale, tolerance=2e-7, what=f"S·V of {name}")


ANY = {
    "nadam": lambda p: NAdam(p, lr=0.02, weight_decay=0.1),
    "nadam-decoupled": lambda p: NAdam(p, lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda p: RAdam(p, lr=0.02, betas=(0.9, 0.7), weight_decay=0.1),
    "adamax": lambda p: Adamax(p, lr=0.02, weight_decay=0.1),
    "amsgrad": lambda p: Adam(p, lr=0.05, betas=(0.9, 0.5), amsgrad=True),
    "adam-fused": lambda p: Adam(p, lr=torch.tensor(0.02), fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, weight_decay=0.1, maximize=True),
    "rmsprop-centred": lambda p: RMSprop(p, lr=0.01, alpha=0.6, momentum=0.5, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.1),
    "adagrad-start": lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=0.3),
    "sgd-foreach": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
}


@pytest.mark.parametrize("before", [0, 4])
@pytest.mark.parametrize("name", ANY)
def test_on_a_linear_model_every_optimizer_gives_what_the_network_predicts(name, before):
    training = Scenario("random-features-3", "sgd", "mse", rows=6, steps=9).start()
    training.optimizer = ANY[name](training.model.parameters())
    training.run(steps=before)
    account = attached(RowAccount, training, quadrature="start", stride=2)
    start = account.predictions("test")
    training.run(account)
    f = account.predictions("test")
    assert_agrees(account.telescoped("test"), f, tolerance=1e-10, what="f̃")
    assert_agrees(account.smoothed("test"), f, tolerance=1e-10, what="S·Y + c")
    assert float((f - start).abs().max()) > 1e-3, "nothing was learned"


def test_denominators_are_the_real_ones_even_where_gradients_vanish():
    """v is some 1e-60 here, far below what squares of columns of ordinary size would round to."""
    training = Scenario("random-features", "sgd", "half-squared", rows=6, steps=4).start()
    scale = 1e-30
    training.loss = lambda f, y: scale * LOSSES["half-squared"][0](f, y)
    training.optimizer = Adam(training.model.parameters(), lr=0.02, eps=1e-32)
    account = attached(RowAccount, training, stride=2)
    oracle = attached(DenseOracle, training, stride=2)
    training.run(account, oracle)
    assert float(account.smoother("test").abs().max()) > 1e-3
    assert_same(account, oracle, affine=False)


class Odd(nn.Module):
    """Aliases, a 0-dimensional gate, in-place work on the input, and parameters never reached."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.gate = nn.Parameter(torch.tensor(0.0))
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        h = functional.relu(x.add_(0.1), inplace=True)
        h = h + self.gate * torch.tanh(self.again(self.first(h)))
        return self.tied(h)[:, :2]


def test_aliases_scalars_in_place_inputs_and_parameters_never_reached():
    training = Scenario("tied", "adamw", "mse", rows=6, steps=6).start()
    torch.manual_seed(0)
    training.model = Odd().double()
    training.optimizer = Adam(training.model.parameters(), lr=0.05, weight_decay=0.1)
    kept = {name: rows.clone() for name, rows in training.eval_sets.items()}
    account, oracle = (
        attached(RowAccount, training, quadrature="trapezoid", stride=4),
        attached(DenseOracle, copy_of(training), stride=4),
    )
    training.run(account, oracle)
    assert_agrees(account.smoother("test"), oracle.smoother("test"), tolerance=1e-9, what="S")
    assert_agrees(account.telescoped("test"), oracle.telescoped("test"), tolerance=1e-9, what="f̃")
    assert all(torch.equal(rows, training.eval_sets[name]) for name, rows in kept.items())


class _OnCopies(nn.Module):
    """For the oracle, which does not copy inputs itself."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.clone())


def copy_of(training):
    return dataclasses.replace(training, model=_OnCopies(training.model))


class TwoInputs(nn.Module):
    """Takes integers and reals, by position or by name."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.linear = nn.Linear(3, 2)

    def forward(self, token, scale):
        return self.linear(torch.tanh(self.embedding(token)) * scale[:, None])


def test_inputs_may_be_tuples_or_mappings():
    def rows(count, seed):
        token = torch.randint(5, (count,), generator=seeded(seed))
        return token, torch.randn(count, dtype=torch.float64, generator=seeded(seed))

    smoothers = []
    for pack in (lambda token, scale: (token, scale), lambda t, s: {"scale": s, "token": t}):
        torch.manual_seed(0)
        model = TwoInputs().double()
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.5)
        x, x_test = pack(*rows(6, 1)), pack(*rows(3, 2))
        y = torch.randn(6, 2, dtype=torch.float64, generator=seeded(3))
        loss = nn.MSELoss()
        account = RowAccount(model, optimizer, loss, x, y, {"test": x_test}, quadrature="start")
        for _ in range(3):
            with account.step(torch.arange(6)):
                optimizer.zero_grad()
                loss(model(*rows(6, 1)), y).backward()
                optimizer.step()
        f = account.predictions("test")
        assert f.shape == (3, 2)
        smoothers.append(account.smoother("test"))
    assert smoothers[0].shape == (3, 2, 6, 2)
    assert torch.equal(*smoothers)
    assert float(smoothers[0].abs().max()) > 1e-3


class ComplexFeatures(nn.Module):
    """The real part of a linear map with complex weights: linear in them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, dtype=torch.complex128, generator=seeded(1)))

    def forward(self, x):
        return (torch.exp(1j * x) @ self.weight).real


@pytest.mark.parametrize("optimizer", ["sgd-nesterov", "adam-decay"])
def test_complex_parameters_count_in_real_coordinates(optimizer):
    training = Scenario("random-features", "sgd", "mse", rows=6, steps=6).start()
    training.model = ComplexFeatures()
    training.optimizer = OPTIMIZERS[optimizer](training.model)
    account = attached(RowAccount, training, stride=2)
    training.run(account)
    f = account.predictions("test")
    assert_agrees(account.telescoped("test"), f, tolerance=1e-12, what="f̃")
    assert_agrees(account.smoothed("test"), f, tolerance=1e-10, what="S·Y + c")


def margin(outputs, targets):
    """A loss of class indices that does not take probabilities."""
    right = outputs.gather(1, targets[:, None])
    return (functional.softplus(outputs - right) ** 2).sum() / len(outputs)


def test_class_weights_of_a_loss_without_probabilities_enter_linearly():
    training = Scenario("mlp-outputs", "sgd", "cross-entropy", rows=5, steps=3).start()
    training.loss = margin
    account = attached(RowAccount, training, quadrature="start")
    index = training.batches[0]
    outputs = training.model(training.train_inputs[index]).detach()
    before = {p: p.detach().clone() for p in training.model.parameters()}
    training.run(account, steps=1)
    S = account.smoother("test")
    # One step of plain descent: S = −γ J (Σ over classes of the gradient for each).
    for point, row in enumerate(index.tolist()):
        for c in range(3):
            classes = training.train_targets[index].clone()
            classes[point] = c
            leaf = outputs.clone().requires_grad_()
            (g,) = torch.autograd.grad(margin(leaf, classes), leaf)
            expected = push_back_and_forth(training, before, index[point], g[point])
            assert_agrees(S[:, :, row, c], -0.1 * expected, tolerance=1e-12, what="S")


def push_back_and_forth(training, theta, row, cotangent):
    now = {p: p.detach().clone() for p in theta}
    with torch.no_grad():
        for p, values in theta.items():
            p.copy_(values)
    outputs = training.model(training.train_inputs[row][None])[0]
    direction = torch.autograd.grad(outputs, list(theta), cotangent)
    model, names = training.model, [name for name, _ in training.model.named_parameters()]
    x = training.eval_sets["test"]
    _, pushed = torch.func.jvp(
        lambda values: torch.func.functional_call(model, values, (x,)),
        (dict(zip(names, theta.values(), strict=True)),),
        (dict(zip(names, direction, strict=True)),),
    )
    with torch.no_grad():
        for p, values in now.items():
            p.copy_(values)
    return pushed


def test_options_may_change_and_parameters_may_be_skipped_at_any_step():
    training = Scenario("mlp-vector", "sgd", "mse", rows=6, steps=8).start()
    model = training.model
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.second.bias.requires_grad_(False)
    training.optimizer = SGD(
        [model.third.bias, model.unused, model.first.weight, model.second.bias], lr=0.1
    )
    account, oracle = (
        attached(RowAccount, training, stride=3),
        attached(DenseOracle, training, stride=3),
    )
    (group,) = training.optimizer.param_groups
    for moment, options in (
        (2, {}),
        (3, {"momentum": 0.9}),
        (5, {"momentum": 0.0, "weight_decay": 0.2}),
        (8, {"momentum": 0.5, "dampening": 0.3, "lr": 0.05}),
    ):
        group.update(options)
        training.run(account, oracle, steps=moment - training.done)
        assert_same(account, oracle, affine=True)


def test_a_clipped_gradient_scales_the_columns_and_another_gradient_is_refused():
    def run(change, loss=None):
        training = Scenario("random-features", "sgd", "mse", rows=6, steps=3).start()
        account = attached(RowAccount, training, quadrature="start")
        for index in training.batches:
            with account.step(index):
                training.optimizer.zero_grad()
                outputs = training.model(training.train_inputs[index])
                training.loss(outputs, training.train_targets[index]).backward()
                change(training.model)
                training.optimizer.step()
        return account

    clipped = run(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.05))
    f = clipped.predictions("test")
    assert_agrees(clipped.smoothed("test"), f, tolerance=1e-12, what="S·Y + c")
    with pytest.raises(ValueError, match="no multiple of the gradient"):
        run(lambda model: next(model.parameters()).grad.add_(0.1))


def test_reading_inside_a_block_changes_nothing_and_leaves_the_model_as_it_was():
    finals = []
    for read in (True, False):
        training = Scenario("mlp-vector", "adamw", rows=6, steps=6).start()
        account = attached(RowAccount, training, quadrature="midpoint", stride=4)
        for _ in training.batches:
            training.run(account, steps=1)
            if read:
                account.smoother("test"), account.telescoped("train"), account.constant("other")
        finals.append((account.smoother("test"), *training.parameters()))
    training = Scenario("mlp-vector", "adamw", rows=6, steps=6).start()
    training.run()
    for read, unread in zip(*finals, strict=True):
        assert torch.equal(read, unread)
    for followed, alone in zip(finals[0][1:], training.parameters(), strict=True):
        assert torch.equal(followed, alone)


class _WrongRate(ShadowColumns):
    def _options(self, group):
        options = super()._options(group)
        return {**options, "lr": 1.001 * options["lr"]}


class _WrongDenominators(ShadowColumns):
    def _state_before(self, p, before, group):
        entries = super()._state_before(p, before, group)
        if "exp_avg_sq" in entries:
            entries["exp_avg_sq"] *= 1.001
        return entries


class _LostBuffers(ShadowColumns):
    def step(self, before, gradients):
        self._buffers = {p: {} for p in self.parameters}
        super().step(before, gradients)


@pytest.mark.parametrize(
    ("fault", "optimizer"),
    [
        (_WrongRate, "sgd"),
        (_WrongRate, "adamw"),
        (_WrongDenominators, "adam"),
        (_LostBuffers, "sgd-momentum"),
        (_LostBuffers, "adamw"),
    ],
)
def test_a_fault_in_the_columns_is_seen_by_the_oracle(fault, optimizer, monkeypatch):
    monkeypatch.setattr("telescope_core.testing.account.ShadowColumns", fault)
    training = Scenario("mlp-vector", optimizer, rows=6, steps=4).start()
    account, oracle = attached(RowAccount, training), attached(DenseOracle, training)
    training.run(account, oracle)
    with pytest.raises(AssertionError, match="S: deviates by"):
        assert_agrees(account.smoother("test"), oracle.smoother("test"), tolerance=1e-9, what="S")


class Coupled(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


def test_what_it_cannot_follow_is_refused():
    training = Scenario("mlp-outputs", "sgd", "cross-entropy").start()
    for options in ({"quadrature": "simpson"}, {"stride": 0}):
        with pytest.raises(ValueError, match="expected 'start'"):
            attached(RowAccount, training, **options)
    account = attached(RowAccount, training)
    with pytest.raises(ValueError, match="0 times"), account.step(torch.tensor([0])):
        pass
    training.run(account)
    with pytest.raises(ValueError, match="squared loss"):
        account.constant("test")
    rprop = torch.optim.Rprop(training.model.parameters())
    with pytest.raises(TypeError, match="Rprop"):
        attached(RowAccount, dataclasses.replace(training, optimizer=rprop))
    coupled = Coupled(4, 3).double()
    changed = dataclasses.replace(
        training, model=coupled, optimizer=SGD(coupled.parameters(), lr=0.1)
    )
    with pytest.raises(ValueError, match="alone than together"):
        attached(RowAccount, changed)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    changed = Scenario("mlp-outputs", "sgd", "cross-entropy").start()
    changed.loss = weighted
    account = attached(RowAccount, changed)
    with pytest.raises(ValueError, match="sum over rows"):
        changed.run(account, steps=1)
