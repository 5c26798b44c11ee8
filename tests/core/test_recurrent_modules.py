"""Models with LSTM, GRU and RNN modules: right products, right smoother, training untouched."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from telescope_core.jacobians import Linearizer
from telescope_core.network.inputs import call_arguments, map_rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing import Scenario, assert_agrees

D = torch.float64
LENGTHS = torch.tensor([2, 4, 1, 3])


class Sequences(nn.Module):
    """Reads the whole output and the last state, so that every result of the module matters."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        x = x if self.recurrent.batch_first else x.transpose(0, 1)
        outputs, state = self.recurrent(x)
        outputs = outputs if self.recurrent.batch_first else outputs.transpose(0, 1)
        states = state if isinstance(state, tuple) else (state,)
        read = [outputs.cumsum(1).tanh().sum(1), *(s.transpose(0, 1).flatten(1) for s in states)]
        return torch.cat(read, dim=1)[:, ::3]


class Ragged(Sequences):
    """The same for packed sequences of different lengths, not sorted."""

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, state = self.recurrent(packed)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True)
        states = state if isinstance(state, tuple) else (state,)
        read = [outputs.tanh().sum(1), *(s.transpose(0, 1).flatten(1) for s in states)]
        return torch.cat(read, dim=1)[:, ::3]


class Translator(nn.Module):
    """One module starts in the state where another one ended, and is used twice."""

    def __init__(self, kind):
        super().__init__()
        self.reader = kind(3, 4, batch_first=True)
        self.writer = kind(3, 4, batch_first=True)

    def forward(self, x):
        _, state = self.reader(x)
        first, state = self.writer(x.flip(1), state)
        second, _ = self.writer(x, state)
        return (first * second).sum(1)


def module(kind, model=Sequences, **options):
    return lambda: model(kind(3, 4, **{"batch_first": True, **options}))


MODELS = {
    "lstm": module(nn.LSTM),
    "lstm-layers": module(nn.LSTM, num_layers=2),
    "lstm-both-ways": module(nn.LSTM, num_layers=2, bidirectional=True),
    "lstm-projected": module(nn.LSTM, num_layers=2, proj_size=2, bidirectional=True),
    "lstm-steps-first": module(nn.LSTM, batch_first=False, bias=False),
    "gru": module(nn.GRU),
    "gru-layers": module(nn.GRU, num_layers=2, bias=False),
    "gru-both-ways": module(nn.GRU, num_layers=2, bidirectional=True),
    "gru-steps-first": module(nn.GRU, batch_first=False),
    "rnn": module(nn.RNN, num_layers=2, bidirectional=True),
    "rnn-relu": module(nn.RNN, nonlinearity="relu"),
    "two-lstms": lambda: Translator(nn.LSTM),
    "two-grus": lambda: Translator(nn.GRU),
    "packed-lstm": module(nn.LSTM, Ragged, num_layers=2, bidirectional=True),
    "packed-gru": module(nn.GRU, Ragged, batch_first=False),
    "packed-rnn": module(nn.RNN, Ragged, bidirectional=True),
}


def prepare(name, dtype=D):
    torch.manual_seed(3)
    model = MODELS[name]().to(dtype)
    x = torch.randn(4, 4, 3, dtype=dtype)
    layout = ParameterLayout(dict(model.named_parameters()), dtype)
    return model, ((x, LENGTHS) if "packed" in name else x), layout


def plain(model, rows, layout):
    """Outputs and Jacobian by backpropagation through the model's own kernels."""
    args, kwargs = call_arguments(model, rows)
    outputs = model(*args, **kwargs)
    parameters = {n: p for n, p in model.named_parameters() if n in layout.by_name}
    jacobian = [
        layout.flatten(
            dict(
                zip(
                    parameters,
                    torch.autograd.grad(output, list(parameters.values()), retain_graph=True),
                    strict=True,
                )
            )
        )
        for output in outputs.flatten()
    ]
    return outputs.detach(), torch.stack(jacobian).view(*outputs.shape, -1)


def assert_products(linearizer, model, rows, layout, tolerance):
    f, J = plain(model, rows, layout)
    made = linearizer.linearize(linearizer.function.theta(), rows)
    assert_agrees(made.outputs, f, tolerance=tolerance, what="f")
    outputs = linearizer.outputs(linearizer.function.theta(), rows)
    assert_agrees(outputs, f, tolerance=tolerance, what="f")
    generator = torch.Generator().manual_seed(4)
    for m in (1, 30):
        V = torch.randn(layout.size, m, generator=generator, dtype=f.dtype)
        R = torch.randn(*f.shape, m, generator=generator, dtype=f.dtype)
        assert_agrees(made.jvp(V), J @ V, tolerance=tolerance, what="J·A")
        expected = J.flatten(0, 1).T @ R.flatten(0, 1)
        assert_agrees(made.vjp(R), expected, tolerance=tolerance, what="Jᵀ·R")
    some = made.rows(torch.tensor([3, 0]))
    expected = torch.einsum("ikp,jlp->ikjl", J, J[[3, 0]])
    assert_agrees(made.gram(some), expected, tolerance=tolerance, what="J·Jᵀ")


@pytest.mark.parametrize("name", MODELS)
def test_layer_factors_are_right(name):
    model, rows, layout = prepare(name)
    linearizer = Linearizer(model, layout, map_rows(rows, lambda leaf: leaf[:3]))
    assert linearizer.form == "factors"
    assert_products(linearizer, model, rows, layout, 1e-12)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_products_by_torch_func_are_right(name):
    model, rows, layout = prepare(name)
    linearizer = Linearizer(model, layout, rows[:3], "functional")
    assert_products(linearizer, model, rows, layout, 1e-12)
    assert not linearizer.function.by_column


@pytest.mark.parametrize("name", ["lstm-both-ways", "gru-both-ways", "rnn", "packed-lstm"])
def test_single_precision_where_the_model_has_other_kernels(name):
    model, rows, layout = prepare(name, torch.float32)
    linearizer = Linearizer(model, layout, map_rows(rows, lambda leaf: leaf[:3]))
    assert linearizer.form == "factors"
    assert_products(linearizer, model, rows, layout, 2e-6)


def test_frozen_weights_have_no_rows():
    model, rows, _ = prepare("lstm-both-ways")
    frozen = {"recurrent.weight_hh_l0", "recurrent.bias_ih_l1_reverse", "recurrent.weight_ih_l1"}
    trained = {n: p for n, p in model.named_parameters() if n not in frozen}
    layout = ParameterLayout(trained, D)
    linearizer = Linearizer(model, layout, rows[:3])
    assert linearizer.form == "factors"
    assert_products(linearizer, model, rows, layout, 1e-12)


class Scaled(nn.LSTM):
    """A subclass whose forward does something else."""

    def forward(self, x, state=None):
        outputs, state = super().forward(2 * x, state)
        return outputs, state


@pytest.mark.parametrize("how", ["subclass", "replaced forward"])
def test_modules_with_a_forward_of_their_own_are_not_unrolled(how):
    torch.manual_seed(3)
    kind = Scaled if how == "subclass" else nn.LSTM
    model = Sequences(kind(3, 4, batch_first=True)).double()
    if how == "replaced forward":
        original = model.recurrent.forward
        model.recurrent.forward = lambda x: original(2 * x)
    layout = ParameterLayout(dict(model.named_parameters()), D)
    rows = torch.randn(4, 3, 3, dtype=D)
    linearizer = Linearizer(model, layout, rows[:3])
    assert linearizer.form == "functional"
    assert_products(linearizer, model, rows, layout, 1e-12)
    assert ("forward" in vars(model.recurrent)) == (how == "replaced forward")


@pytest.mark.parametrize(
    ("specimen", "optimizer", "loss", "order", "stride"),
    [
        ("lstm", "adamw", "cross-entropy", 2, 3),
        ("lstm", "sgd-momentum", "mse", 1, 1),
        ("gru", "sgd-nesterov", "mse", 2, 4),
        ("gru", "adam-decay", "huber", 1, 3),
    ],
)
def test_the_lens_equals_the_oracle(specimen, optimizer, loss, order, stride, lens_of, oracle_of):
    training = Scenario(specimen, optimizer, loss, rows=6, steps=7).start()
    block = {"order": order, "stride": stride}
    lens = lens_of(training, strategy="parameter-space", **block)
    oracle = oracle_of(training, **block)
    quantities = ["predictions", "telescoped", "linearized", "smoother"]
    quantities += ["constant"] if loss == "mse" else []
    for moment in (5, 7):
        training.run(lens, oracle, steps=moment - training.done)
        for name in ("train", "test"):
            for quantity in quantities:
                actual, expected = (getattr(o, quantity)(name) for o in (lens, oracle))
                assert_agrees(actual, expected, tolerance=1e-9, what=f"{quantity} of {name}")
    assert float(oracle.smoother("test").abs().max()) > 1e-3, "nothing was learned"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("specimen", ["lstm", "gru"])
def test_training_has_the_same_bits_with_and_without_the_lens(specimen, dtype, lens_of):
    finals = []
    for watched in (True, False):
        training = Scenario(specimen, "adamw", "mse", steps=6).start()
        training.model.to(dtype)
        training.train_inputs = training.train_inputs.to(dtype)
        training.train_targets = training.train_targets.to(dtype)
        training.eval_sets = {name: x.to(dtype) for name, x in training.eval_sets.items()}
        observers = [lens_of(training, probes=5, stride=2)] if watched else []
        training.run(*observers)
        finals.append(training.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))
