"""The lens in the Hugging Face Trainer sees what it sees in the same loop written out."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn

from telescope_core.callbacks import IndexedDataset
from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.lens import TelescopeLens
from telescope_core.trackers.null import NullRun

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs telescope-lens[transformers]")
    pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")

from telescope_core.callbacks.transformers import ModelOutputs, TelescopeCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:::transformers", "ignore:::accelerate", "ignore:::torch.utils.data"
)

LOSS = nn.CrossEntropyLoss()
N, BATCH = 24, 6
OPTIONS = {"probes": 6, "stride": 4}
MODELS = ["bert", "gpt2"]


def data():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, 7, (N + 4, 3), generator=generator)
    labels = tokens.sum(dim=1) % 3
    return tokens[:N], labels[:N], tokens[N:]


def network(kind="bert", dropout=0.0):
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=7, n_positions=3, n_embd=8, n_layer=1, n_head=2, num_labels=3,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, pad_token_id=0,
        )  # fmt: skip
        return transformers.GPT2ForSequenceClassification(config)
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=3, num_labels=3,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


class Memory(NullRun):
    def __init__(self):
        self.rows = []

    def log(self, step, record):
        self.rows.append((step, dict(record)))


class Rows(IndexedDataset):
    """Remembers which rows were asked for."""

    def __init__(self):
        tokens, labels, _ = data()
        super().__init__(
            [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
        )
        self.asked = []

    def __getitem__(self, position):
        self.asked.append(position)
        return super().__getitem__(position)


def callback(run=None, **options):
    tokens, labels, test = data()
    return TelescopeCallback(
        LOSS,
        {"input_ids": tokens},
        labels,
        {"test": {"input_ids": test}},
        log_to=run,
        **{"every": 4, **OPTIONS, **options},
    )


def arguments(tmp_path, **options):
    return transformers.TrainingArguments(
        **{
            "output_dir": str(tmp_path),
            "num_train_epochs": 2,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 0.01,
            "lr_scheduler_type": "linear",
            "weight_decay": 0.1,
            "remove_unused_columns": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            **options,
        }
    )


class Seeds(transformers.TrainerCallback):
    """Lets dropout draw the same masks in the loop written out."""

    def on_step_begin(self, args, state, control, **_):
        torch.manual_seed(state.global_step)


def plain_loop(trainer, kind, asked, accumulate, clip, autocast=False, dropout=0.0):
    """The same training written out, with the optimizer and schedule that the Trainer makes."""
    tokens, labels, test = data()
    net = network(kind, dropout)
    net.train()
    again = transformers.Trainer(net, trainer.args, train_dataset=Rows())
    steps = len(asked) // (BATCH * accumulate)
    again.create_optimizer_and_scheduler(num_training_steps=steps)
    stepper, scheduler = again.optimizer, again.lr_scheduler
    outputs = ModelOutputs(net)
    lens = TelescopeLens(
        outputs, stepper, LOSS, {"input_ids": tokens}, labels,
        {"test": {"input_ids": test}}, **OPTIONS,
    )  # fmt: skip
    batches = torch.tensor(asked).split(BATCH)
    # A model that is told how many labels a step has is expected to average over them itself; one
    # that classifies sequences takes the number, but averages over its batch.
    parts = 1 if trainer.model_accepts_loss_kwargs else accumulate
    rows = []
    for start in range(0, len(batches), accumulate):
        group = batches[start : start + accumulate]
        torch.manual_seed(start // accumulate)
        with lens.step(torch.cat(group)):
            stepper.zero_grad()
            for index in group:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    value = LOSS(outputs(input_ids=tokens[index]), labels[index])
                (value / parts).backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            stepper.step()
        scheduler.step()
        if lens.steps % 4 == 0:
            rows.append((lens.steps, lens.snapshot().to_record()))
    return net, rows


@pytest.mark.parametrize(
    ("kind", "accumulate", "clip", "dropout"),
    [
        ("bert", 1, 1.0, 0.0),
        ("bert", 2, 0.05, 0.0),
        ("gpt2", 1, 0.05, 0.0),
        ("gpt2", 1, 1.0, 0.1),
        ("bert", 2, 0.05, 0.1),
    ],
)
def test_it_sees_what_the_loop_written_out_sees(kind, accumulate, clip, dropout, tmp_path):
    run, rows = Memory(), Rows()
    settings = {"gradient_accumulation_steps": accumulate, "max_grad_norm": clip}
    if accumulate > 1:
        settings["num_train_epochs"] = 4
    trainer = transformers.Trainer(
        network(kind, dropout), arguments(tmp_path, **settings), train_dataset=rows,
        callbacks=[callback(run), Seeds()],
    )  # fmt: skip
    trainer.train()
    net, expected = plain_loop(trainer, kind, rows.asked, accumulate, clip, dropout=dropout)

    for a, b in zip(trainer.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert [step for step, _ in run.rows] == [step for step, _ in expected]
    assert len(expected) >= 2
    for (_, record), (_, wanted) in zip(run.rows, expected, strict=True):
        assert record == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert record["train/logit_sensitivity"] > 0


# An adaptive step divides by gradients that bfloat16 may round to zero.
HALF = {"bf16": True, "optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.3}


@pytest.mark.parametrize(("kind", "accumulate"), [("bert", 1), ("gpt2", 1), ("bert", 2)])
def test_bfloat16_is_followed_like_an_autocast_in_the_loop_written_out(kind, accumulate, tmp_path):
    run, rows = Memory(), Rows()
    settings = {**HALF, "gradient_accumulation_steps": accumulate}
    if accumulate > 1:
        settings["num_train_epochs"] = 4
    trainer = transformers.Trainer(
        network(kind), arguments(tmp_path, **settings), train_dataset=rows,
        callbacks=[callback(run)],
    )  # fmt: skip
    trainer.train()
    for autocast, tolerance in ((True, 1e-5), (False, 0.05)):
        net, expected = plain_loop(trainer, kind, rows.asked, accumulate, 0.3, autocast)
        if autocast:
            for a, b in zip(trainer.model.parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert [step for step, _ in run.rows] == [step for step, _ in expected]
        assert len(expected) >= 2
        for (_, record), (_, wanted) in zip(run.rows, expected, strict=True):
            for measure in ("logit_sensitivity", "degrees_of_freedom"):
                name = f"train/{measure}"
                assert record[name] == pytest.approx(wanted[name], rel=tolerance)
            assert record["train/logit_sensitivity"] > 0.1


def test_another_loss_is_refused_under_bfloat16(tmp_path):
    settings = {**HALF, "label_smoothing_factor": 0.3}
    trainer = transformers.Trainer(
        network(), arguments(tmp_path, **settings), train_dataset=Rows(), callbacks=[callback()]
    )
    with pytest.raises(TrainingMismatchError, match="not a multiple"):
        trainer.train()


def test_a_second_training_under_bfloat16_is_followed_anew(tmp_path):
    run, follower = Memory(), callback()
    trainer = transformers.Trainer(
        network(), arguments(tmp_path, **HALF), train_dataset=Rows(), callbacks=[follower]
    )
    for _ in range(2):
        trainer.train()
        assert follower.lens.steps == 8
        record = follower.lens.snapshot().to_record()
        assert record["test/approximation_error"] < 1e-3
        assert record["train/degrees_of_freedom"] < N
    assert run.rows == []


def test_the_models_forward_is_left_as_it_is(tmp_path):
    net = network()
    tokens, _, _ = data()
    ModelOutputs(net)(input_ids=tokens)
    assert "forward" not in vars(net)
    trainer = transformers.Trainer(
        net, arguments(tmp_path, **HALF), train_dataset=Rows(), callbacks=[callback()]
    )
    trainer.train()
    wrapped = vars(net)["forward"]
    exact = ModelOutputs(net)(input_ids=tokens)
    assert vars(net)["forward"] is wrapped
    rounded = net(input_ids=tokens).logits
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0.02)


def test_steps_that_a_scaler_skips_are_no_steps_of_the_lens(tmp_path, monkeypatch):
    from accelerate.optimizer import AcceleratedOptimizer

    taken, calls = AcceleratedOptimizer.step, []

    def step(self, closure=None):
        calls.append(len(calls))
        if calls[-1] not in (0, 5):
            taken(self, closure)

    monkeypatch.setattr(AcceleratedOptimizer, "step", step)
    follower = callback()
    trainer = transformers.Trainer(
        network(), arguments(tmp_path), train_dataset=Rows(), callbacks=[follower]
    )
    trainer.train()
    assert len(calls) == 8
    assert follower.lens.steps == 6
    error = follower.lens.snapshot().to_record()["test/approximation_error"]
    assert error < 0.1


@pytest.mark.parametrize("settings", [{}, HALF], ids=["float32", "bfloat16"])
def test_training_is_the_same_to_the_bit_with_and_without_it(settings, tmp_path):
    weights = []
    for callbacks in ([], [callback(every=1)]):
        net = network()
        tokens, labels, _ = data()
        plain = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
        dataset = Rows() if callbacks else plain
        transformers.Trainer(
            net, arguments(tmp_path, **settings), train_dataset=dataset, callbacks=callbacks
        ).train()
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_trainers_log_shows_the_records_and_its_own_losses(tmp_path, capsys):
    run = Memory()
    settings = arguments(tmp_path, logging_strategy="steps", logging_steps=2)
    trainer = transformers.Trainer(network(), settings, train_dataset=Rows())
    callback(run).attach(trainer)
    trainer.train()
    history = trainer.state.log_history
    shown = [row for row in history if "train/degrees_of_freedom" in row]
    assert [row["step"] for row in shown] == [4, 8]
    for row, (_, record) in zip(shown, run.rows, strict=True):
        assert row["test/approximation_error"] == record["test/approximation_error"]
    assert [row["step"] for row in history if "loss" in row] == [2, 4, 6, 8]
    capsys.readouterr()


def test_evaluation_in_between_changes_nothing(tmp_path, capsys):
    weights = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 3}):
        run = Memory()
        trainer = transformers.Trainer(
            network(), arguments(tmp_path, **settings), train_dataset=Rows(), eval_dataset=Rows(),
            callbacks=[callback(run)],
        )  # fmt: skip
        trainer.train()
        weights.append((run.rows, [p.detach().clone() for p in trainer.model.parameters()]))
    (rows, theta), (rows_evaluated, theta_evaluated) = weights
    assert rows == rows_evaluated
    assert all(torch.equal(a, b) for a, b in zip(theta, theta_evaluated, strict=True))
    capsys.readouterr()


def test_no_hooks_are_left_behind(tmp_path):
    net = network()
    follower = callback()
    transformers.Trainer(
        net, arguments(tmp_path), train_dataset=Rows(), callbacks=[follower]
    ).train()
    assert all(not module._forward_pre_hooks for module in net.modules())
    assert follower.lens.steps == 8


def test_unequal_batches_within_a_step_are_refused_where_a_mean_is_taken_of_all(tmp_path):
    settings = {"per_device_train_batch_size": 10, "gradient_accumulation_steps": 3}
    trainer = transformers.Trainer(
        network(), arguments(tmp_path, **settings), train_dataset=Rows(), callbacks=[callback()]
    )
    with pytest.raises(ConfigurationError, match="batches of 10, 10, 4 rows"):
        trainer.train()


def test_users_are_shown_every_argument():
    shown = inspect.signature(TelescopeCallback)
    assert list(shown.parameters) == [
        *("loss", "train_inputs", "train_targets", "eval_sets"),
        *("output", "eval_rows", "log_to", "description", "every", "alerts", "options"),
    ]
    assert shown.parameters["output"].default == "logits"
    assert "train_targets:" in TelescopeCallback.__init__.__doc__
