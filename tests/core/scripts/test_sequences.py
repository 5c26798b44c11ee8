"""Language models, BERT, fine-tuning by adapters, as they are trained."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.scripts import Ended, assert_derivative, assert_predictions, followed, run
from telescope_core.errors import RefusalWarning

D = torch.float64
WORDS, STEPS = 5, 4


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def words(*shape, seed=0):
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


def soft(*shape):
    """Labels: weights of classes."""
    return torch.softmax(2 * random(*shape, seed=1), dim=-1)


def of_words(logits, targets):
    """Cross-entropy of every position."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


TEXT, NEXT, TEST_TEXT = words(6, STEPS), soft(6, STEPS, WORDS), words(2, STEPS, seed=2)


# ----------------------------------------------------------------------------------------- a GPT


class Block(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(dropout)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        parts = self.qkv(self.before(x)).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        x = x + self.drop(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.mlp(self.between(x))


class GPT(nn.Module):
    """Returns logits and, where it is given targets, its loss; embedding and head are tied."""

    def __init__(self, width=8, dropout=0.1):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(STEPS, width)
        self.drop, self.block = nn.Dropout(dropout), Block(width, 2, dropout)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.words.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)

    def forward(self, text, targets=None):
        x = self.words(text) + self.places(torch.arange(text.shape[1]))
        logits = self.head(self.norm(self.block(self.drop(x))))
        return logits, None if targets is None else of_words(logits, targets)


def train_gpt(Lens, shift=0):
    model, targets = GPT().to(D), NEXT + shift
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    lens = Lens(model, optimizer, of_words, TEXT, targets, {"test": TEST_TEXT}, output=0)
    model.train()
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1) / 6
        if step == 3:
            model.eval()
            with torch.no_grad():
                model(TEST_TEXT, words(2, STEPS))
            model.train()
        batch = torch.randperm(len(TEXT))[:4]
        with lens.step(batch):
            for part in batch.chunk(2):  # accumulated
                _, loss = model(TEXT[part], targets[part])
                scaler.scale(loss / 2).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(TEST_TEXT)[0].detach()})


def test_a_gpt_with_dropout_and_tied_weights():
    assert_predictions(train_gpt)
    assert_derivative(train_gpt, NEXT)


# ------------------------------------------------------------------- recurrent language models


class Recurrent(nn.Module):
    """Steps first, as recurrent layers have it; the state is given and returned."""

    def __init__(self, kind, width=6):
        super().__init__()
        self.drop, self.words = nn.Dropout(0.2), nn.Embedding(WORDS, width)
        self.layers = kind(width, width, 2, dropout=0.2)
        self.head = nn.Linear(width, WORDS)
        self.head.weight = self.words.weight

    def forward(self, text, state=None):
        outputs, state = self.layers(self.drop(self.words(text.T)), state)
        return self.head(self.drop(outputs)).transpose(0, 1), state


def detached(state):
    return state.detach() if isinstance(state, torch.Tensor) else tuple(map(detached, state))


def train_recurrent(kind):
    def train(Lens, shift=0):
        model, targets = Recurrent(kind).to(D), NEXT + shift
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        lens = Lens(model, optimizer, of_words, TEXT, targets, {"test": TEST_TEXT}, output=0)
        model.train()
        for _ in range(3):
            state = None  # carried from one batch to the next
            for batch in torch.arange(6).split(3):
                with lens.step(batch):
                    model.zero_grad()
                    state = None if state is None else detached(state)
                    logits, state = model(TEXT[batch], state)
                    of_words(logits, targets[batch]).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
                    optimizer.step()
        model.eval()
        return Ended(model, optimizer, lens, {"test": model(TEST_TEXT)[0].detach()})

    return train


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_language_model(kind):
    """The state that is carried depends on the labels of the batches before, which is named."""
    assert_predictions(train_recurrent(kind))
    with pytest.warns(RefusalWarning, match="a state carried from pass to pass moved where no"):
        lens = run(train_recurrent(kind), followed(probes=3)).lens
    assert lens.unfollowed == ("a state carried from pass to pass",)


def test_a_recurrent_language_model_whose_state_starts_anew():
    """Nothing is carried from one batch to the next."""

    def train(Lens, shift=0):
        model, targets = Recurrent(nn.LSTM).to(D), NEXT + shift
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        lens = Lens(model, optimizer, of_words, TEXT, targets, {"test": TEST_TEXT}, output=0)
        model.train()
        for batch in torch.arange(24).remainder(6).split(3):
            with lens.step(batch):
                optimizer.zero_grad()
                of_words(model(TEXT[batch])[0], targets[batch]).backward()
                optimizer.step()
        model.eval()
        return Ended(model, optimizer, lens, {"test": model(TEST_TEXT)[0].detach()})

    assert_derivative(train, NEXT)


class Padded(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 4, padding_idx=0)
        self.layers = nn.GRU(4, 5, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.head = nn.Linear(10, 3)

    def forward(self, text):
        lengths = (text != 0).sum(dim=1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(text), lengths, batch_first=True, enforce_sorted=False
        )
        outputs, _ = self.layers(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
        return self.head(padded.mean(dim=1))


PADDED = torch.tensor([[1, 2, 3, 4], [2, 1, 0, 0], [4, 4, 3, 0], [1, 0, 0, 0]])
LABELS = soft(4, 3)


def train_padded(Lens, shift=0):
    model, labels = Padded().to(D), LABELS + shift
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    lens = Lens(model, optimizer, criterion, PADDED, labels, {"test": PADDED[:2]})
    for _ in range(6):
        batch = torch.randperm(4)[:3]
        model.train()
        with lens.step(batch):
            optimizer.zero_grad()
            criterion(model(PADDED[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(PADDED[:2]).detach()})


def test_packed_sequences():
    assert_predictions(train_padded)
    assert_derivative(train_padded, LABELS)


# ----------------------------------------------------------------------------------------- BERT


def train_bert(Lens, shift=0):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    model, labels = transformers.BertForSequenceClassification(config).to(D), LABELS + shift
    data = {"input_ids": PADDED, "attention_mask": (PADDED != 0).long()}
    test = {name: rows[:2] for name, rows in data.items()}
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1, 6)
    lens = Lens(model, optimizer, criterion, data, labels, {"test": test}, output="logits")
    model.train()
    for _ in range(5):
        batch = torch.randperm(4)[:3]
        with lens.step(batch):
            outputs = model(**{name: rows[batch] for name, rows in data.items()})
            criterion(outputs.logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(**test).logits.detach()})


def test_bert_in_a_plain_loop():
    assert_predictions(train_bert)
    assert_derivative(train_bert, LABELS)


# --------------------------------------------------------------------------- low-rank adapters


class Adapted(nn.Module):
    """A frozen layer with a low-rank change; merged into it where the model is evaluated."""

    def __init__(self, layer, rank=2, merges=False):
        super().__init__()
        self.layer, self.merges, self.is_merged = layer.requires_grad_(False), merges, False
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.drop = nn.Dropout(0.2)

    def train(self, mode=True):
        super().train(mode)
        if self.merges and self.is_merged == mode:
            self.layer.weight.data += (self.up @ self.down).detach() * (-1 if mode else 1)
            self.is_merged = not mode
        return self

    def forward(self, x):
        y = self.layer(x)
        return y if self.is_merged else y + self.drop(x) @ self.down.T @ self.up.T


def train_adapters(Lens, shift=0, merges=False):
    model = nn.Sequential(nn.Embedding(WORDS, 6), nn.Flatten(), nn.Linear(24, 8), nn.GELU())
    model.append(nn.Linear(8, 3)).to(D).requires_grad_(False)
    for place in (2, 4):
        model[place] = Adapted(model[place], merges=merges).to(D)
    labels, criterion = LABELS + shift, nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    lens = Lens(model, optimizer, criterion, PADDED, labels, {"test": PADDED[:2]})
    for _ in range(6):
        model.train()
        batch = torch.randperm(4)[:3]
        with lens.step(batch):
            criterion(model(PADDED[batch]), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    outputs = model.eval()(PADDED[:2]).detach()
    if merges:
        model.train()  # as the lens is to be read
    return Ended(model, optimizer, lens, {"test": outputs})


def test_adapters_that_merge_are_read_in_the_mode_of_training():
    assert_predictions(lambda Lens: train_adapters(Lens, merges=True))


def test_fine_tuning_by_low_rank_adapters():
    assert_predictions(train_adapters)
    assert_derivative(train_adapters, LABELS)
