"""The losses that models of transformers and its Trainer compute are recognised and followed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional

from telescope_core.errors import ConfigurationError
from telescope_core.lens import TelescopeLens
from telescope_core.losses.own import own_loss, standard_losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs telescope-lens[transformers]")

pytestmark = pytest.mark.filterwarnings("ignore:::transformers")


def tiny(kind, labels=3, **options):
    torch.manual_seed(0)
    name = "GPT2Config" if kind.startswith("GPT2") else "BertConfig"
    sizes = {
        "GPT2Config": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8},
        "BertConfig": {
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "max_position_embeddings": 8,
        },
    }  # fmt: skip
    config = getattr(transformers, name)(
        vocab_size=12, num_labels=labels, pad_token_id=0, **sizes[name], **options
    )
    return getattr(transformers, kind)(config)


def tokens():
    return torch.randint(1, 12, (6, 5), generator=torch.Generator().manual_seed(2))


def some_ignored(labels):
    labels = labels.clone()
    labels[:, -1] = -100
    labels[1] = -100
    return labels


@pytest.mark.parametrize(
    ("kind", "options", "labels", "name"),
    [
        ("BertForSequenceClassification", {}, tokens()[:, 0] % 3, "cross-entropy"),
        ("GPT2ForSequenceClassification", {}, tokens()[:, 0] % 3, "cross-entropy"),
        ("BertForSequenceClassification", {"labels": 1}, torch.randn(6), "squared error"),
        (
            "BertForSequenceClassification",
            {"problem_type": "regression"},
            torch.randn(6, 3),
            "squared error",
        ),
        (
            "BertForSequenceClassification",
            {"problem_type": "multi_label_classification"},
            (tokens()[:, :3] % 2).float(),
            "binary cross-entropy of logits",
        ),
        ("BertForTokenClassification", {}, some_ignored(tokens() % 3), "cross-entropy"),
        ("BertForMaskedLM", {}, some_ignored(tokens()), "cross-entropy"),
        ("GPT2LMHeadModel", {}, some_ignored(tokens()), "cross-entropy of the next position"),
    ],
)
def test_the_losses_of_transformers_are_recognised(kind, options, labels, name):
    model = tiny(kind, **options).train()
    given = {"input_ids": tokens(), "labels": labels}
    found = own_loss(model, "loss", "logits", given, "labels")
    assert found.name == name
    # In train mode, with its dropout, the loss is the same function of its outputs.
    returned = model(**given)
    torch.testing.assert_close(found(returned.logits, labels), returned.loss)


@pytest.mark.parametrize("shift", [False, True])
def test_the_label_smoothing_of_the_trainer(shift):
    from transformers.trainer_pt_utils import LabelSmoother

    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(6, 5, 12, generator=generator), some_ignored(tokens())
    theirs = LabelSmoother(epsilon=0.2)({"logits": logits}, labels, shift_labels=shift)
    ours = list(standard_losses(logits, labels))[shift].smoothed(0.2)
    assert ours.name.endswith("with label smoothing")
    torch.testing.assert_close(ours(logits, labels), theirs)
    # Class probabilities, zero where there is no label, are the same.
    held = (labels == -100)[..., None]
    one_hot = functional.one_hot(labels.clamp(min=0), 12).masked_fill(held, 0).float()
    torch.testing.assert_close(ours(logits, one_hot), theirs)
    (squares, _) = standard_losses(logits, logits)
    with pytest.raises(ConfigurationError, match="squared error cannot be smoothed"):
        squares.smoothed(0.2)


def test_a_language_model_with_its_dropout_and_padding_is_followed():
    model, ids = tiny("GPT2LMHeadModel").train(), tokens()
    labels = some_ignored(ids)
    train = {"input_ids": ids, "labels": labels}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    lens = TelescopeLens(
        model, optimizer, "loss", train, eval_sets={"test": {"input_ids": ids + 0}},
        output="logits", probes=4, stride=2,
    )  # fmt: skip
    for _ in range(3):
        with lens.step(torch.arange(6)):
            optimizer.zero_grad()
            model(**train).loss.backward()
            optimizer.step()
    record = lens.snapshot().to_record()
    assert lens.strategy == "replayed"
    assert lens.response == "softmax"
    assert 0 < record["train/degrees_of_freedom"] < 6
