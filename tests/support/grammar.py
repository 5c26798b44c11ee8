"""Random models from a grammar, in short training runs.

A recipe is plain data: its repr builds it again.  All pieces of a model's body keep the width of
the features, so that any of them may be left out; the pool of layers is used by number, so that a
layer may serve many pieces or none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing import LOSSES, OPTIMIZERS, Training

_TOKENS = 5
_FEATURES = 3


# ----------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class Layer:
    """A square linear layer of the pool; ``tied`` has the weight of the first one."""

    bias: bool = True
    zero: bool = False
    frozen: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Dense:
    """A layer of the pool in one of the ways there are to use it, and an activation."""

    layer: int
    use: str = "module"
    activation: str = "none"
    inplace: bool = False


@dataclass(frozen=True)
class Norm:
    kind: str


@dataclass(frozen=True)
class Convolution:
    channels: int


@dataclass(frozen=True)
class Experts:
    """Rows go to one of two layers of the pool, by the sign of a feature of the input."""

    first: int
    second: int


@dataclass(frozen=True)
class Temperature:
    """A trained factor without dimensions."""


@dataclass(frozen=True)
class Residual:
    """h plus the inner pieces, times a 0-dimensional gate that starts at 0 if ``gated``."""

    inner: tuple[Piece, ...]
    gated: bool = False
    inplace: bool = False


@dataclass(frozen=True)
class Product:
    """h times the tanh of the inner pieces."""

    inner: tuple[Piece, ...]


Piece = Dense | Norm | Convolution | Experts | Temperature | Residual | Product

USES = ("module", "functional", "transposed", "sequence-first", "chunks", "outer")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "softplus": functional.softplus,
    "relu": functional.relu,
}
INPLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h.mul_(0.9),
    "tanh": torch.tanh_,
    "gelu": lambda h: functional.silu(h, inplace=True),
    "softplus": lambda h: functional.elu(h, inplace=True),
    "relu": functional.relu_,
}
# With so few features a small ε would make cliffs where they are nearly equal.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": lambda width: nn.LayerNorm(width, eps=0.1),
    "layer-plain": lambda width: nn.LayerNorm(width, eps=0.1, elementwise_affine=False),
    "rms": lambda width: nn.RMSNorm(width, eps=0.1),
    "group": lambda width: nn.GroupNorm(1, width, eps=0.1),
    "batch": nn.BatchNorm1d,
}
HEADS = ("linear", "zero", "experts", "tied", "tied-embedding")
STEMS = ("linear", "identity", "inplace", "embedding", "embedding-padded")
OWN_LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    **{name: LOSSES[name] for name in ("mse", "half-squared", "huber")},
    "weighted": (
        lambda f, y: ((f - y) ** 2 * torch.logspace(0, 1, f[0].numel(), dtype=f.dtype)).mean(),
        "real",
    ),
    "binary-cross-entropy": LOSSES["binary-cross-entropy"],
    "cross-entropy": LOSSES["cross-entropy"],
}
SQUARED = ("mse", "half-squared", "weighted")


# ------------------------------------------------------------------------ model


class Network(nn.Module):
    """The model of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        width, k = recipe.width, max(recipe.outputs, 1)
        self.pool = nn.ModuleList(nn.Linear(width, width, bias=y.bias) for y in recipe.layers)
        for layer, made in zip(recipe.layers, self.pool, strict=True):
            if layer.tied:
                made.weight = self.pool[0].weight
            if layer.zero:
                nn.init.zeros_(made.weight)
        if recipe.alias:
            self.alias = self.pool[-1]
        self.owned = nn.ModuleDict()
        self.scalars = nn.ParameterDict()
        self._own("body", recipe.body)
        if recipe.stem == "linear":
            self.stem = nn.Linear(_FEATURES, width)
        elif recipe.stem.startswith("embedding"):
            padding = 0 if recipe.stem == "embedding-padded" else None
            self.embedding = nn.Embedding(_TOKENS, width, padding_idx=padding)
        if recipe.head in ("linear", "zero", "experts"):
            self.head = nn.Linear(width, k)
        if recipe.head == "zero":
            nn.init.zeros_(self.head.weight)
        if recipe.head == "experts":
            self.other_head = nn.Linear(width, k)
        if recipe.unused:
            self.unused = nn.Parameter(torch.ones(2))
        for layer, made in zip(recipe.layers, self.pool, strict=True):
            if layer.frozen:
                made.requires_grad_(False)

    def _own(self, path: str, pieces: tuple[Piece, ...]) -> None:
        width = self.recipe.width
        for number, piece in enumerate(pieces):
            name = f"{path}_{number}"
            if isinstance(piece, Norm):
                self.owned[name] = NORMS[piece.kind](width)
            elif isinstance(piece, Convolution):
                self.owned[name] = nn.Conv1d(1, piece.channels, kernel_size=3, padding=1)
            elif isinstance(piece, Temperature):
                self.scalars[name] = nn.Parameter(torch.tensor(0.1))
            elif isinstance(piece, Residual | Product):
                self._own(name, piece.inner)
                if isinstance(piece, Residual) and piece.gated:
                    self.scalars[name] = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        recipe = self.recipe
        routed = x[:, 0] % 2 == 0 if recipe.tokens else x[:, 0] > 0
        routes = (routed.nonzero()[:, 0], (~routed).nonzero()[:, 0])
        if recipe.tokens:
            h = self.embedding(x).mean(dim=1)
        elif recipe.stem == "linear":
            h = self.stem(x)
        else:
            h = x.clamp_(-1.5, 1.5) if recipe.stem == "inplace" else x
            h = functional.pad(h, (0, max(0, recipe.width - _FEATURES)))[:, : recipe.width]
        h = self._run("body", recipe.body, h, routes)
        k = max(recipe.outputs, 1)
        if recipe.head == "experts":
            y = self._experts(h, routes, self.head, self.other_head, k)
        elif recipe.head == "tied":
            y = functional.linear(h, self.pool[0].weight[:k])
        elif recipe.head == "tied-embedding":
            y = functional.linear(h, self.embedding.weight[:k])
        else:
            y = self.head(h)
        return y if recipe.outputs else y[:, 0]

    def _run(
        self, path: str, pieces: tuple[Piece, ...], h: Tensor, routes: tuple[Tensor, Tensor]
    ) -> Tensor:
        for number, piece in enumerate(pieces):
            name = f"{path}_{number}"
            if isinstance(piece, Dense):
                h = self._dense(piece, h)
            elif isinstance(piece, Norm):
                h = self.owned[name](h)
            elif isinstance(piece, Convolution):
                h = self.owned[name](h[:, None]).mean(dim=1)
            elif isinstance(piece, Experts):
                first, second = (self._layer(i) for i in (piece.first, piece.second))
                h = self._experts(h, routes, first, second, h.shape[1])
            elif isinstance(piece, Temperature):
                h = h * torch.exp(self.scalars[name])
            elif isinstance(piece, Product):
                h = h * torch.tanh(self._run(name, piece.inner, h, routes))
            else:
                branch = self._run(name, piece.inner, h, routes)
                branch = branch * (self.scalars[name] if piece.gated else 0.5)
                h = branch.add_(h) if piece.inplace else branch + h
        return h

    def _layer(self, number: int) -> nn.Module:
        return self.pool[number % len(self.pool)]

    def _dense(self, piece: Dense, h: Tensor) -> Tensor:
        layer = self._layer(piece.layer)
        if piece.use == "functional":
            h = functional.linear(h, layer.weight)
        elif piece.use == "transposed":
            h = h @ layer.weight
        elif piece.use == "sequence-first":
            h = layer(torch.stack([h, h.flip(1), 0.5 * h])).sum(dim=0)
        elif piece.use == "chunks":
            h = torch.cat([layer(chunk) for chunk in h.split(2)])
        elif piece.use == "outer":
            h = layer((h[:, :, None] * h[:, None, :]).transpose(1, 2)).mean(dim=1)
        else:
            h = layer(h)
        return (INPLACE if piece.inplace else ACTIVATIONS)[piece.activation](h)

    @staticmethod
    def _experts(
        h: Tensor, routes: tuple[Tensor, Tensor], first: nn.Module, second: nn.Module, width: int
    ) -> Tensor:
        y = h.new_zeros(len(h), width)
        for rows, expert in zip(routes, (first, second), strict=True):
            y = y.index_copy(0, rows, expert(h.index_select(0, rows)))
        return y


# ----------------------------------------------------------------------- recipe


@dataclass(frozen=True)
class Recipe:
    """A model, its training, and how it is followed; the same recipe gives the same run."""

    layers: tuple[Layer, ...] = (Layer(),)
    body: tuple[Piece, ...] = ()
    stem: str = "linear"
    head: str = "linear"
    width: int = 3
    outputs: int = 0
    alias: bool = False
    unused: bool = False
    optimizer: str = "sgd"
    loss: str = "mse"
    rows: int = 6
    batch_size: int | None = 3
    steps: int = 4
    schedule: str | None = None
    order: int = 2
    stride: int = 2
    form: str = "auto"
    strategy: str = "parameter-space"
    seed: int = 0

    @property
    def tokens(self) -> bool:
        """Whether inputs are integers."""
        return self.stem.startswith("embedding")

    @property
    def quadrature(self) -> str:
        """What stands for J̄ in the smoother."""
        if self.order == 1:
            return "start"
        return "midpoint" if self.strategy == "midpoint" else "trapezoid"

    def start(self) -> Training:
        """Build everything anew, leaving the global random state as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Network(self).double().eval()
            batches = [self._batch() for _ in range(self.steps)]
            loss, kind = OWN_LOSSES[self.loss]
            return Training(
                model,
                OPTIMIZERS[self.optimizer](model),
                loss,
                self._inputs(self.rows),
                self._targets(kind),
                {"test": self._inputs(3)},
                batches,
                self.schedule,
            )

    def _batch(self) -> Tensor:
        if self.batch_size is None:
            return torch.arange(self.rows)
        return torch.randperm(self.rows)[: self.batch_size]

    def _inputs(self, rows: int) -> Tensor:
        if self.tokens:
            return torch.randint(_TOKENS, (rows, 3))
        return torch.randn(rows, _FEATURES, dtype=torch.float64)

    def _targets(self, kind: str) -> Tensor:
        if kind == "classes":
            return torch.randint(self.outputs, (self.rows,))
        shape = (self.rows, self.outputs) if self.outputs else (self.rows,)
        real = torch.randn(shape, dtype=torch.float64)
        return (real > 0).double() if kind == "binary" else real


# ------------------------------------------------------------------- strategies

LAYER = st.builds(
    Layer,
    bias=st.booleans(),
    zero=st.booleans(),
    frozen=st.sampled_from([False, False, False, True]),
    tied=st.sampled_from([False, False, True]),
)
NUMBER = st.integers(0, 2)
SIMPLE = st.one_of(
    st.builds(
        Dense,
        layer=NUMBER,
        use=st.sampled_from(USES),
        activation=st.sampled_from(tuple(ACTIVATIONS)),
        inplace=st.booleans(),
    ),
    st.builds(Norm, kind=st.sampled_from(tuple(NORMS))),
    st.builds(Convolution, channels=st.integers(1, 2)),
    st.builds(Experts, first=NUMBER, second=NUMBER),
    st.builds(Temperature),
)


def _tuples(piece: st.SearchStrategy[Piece], most: int) -> st.SearchStrategy[tuple[Piece, ...]]:
    return st.lists(piece, min_size=1, max_size=most).map(tuple)


def _wider(piece: st.SearchStrategy[Piece]) -> st.SearchStrategy[Piece]:
    inner = _tuples(piece, 2)
    return st.one_of(
        st.builds(Residual, inner=inner, gated=st.booleans(), inplace=st.booleans()),
        st.builds(Product, inner=inner),
    )


PIECE: st.SearchStrategy[Piece] = st.recursive(SIMPLE, _wider, max_leaves=4)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes of every kind that can be trained."""
    order = draw(st.sampled_from([1, 2]))
    strategies = ["parameter-space", "auto"] + (["midpoint"] if order == 2 else [])
    outputs = draw(st.integers(0, 3))
    losses = [name for name in OWN_LOSSES if outputs > 1 or name != "cross-entropy"]
    stem = draw(st.sampled_from(STEMS))
    # The rows of a padding index have a derivative that backpropagation leaves out; tied to a head
    # they move all the same.
    heads = [name for name in HEADS if name != "tied-embedding" or stem == "embedding"]
    rows = draw(st.integers(5, 8))
    return Recipe(
        layers=tuple(draw(st.lists(LAYER, min_size=1, max_size=3))),
        body=draw(_tuples(PIECE, 4)),
        stem=stem,
        head=draw(st.sampled_from(heads)),
        width=draw(st.integers(max(2, outputs), 4)),
        outputs=outputs,
        alias=draw(st.booleans()),
        unused=draw(st.booleans()),
        optimizer=draw(st.sampled_from(tuple(OPTIMIZERS))),
        loss=draw(st.sampled_from(losses)),
        rows=rows,
        batch_size=draw(st.one_of(st.none(), st.integers(1, rows))),
        steps=draw(st.integers(2, 6)),
        schedule=draw(st.sampled_from([None, "before", "after"])),
        order=order,
        stride=draw(st.integers(1, 4)),
        form=draw(st.sampled_from(["auto", "functional"])),
        strategy=draw(st.sampled_from(strategies)),
        seed=draw(st.integers(0, 2**16)),
    )
