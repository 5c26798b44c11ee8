"""Graph networks and transformers of tables, as they are trained."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.scripts import Ended, assert_derivative, assert_predictions, followed, run
from telescope_core.errors import ModelError

D = torch.float64
NODES, WIDTH, CLASSES = 8, 5, 3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


LINKS = (random(NODES, NODES) > 0.8) | torch.eye(NODES, dtype=torch.bool)
ADJACENCY = LINKS.to(D) / LINKS.sum(dim=1, keepdim=True)
EDGES = LINKS.nonzero().T
FEATURES, LABELS = random(NODES, WIDTH), torch.softmax(random(NODES, CLASSES, seed=1), dim=-1)
SEEN = torch.tensor([0, 2, 3, 5])


class GCN(nn.Module):
    """It is given the features of all nodes, and the adjacency."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(0.5 * torch.randn(WIDTH, 6))
        self.last = nn.Parameter(0.5 * torch.randn(6, CLASSES))

    def forward(self, features, adjacency):
        x = functional.relu(torch.spmm(adjacency, torch.mm(features, self.first)))
        x = functional.dropout(x, 0.3, training=self.training)
        return functional.log_softmax(torch.spmm(adjacency, torch.mm(x, self.last)), dim=1)


def of_seen(log_probabilities, labels):
    """Of the labelled nodes alone."""
    return -(labels[SEEN] * log_probabilities[SEEN]).sum() / len(SEEN)


def train_gcn(adjacency, data, sets):
    def train(Lens, shift=0):
        model, labels = GCN().to(D), LABELS + shift
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
        lens = Lens(model, optimizer, of_seen, data, labels, sets)
        every = torch.arange(NODES)
        for _ in range(6):
            model.train()
            with lens.step(every):
                optimizer.zero_grad()
                of_seen(model(FEATURES, adjacency), labels).backward()
                optimizer.step()
            model.eval()
            model(FEATURES, adjacency)
        return Ended(model, optimizer, lens, {"nodes": model(FEATURES, adjacency).detach()})

    return train


def test_a_graph_network():
    train = train_gcn(ADJACENCY, (FEATURES, ADJACENCY), {"nodes": (FEATURES, ADJACENCY)})
    assert_predictions(train, share=0.2, has_kinks=True)
    assert_derivative(train, LABELS, "nodes")


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CS")
def test_a_graph_network_of_sparse_matrices(layout):
    """Its arguments are no rows: the set says how the model is called."""
    sparse = ADJACENCY.to_sparse(layout=layout)
    train = train_gcn(sparse, None, {"nodes": lambda model: model(FEATURES, sparse)})

    def unlabelled(Lens, shift=0):
        return train(lambda m, o, loss, x, y, sets, **options: Lens(m, o, eval_sets=sets), shift)

    assert_predictions(unlabelled, share=0.2, has_kinks=True)


class Attention(nn.Module):
    """Messages along edges, weighted by attention, with batch statistics; it holds the edges."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 6), nn.Linear(6, CLASSES)
        self.score, self.norm = nn.Linear(12, 1), nn.BatchNorm1d(6)
        self.register_buffer("edges", EDGES)

    def forward(self, x):
        x = self.first(x)
        source, target = self.edges
        scores = functional.leaky_relu(self.score(torch.cat([x[source], x[target]], dim=1)), 0.2)
        peak = scores.detach().new_full((len(x), 1), -torch.inf)
        peak = peak.scatter_reduce(0, target[:, None], scores.detach(), "amax")
        weights = (scores - peak[target]).exp()
        total = torch.zeros_like(x[:, :1]).index_add(0, target, weights)
        weights = functional.dropout(weights / total[target], 0.2, self.training)
        x = torch.zeros_like(x).scatter_add(0, target[:, None].expand(-1, 6), weights * x[source])
        return self.last(functional.elu(self.norm(x)))


def train_attention(Lens, shift=0):
    model, labels = Attention().to(D), LABELS + shift
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    lens = Lens(model, optimizer, criterion, FEATURES, labels, {"nodes": FEATURES})
    for _ in range(6):
        model.train()
        with lens.step(torch.arange(NODES)):
            optimizer.zero_grad()
            criterion(model(FEATURES), labels).backward()
            optimizer.step()
    model.eval()
    return Ended(model, optimizer, lens, {"nodes": model(FEATURES).detach()})


def test_a_graph_network_with_attention():
    assert_predictions(train_attention)
    assert_derivative(train_attention, LABELS, "nodes")


def test_a_call_of_the_model_that_gives_no_rows_is_refused():
    with pytest.raises(ModelError, match="the call of the model gave tuple of 2"):
        followed(probes=None)(Attention().to(D), eval_sets={"x": lambda m: (m(FEATURES), 1)})


# ------------------------------------------------------------------------- a transformer of tables


class TableTransformer(nn.Module):
    """Every column is a token: numbers scaled, categories looked up."""

    def __init__(self, width=8):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, width))
        self.shift = nn.Parameter(torch.zeros(3, width))
        self.categories = nn.ModuleList(nn.Embedding(count, width) for count in (4, 3))
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 16, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, numbers, categories):
        tokens = [
            self.cls.expand(len(numbers), -1, -1),
            numbers[..., None] * self.scale + self.shift,
        ]
        tokens += [e(c)[:, None] for e, c in zip(self.categories, categories.T, strict=True)]
        return self.head(self.layers(torch.cat(tokens, dim=1))[:, 0]).squeeze(-1)


NUMBERS, PRICES = random(10, 3), random(10, seed=4)
CATEGORIES = torch.tensor([[i % 4, i % 3] for i in range(10)])
TEST = (random(3, 3, seed=5), CATEGORIES[:3])


def train_table(Lens, shift=0):
    model, prices = TableTransformer().to(D), PRICES + shift
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5)
    lens = Lens(model, optimizer, criterion, (NUMBERS, CATEGORIES), prices, {"test": TEST})
    for _ in range(2):
        model.train()
        for batch in torch.randperm(10).split(4):
            with lens.step(batch):
                optimizer.zero_grad()
                loss = criterion(model(NUMBERS[batch], CATEGORIES[batch]), prices[batch])
                loss.backward()
                optimizer.step()
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(*TEST).detach()})


def test_a_transformer_of_tables():
    assert_predictions(train_table)
    assert_derivative(train_table, PRICES)


# ----------------------------------------------- a state that is given, rows that are positions


class StepsFirst(nn.Module):
    """Positions of all sequences are its rows; the state is a pair that it is given."""

    def __init__(self):
        super().__init__()
        self.words, self.layers = nn.Embedding(5, 6), nn.LSTM(6, 6, 2, dropout=0.2)
        self.head = nn.Linear(6, 5)

    def forward(self, text, state):
        outputs, state = self.layers(self.words(text), state)
        return functional.log_softmax(self.head(outputs).flatten(0, 1), dim=1), state

    def start(self, batch):
        zeros = next(self.parameters()).new_zeros(2, batch, 6)
        return zeros, zeros


def train_steps_first(Lens, shift=0):
    text = torch.arange(39).remainder(7).remainder(5).view(13, 3)
    model = StepsFirst().to(D)
    rate = 0.5
    lens = Lens(model, eval_sets={"val": lambda m: m(text[:4], m.start(3))}, output=0)
    model.train()
    state = model.start(3)
    for start in range(0, 12, 4):
        with lens.step():
            model.zero_grad()
            state = tuple(part.detach() for part in state)
            outputs, state = model(text[start : start + 4], state)
            functional.nll_loss(outputs, text[start + 1 : start + 5].flatten()).backward()
            for parameter in model.parameters():
                parameter.data.add_(parameter.grad, alpha=-rate)
    model.eval()
    outputs = model(text[:4], model.start(3))[0].detach()
    return Ended(model, (), lens, {"val": outputs})


def test_a_model_that_is_called_with_more_than_rows():
    assert_predictions(train_steps_first)
    lens = run(train_steps_first, followed(probes=None, eval_rows=5)).lens
    assert lens.predictions("val").shape == (5, 5)
