"""Jacobian products of every kind of layer against the Jacobian written out in full."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from telescope_core.errors import ModelError
from telescope_core.jacobians import Linearizer
from telescope_core.network.inputs import call_arguments, count_rows, map_rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing import assert_agrees

D = torch.float64


class Tied(nn.Module):
    """Token classifier whose output layer is its embedding, with one layer used twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        h = torch.tanh(self.mix(torch.tanh(self.mix(self.embed(tokens)))))
        return self.out(self.norm(h).mean(1))


class OneWeightTwoBiases(nn.Module):
    """Two layers share a weight; the one with the later bias is used first."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.one(torch.tanh(self.two(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.RMSNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens):
        h = self.embed(tokens)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(self.norm(h))[:, -1]


class DotProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True))


class PaddedEncoder(nn.Module):
    """Two transformer layers; where a token is masked no other token looks at it."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        padding = x[..., 0] > 0.3
        padding = padding & ~padding.all(1, keepdim=True)
        return self.out(self.encoder(x, src_key_padding_mask=padding).mean(1))


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell(4, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.out(h)


class LongShortTerm(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[1]


class BareParameter(nn.Module):
    """A weight used outside of its layer, which no layer factor can see."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4, 3))
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        again = functional.linear(x, self.inner.weight).sum(1, keepdim=True)
        return functional.softplus(self.inner(x)) @ self.scale + again


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(2, 5)

    def forward(self, left, right):
        return torch.tanh(self.left(left)) * self.right(right)


class OneDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = TwoInputs()

    def forward(self, batch):
        return self.inner(batch["a"], batch["b"])


def batch_norm(kind, channels):
    layer = kind(channels).eval()
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        layer.weight.normal_()
    return layer


def images(*shape):
    return lambda: torch.randn(5, *shape, dtype=D)


def tokens(entries, length):
    return lambda: torch.randint(0, entries, (5, length))


PAIR = {"a": torch.randn(5, 3, dtype=D), "b": torch.randn(5, 2, dtype=D)}
MODELS = {
    "mlp-inplace": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)),
        images(5),
        "factors",
    ),
    "one-output": (
        lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.GELU(), nn.Linear(4, 1)),
        images(5),
        "factors",
    ),
    "sequence-output": (lambda: nn.Sequential(nn.Linear(3, 4), nn.SiLU()), images(6, 3), "factors"),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            batch_norm(nn.BatchNorm2d, 6),
            nn.ReLU(inplace=True),
            nn.GroupNorm(2, 6),
            nn.Conv2d(6, 6, 3, groups=3, padding="same", dilation=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(96, 4),
        ).eval(),
        images(3, 8, 8),
        "factors",
    ),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Flatten(), nn.Linear(72, 2)),
        images(4, 5, 5),
        "factors",
    ),
    "cnn-1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=2),
            batch_norm(nn.BatchNorm1d, 4),
            nn.Tanh(),
            nn.Conv1d(4, 4, 2, bias=False, padding="valid"),
            nn.Flatten(),
            nn.Linear(44, 1),
            nn.Flatten(0),
        ).eval(),
        images(2, 10),
        "factors",
    ),
    "circular": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()),
        images(2, 6),
        "functional",
    ),
    "tied": (Tied, tokens(11, 4), "factors"),
    "two-biases": (OneWeightTwoBiases, images(4), "factors"),
    "attention": (Attention, tokens(7, 5), "factors"),
    "attention-eval": (lambda: Attention().eval(), tokens(7, 5), "factors"),
    "dot-product": (DotProduct, images(4, 6), "factors"),
    "encoder-layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        images(2, 8),
        "factors",
    ),
    "encoder-layer-eval": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu").eval(),
        images(2, 8),
        "factors",
    ),
    # In eval mode torch would take fused layers, which treat padding differently.
    "padded-encoder": (lambda: PaddedEncoder().eval(), images(3, 8), "factors"),
    "gru": (lambda: Recurrent(nn.GRUCell), images(3, 4), "factors"),
    "rnn": (lambda: Recurrent(nn.RNNCell), images(3, 4), "factors"),
    "lstm-cell": (LongShortTerm, images(3, 4), "functional"),
    "bare": (BareParameter, images(4), "functional"),
    "two-inputs": (TwoInputs, lambda: tuple(PAIR.values()), "factors"),
    "keywords": (TwoInputs, lambda: {"left": PAIR["a"], "right": PAIR["b"]}, "factors"),
    "one-dict": (OneDict, lambda: PAIR, "factors"),
}


def prepare(name):
    torch.manual_seed(5)
    make, inputs, form = MODELS[name]
    model, rows = make().double(), inputs()
    layout = ParameterLayout(dict(model.named_parameters()), D)
    return model, rows, layout, form


def written_out(model, layout, rows):
    """The model's Jacobian by plain backpropagation, one row and one output at a time."""
    parameters = {n: p for n, p in model.named_parameters() if n in layout.by_name}
    jacobian = []
    for i in range(count_rows(rows)):
        one = map_rows(rows, lambda leaf, i=i: leaf[i : i + 1])
        args, kwargs = call_arguments(model, one)
        for output in model(*args, **kwargs).flatten():
            gradients = torch.autograd.grad(
                output, list(parameters.values()), retain_graph=True, allow_unused=True
            )
            named = zip(parameters.items(), gradients, strict=True)
            jacobian.append(
                layout.flatten({n: torch.zeros_like(p) if g is None else g for (n, p), g in named})
            )
    return torch.stack(jacobian).view(count_rows(rows), -1, layout.size)


@pytest.mark.parametrize("form", ["auto", "functional"])
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_full_jacobian(name, form):
    model, rows, layout, expected_form = prepare(name)
    linearizer = Linearizer(model, layout, map_rows(rows, lambda leaf: leaf[:3]), form)
    assert linearizer.form == ("functional" if form == "functional" else expected_form)
    J = written_out(model, layout, rows)
    made = linearizer.linearize(linearizer.function.theta(), rows)
    generator = torch.Generator().manual_seed(6)
    for m in (1, 3, 40):
        directions = torch.randn(layout.size, m, generator=generator, dtype=D)
        assert_agrees(made.jvp(directions), J @ directions, tolerance=1e-11, what="J·A")
        cotangents = torch.randn(*J.shape[:2], m, generator=generator, dtype=D)
        expected = J.flatten(0, 1).T @ cotangents.flatten(0, 1)
        assert_agrees(made.vjp(cotangents), expected, tolerance=1e-11, what="Jᵀ·R")
    index = torch.tensor([4, 0, 0])
    some = made.rows(index)
    assert torch.equal(some.outputs, made.outputs[index])
    expected = torch.einsum("ikp,jlp->ikjl", J, J[index])
    assert_agrees(made.gram(some), expected, tolerance=1e-11, what="J·Jᵀ")


@pytest.mark.parametrize("name", ["cnn", "attention", "keywords"])
def test_the_model_is_left_as_it_was(name):
    model, rows, layout, _ = prepare(name)
    linearizer = Linearizer(model, layout, map_rows(rows, lambda leaf: leaf[:3]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linearizer.linearize(linearizer.function.theta(), rows).jvp(torch.ones(layout.size, 2, dtype=D))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_have_no_rows():
    model, rows, _, _ = prepare("cnn")
    frozen = {"0.weight", "7.bias"}
    trained = {n: p for n, p in model.named_parameters() if n not in frozen}
    layout = ParameterLayout(trained, D)
    linearizer = Linearizer(model, layout, rows[:3])
    J = written_out(model, layout, rows)
    directions = torch.randn(layout.size, 3, dtype=D)
    made = linearizer.linearize(linearizer.function.theta(), rows)
    assert_agrees(made.jvp(directions), J @ directions, tolerance=1e-11, what="J·A")


class Unknown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return Unknown.apply(x * self.scale)


def test_a_backward_pass_that_is_not_the_derivative_is_refused_when_attaching():
    model = Opaque().double()
    layout = ParameterLayout(dict(model.named_parameters()), D)
    with pytest.raises(ModelError, match=r"not the derivative of its forward pass.*Unknown"):
        Linearizer(model, layout, torch.randn(3, 4, dtype=D))
