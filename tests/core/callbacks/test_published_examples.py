"""Small trainings as transformers and accelerate publish them, with only the callback added.

Each runs with and without it, to the same weights, optimizer state, random streams and losses; and
what the callback says of predictions is computed again from the parameters of every step.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, random_split

from support.trainings import Path, assert_same, assert_telescoped, digits, everything
from telescope_core.errors import ConfigurationError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs telescope-lens[transformers]")
    accelerate = pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")

from telescope_core.callbacks import accelerate as of_accelerate
from telescope_core.callbacks import transformers as of_transformers

pytestmark = pytest.mark.filterwarnings(
    *(f"ignore:::{name}" for name in ("accelerate", "torch.utils.data", "transformers"))
)


VOCABULARY, LONGEST = 30, 9


def sentences(count, seed):
    """Rows of different lengths with a column that no model takes."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, LONGEST, (count,), generator=generator).tolist()
    tokens = [torch.randint(1, VOCABULARY, (n,), generator=generator) for n in lengths]
    return [{"input_ids": t, "sentence": "…", "labels": int(t.sum() % 2)} for t in tokens]


def collate(rows):
    batch = {
        "input_ids": nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
    return {**batch, "attention_mask": (batch["input_ids"] > 0).long()}


def bert():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(  # with the dropout that it has by default
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=LONGEST,
        )
    )  # fmt: skip


def gpt():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=16, n_layer=1, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def language(rows):
    """Batches for a language model, whose labels are its inputs."""
    tokens = torch.stack([row["input_ids"][:4] for row in rows])
    return {"input_ids": tokens, "labels": tokens.clone()}


def train(
    tmp_path, *callbacks, model=bert, collator=collate, resume=None, evaluate=True, **options
):
    transformers.set_seed(0)
    settings = {
        "output_dir": str(tmp_path), "num_train_epochs": 3, "per_device_train_batch_size": 8,
        "learning_rate": 2e-3, "logging_steps": 2, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "eval_strategy": "epoch" if evaluate else "no",
    }  # fmt: skip
    trainer = transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(**settings | options),
        train_dataset=sentences(44, 1),
        eval_dataset=sentences(12, 2) if evaluate else None,
        data_collator=collator,
        callbacks=[*callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return trainer, everything(trainer.model, trainer.optimizer.state_dict(), losses)


class Noted(transformers.TrainerCallback):
    def on_train_begin(self, args, state, control, model, optimizer, **_):
        self.path = Path(model, optimizer.optimizer)


def test_the_trainer_with_a_model_as_it_is_by_default(tmp_path, capsys):
    callback, noted = of_transformers.TelescopeCallback(every=6), Noted()
    trainer, after = train(tmp_path, callback, noted)
    assert_same(after, train(tmp_path)[1])
    assert callback.lens.steps == 18
    batch = collate(sentences(12, 2))
    batch.pop("labels")
    assert_telescoped(callback.lens, "eval", noted.path, lambda m: m(**batch).logits)
    shown = [row for row in trainer.state.log_history if "eval/approximation_error" in row]
    assert [row["step"] for row in shown] == [6, 12, 18]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "sets"),
    [
        ({"bf16": True, "gradient_accumulation_steps": 4}, ("eval",)),
        ({"optim": "adafactor", "label_smoothing_factor": 0.1}, ("eval",)),
        ({"model": gpt, "collator": language}, ("eval",)),
        ({"evaluate": False}, ("first_batch",)),
    ],
    ids=["bfloat16 accumulated", "any optimizer", "language model", "no evaluation set"],
)
def test_the_trainer_with_other_settings(options, sets, tmp_path, capsys):
    callback = of_transformers.TelescopeCallback()
    trainer, after = train(tmp_path, callback, **options)
    assert_same(after, train(tmp_path, **options)[1])
    assert callback.lens.sets == sets
    assert callback.lens.steps == trainer.state.global_step
    record = callback.lens.snapshot().to_record()
    assert 0 < record[f"{sets[0]}/approximation_error"] < record[f"{sets[0]}/linearization_error"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "response"),
    [
        ({}, "softmax"),
        ({"bf16": True, "gradient_accumulation_steps": 3}, "softmax"),
        ({"model": gpt, "collator": language, "label_smoothing_factor": 0.1}, "softmax"),
    ],
    ids=["plain", "bfloat16 accumulated", "language model with label smoothing"],
)
def test_a_smoother_of_the_trainer_needs_the_number_of_probes_alone(
    options, response, tmp_path, capsys
):
    callback = of_transformers.TelescopeCallback(probes=4, stride=3)
    options = {"max_steps": 4, **options}
    _, after = train(tmp_path, callback, **options)
    assert_same(after, train(tmp_path, **options)[1])
    lens = callback.lens
    assert (lens.steps, lens.strategy, lens.response) == (4, "replayed", response)
    assert lens.sets == ("train", "eval")
    record = lens.snapshot().to_record()
    assert record["train/degrees_of_freedom"] != 0
    assert record["train/degrees_of_freedom_stderr"] > 0
    capsys.readouterr()


def test_of_a_large_training_set_a_sample_is_followed(tmp_path, monkeypatch, capsys):
    found = []
    for most, probes in ((1000, "exact"), (20, 60)):
        monkeypatch.setattr(of_transformers, "ROWS_OF_A_LOADER", most)
        callback = of_transformers.TelescopeCallback(probes=probes, stride=3)
        train(tmp_path, callback, max_steps=4)
        found.append(callback.lens.snapshot().to_record())
    exact, streamed = found
    for name in ("train/degrees_of_freedom", "eval/logit_sensitivity"):
        error = streamed[f"{name}_stderr"]
        assert 0 < error < abs(exact[name])
        assert abs(streamed[name] - exact[name]) < 4 * error
    capsys.readouterr()


def test_the_trainer_resumed_from_a_checkpoint(tmp_path, capsys):
    train(tmp_path, save_strategy="steps", save_steps=7, max_steps=7)
    callback, resume = of_transformers.TelescopeCallback(), str(tmp_path / "checkpoint-7")
    _, after = train(tmp_path, callback, resume=resume)
    assert_same(after, train(tmp_path, resume=resume)[1])
    assert callback.lens.steps == 11
    capsys.readouterr()


# ------------------------------------------------------------------------------ Accelerate


def loop(follow, *, model, loss, loaders, optimizer=torch.optim.AdamW, **options):
    """A loop of one's own; ``follow`` is the line of the callback."""
    accelerate.state.AcceleratorState._reset_state(True)
    transformers.set_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    net = model()
    stepper = optimizer(net.parameters(), lr=1e-2)
    path = Path(net, stepper)
    train_loader, eval_loader = loaders()
    prepared = accelerator.prepare(net, stepper, train_loader, eval_loader)
    net, stepper, train_loader, eval_loader = prepared
    callback = follow(accelerator, net, stepper, eval_loader)
    losses = []
    for _ in range(3):
        net.train()
        for batch in train_loader:
            with accelerator.accumulate(net):
                value = loss(net, batch)
                losses.append(value.item())
                accelerator.backward(value)
                stepper.step()
                stepper.zero_grad()
    return callback, path, net, everything(net, stepper.state_dict(), losses)


def of_images(net, batch):
    x, y = batch
    return cross_entropy(net((x - 0.3) / 0.2), y)  # normalised in the loop


def image_loaders():
    train, val = random_split(digits(), [100, 20])
    return DataLoader(train, 12, shuffle=True), DataLoader(val, 12)


def images_network():
    layers = [nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(20, 10))


def of_sentences(net, batch):
    return net(**batch).loss


def sentence_loaders():
    return (
        DataLoader(sentences(44, 1), 8, shuffle=True, collate_fn=collate),
        DataLoader(sentences(12, 2), 8, collate_fn=collate),
    )


def nothing(*_):
    """No callback."""


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 4, "mixed_precision": "bf16"}],
    ids=["plain", "bfloat16 accumulated"],
)  # fmt: skip
def test_accelerates_sentences(options):
    example = {"model": bert, "loss": of_sentences, "loaders": sentence_loaders, **options}

    def follow(accelerator, model, optimizer, eval_loader):
        return of_accelerate.TelescopeCallback(accelerator, model, optimizer, {"eval": eval_loader})

    callback, path, _, after = loop(follow, **example)
    assert_same(after, loop(nothing, **example)[-1])
    assert callback.lens.steps == len(path.steps) - 1 == (6 if options else 18)
    batch = collate(sentences(12, 2))
    batch.pop("labels")
    if not options:
        assert_telescoped(callback.lens, "eval", path, lambda m: m(**batch).logits)


def test_accelerates_images_that_the_loop_itself_normalises():
    example = {"model": images_network, "loss": of_images, "loaders": image_loaders}

    def follow(accelerator, model, optimizer, _):
        return of_accelerate.TelescopeCallback(accelerator, model, optimizer, eval_rows=7)

    callback, _, net, after = loop(follow, **example)
    assert_same(after, loop(nothing, **example)[-1])
    assert callback.lens.steps == 27
    assert callback.lens.predictions("first_batch").shape == (7, 10)
    assert not net._forward_pre_hooks
    record = callback.lens.snapshot().to_record()
    assert 0 < record["first_batch/approximation_error"] < record["first_batch/linearization_error"]


def test_a_smoother_in_a_loop_of_accelerate_is_the_lenss_own(tmp_path):
    def follow(accelerator, model, optimizer, _):
        return of_accelerate.TelescopeCallback(accelerator, model, optimizer, probes=8)

    with pytest.raises(ConfigurationError, match=r"with lens.step\(index\)"):
        loop(follow, model=images_network, loss=of_images, loaders=image_loaders)
