"""Predictions alone follow any training of a model that is deterministic in evaluation mode.

They need the parameters and the buffers before and after a step: no loss, no index, no targets and
no training set.  f̃ is compared with the network, and with sums of differences written down here.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

from telescope_core.errors import ConfigurationError, ModelError
from telescope_core.lens import TelescopeLens

ROWS, WIDTH, CLASSES = 60, 6, 3


class Stochastic(nn.Module):
    """Batch statistics, dropout as a module and as a function, and noise, all in train mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, 10)
        self.norm = nn.BatchNorm1d(10)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Linear(10, 10)
        self.free = nn.BatchNorm1d(10, affine=False, momentum=None)
        self.last = nn.Linear(10, CLASSES)

    def forward(self, x):
        x = self.drop(torch.tanh(self.norm(self.first(x))))
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        x = torch.tanh(self.free(self.second(x)))
        return self.last(nn.functional.dropout(x, 0.2, self.training))


class Graph(nn.Module):
    """Two rounds of averaging over a fixed graph: it takes all nodes or none."""

    def __init__(self):
        super().__init__()
        links = (torch.rand(ROWS, ROWS, generator=torch.Generator().manual_seed(4)) < 0.1).double()
        self.register_buffer("links", links / (1 + links.sum(dim=1, keepdim=True)))
        self.first, self.last = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.links @ torch.tanh(self.first(self.links @ x)))


class Told(nn.Module):
    """What it returns is a dictionary."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, CLASSES))

    def forward(self, x):
        return {"logits": self.net(x), "hidden": (x, x)}


def data():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (ROWS,), generator=generator)


def made(kind, seed=1):
    torch.manual_seed(seed)
    return kind().double().train()


def train(model, lens=None, steps=30, lr=0.02, batch=20, optimizer=None, outputs=lambda o: o):
    """A training loop of cross-entropy on noisy batches, every step followed."""
    inputs, targets = data()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        index = torch.randint(ROWS, (batch,), generator=generator) if batch else torch.arange(ROWS)
        rows = inputs[index] + 0.05 * torch.randn(len(index), WIDTH, dtype=torch.float64)
        with nullcontext() if lens is None else lens.step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs(model(rows)), targets[index]).backward()
            optimizer.step()


def gap(lens, name="test"):
    return float((lens.predictions(name) - lens.telescoped(name)).abs().mean())


def test_the_network_of_evaluation_mode_is_followed_closely():
    model = made(Stochastic)
    lens = TelescopeLens(model, eval_sets={"test": data()[0]}, stride=2)
    train(model, lens)
    assert torch.equal(lens.predictions("test"), model.eval()(data()[0]).detach())
    lazy = float((lens.predictions("test") - lens.linearized("test")).abs().mean())
    assert gap(lens) < 0.05 * lazy
    assert lens.steps == 30
    assert lens.strategy is None


def test_the_error_falls_with_the_step_as_second_order_does():
    """Halving all steps at doubled number divides the error by four, buffers that move included."""
    gaps = []
    for halvings in range(3):
        model = made(Stochastic)
        for module in (model.norm, model.free):
            module.momentum = 0.1 / 2**halvings
        lens = TelescopeLens(model, eval_sets={"test": data()[0]}, stride=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.4 / 2**halvings)
        inputs, targets = data()
        model.drop.p = 0.0
        model.forward = lambda x, m=model: m.last(
            torch.tanh(m.free(m.second(torch.tanh(m.norm(m.first(x))))))
        )
        for _ in range(10 * 2**halvings):
            with lens.step():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        gaps.append(gap(lens))
    assert gaps[0] / gaps[1] > 3
    assert gaps[1] / gaps[2] > 3


def test_one_block_is_what_the_formula_says():
    """f̃ = f + ½ [J(θ_0, b_1) + J(θ_1, b_1)] Δθ + f(θ_0, b_1) − f(θ_0, b_0), by torch.func."""
    model = made(Stochastic)
    inputs = data()[0]
    lens = TelescopeLens(model, eval_sets={"test": inputs}, stride=7)
    theta_0 = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, lens, steps=7)
    model.eval()
    theta_1 = {n: p.detach().clone() for n, p in model.named_parameters()}
    b_1 = {n: b.clone() for n, b in model.named_buffers()}
    moved = {n: theta_1[n] - theta_0[n] for n in theta_0}

    def f(theta, b):
        return functional_call(model, (theta, b), inputs)

    pushes = [jvp(lambda t: f(t, b_1), (theta,), (moved,))[1] for theta in (theta_0, theta_1)]
    expected = f(theta_0, b_1) + 0.5 * (pushes[0] + pushes[1])
    torch.testing.assert_close(lens.telescoped("test"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Stochastic, Graph, Told])
def test_training_is_the_same_to_the_bit(kind):
    def outputs(returned):
        return returned["logits"] if kind is Told else returned

    states = []
    for followed in (False, True):
        model = made(kind)
        options = {"output": "logits"} if kind is Told else {}
        lens = TelescopeLens(model, eval_sets={"test": data()[0]}, stride=4, **options)
        torch.manual_seed(9)
        train(model, lens if followed else None, steps=9, batch=0, outputs=outputs)
        if followed:
            lens.snapshot()
        modes = [module.training for module in model.modules()]
        grads = [p.grad for p in model.parameters()]
        states.append(([*model.state_dict().values(), *grads, torch.get_rng_state()], modes))
    (tensors, modes), (others, other_modes) = states
    assert modes == other_modes
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def test_rows_that_depend_on_each_other():
    model = made(Graph)
    lens = TelescopeLens(model, eval_sets={"nodes": data()[0]}, stride=3)
    train(model, lens, batch=0)
    assert gap(lens, "nodes") < 1e-3
    with pytest.raises(ConfigurationError, match="chunk_size=16 would take the 60 rows"):
        TelescopeLens(model, eval_sets={"nodes": data()[0]}, chunk_size=16)


def test_parameters_unfrozen_on_the_way():
    model = made(Stochastic)
    for parameter in model.first.parameters():
        parameter.requires_grad_(False)
    lens = TelescopeLens(model, eval_sets={"test": data()[0]}, stride=4)
    train(model, lens, steps=6)
    before = lens.telescoped("test")
    for parameter in model.first.parameters():
        parameter.requires_grad_(True)
    train(model, lens, steps=10)
    assert not torch.equal(lens.telescoped("test"), before)
    assert gap(lens) < 0.05 * float((lens.predictions("test") - before).abs().mean())
    # The lazy linearisation is in all of them, where they were at first.
    wide = made(Stochastic)
    whole = TelescopeLens(wide, eval_sets={"test": data()[0]}, stride=4)
    wide.load_state_dict(model.state_dict())
    torch.testing.assert_close(lens.linearized("test"), whole.linearized("test"))


def test_an_average_of_the_trained_weights():
    model = made(Stochastic)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True
    ).requires_grad_(False)
    lens = TelescopeLens(average, eval_sets={"test": data()[0]}, stride=2)
    first = lens.predictions("test")
    for _ in range(10):
        train(model, steps=1)
        with lens.step():
            average.update_parameters(model)
    moved = float((lens.predictions("test") - first).abs().mean())
    assert moved > 0.01
    assert gap(lens) < 0.05 * moved


def test_the_output_is_named():
    model = made(Told)
    sets = {"test": data()[0]}
    for output in ("logits", lambda returned: returned["logits"]):
        lens = TelescopeLens(model, eval_sets=sets, output=output)
        assert torch.equal(lens.predictions("test"), model(data()[0])["logits"].detach())
    with pytest.raises(ModelError, match=r"dict with 'logits', 'hidden'.*output="):
        TelescopeLens(model, eval_sets=sets)
    with pytest.raises(ModelError, match="has no 'scores'"):
        TelescopeLens(model, eval_sets=sets, output="scores")
    with pytest.raises(ConfigurationError, match="output must be a name"):
        TelescopeLens(model, eval_sets=sets, output=1.5)


def test_what_is_random_in_evaluation_mode_is_refused():
    class Noisy(nn.Linear):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5)

    with pytest.raises(ModelError, match="different outputs"):
        TelescopeLens(Noisy(WIDTH, 2).double(), eval_sets={"test": data()[0]})


def test_a_smoother_needs_to_be_told_of_training():
    model = made(Told)
    with pytest.raises(ConfigurationError, match="probes=8 needs optimizer, loss, train_inputs"):
        TelescopeLens(model, eval_sets={"test": data()[0]}, probes=8)
    with pytest.raises(ConfigurationError, match="no set"):
        TelescopeLens(model)


class Pairs(torch.utils.data.Dataset):
    """Inputs and targets, as datasets have them."""

    def __len__(self):
        return ROWS

    def __getitem__(self, position):
        inputs, targets = data()
        return inputs[position], targets[position]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from (Pairs()[i] for i in range(ROWS))


def test_loaders_and_samples_as_evaluation_sets():
    inputs, model = data()[0], made(Told)
    sets = {
        "loader": torch.utils.data.DataLoader(Pairs(), batch_size=7, shuffle=True),
        "stream": torch.utils.data.DataLoader(Stream(), batch_size=7),
        "dataset": Rows(inputs),
        "tensor": inputs,
    }
    state = torch.get_rng_state()
    lens = TelescopeLens(model, eval_sets=sets, eval_rows=10, output="logits")
    assert torch.equal(torch.get_rng_state(), state)
    spaced = model(inputs[torch.arange(10) * ROWS // 10])["logits"]
    for name in ("loader", "dataset", "tensor"):
        torch.testing.assert_close(lens.predictions(name), spaced.detach(), rtol=0, atol=0)
    assert torch.equal(lens.predictions("stream"), model(inputs[:10])["logits"].detach())
    with pytest.raises(ConfigurationError, match="eval_rows"):
        TelescopeLens(model, eval_sets=sets, eval_rows=0)
    on_train = TelescopeLens(model, train_inputs=sets["loader"], eval_rows=10, output="logits")
    torch.testing.assert_close(on_train.predictions("train"), spaced.detach(), rtol=0, atol=0)


class Rows(torch.utils.data.Dataset):
    """Inputs alone."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, position):
        return self.inputs[position]
