"""The lens in Lightning's Trainer sees what it sees in the same loop written out."""

from __future__ import annotations

import csv
import inspect
import math
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from support.modules import module_from_file
from telescope_core.callbacks import IndexedDataset
from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.lens import TelescopeLens
from telescope_core.live.alerts import ApproximationFails
from telescope_core.trackers.null import NullRun

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning", reason="needs telescope-lens[lightning]")

from telescope_core.callbacks.lightning import TelescopeCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning", "ignore:::pytorch_lightning", "ignore:::torch.utils.data"
)

LOSS = nn.CrossEntropyLoss()
N, BATCH = 24, 6
OPTIONS = {"probes": 6, "stride": 4, "kernel_norms": True}


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N + 5, 4, generator=generator)
    return x[:N], torch.randint(3, (N,), generator=generator), x[N:]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


class Module(lightning.LightningModule):
    """Knows nothing of the lens; keeps the batches that it was given."""

    def __init__(self, optimizer="AdamW", schedule=False, dropout=0.0):
        super().__init__()
        self.net = network()
        if dropout:
            self.net.append(nn.Dropout(dropout))
        self.chosen = optimizer
        self.schedule = schedule
        self.seen = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append((x.clone(), y.clone()))
        return LOSS(self(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("val", LOSS(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = getattr(torch.optim, self.chosen)(self.parameters(), lr=0.05)
        if not self.schedule:
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Memory(NullRun):
    def __init__(self):
        self.rows = []

    def log(self, step, record):
        self.rows.append((step, dict(record)))


def callback(run=None, **options):
    x, y, x_test = data()
    options = {"every": 4, **OPTIONS, **options}
    return TelescopeCallback(LOSS, x, y, {"test": x_test}, log_to=run, **options)


def trainer_of(tmp_path, *callbacks, kind=lightning.Trainer, **options):
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    } | options
    return kind(callbacks=list(callbacks), **options)


# The Trainer may ask a random sampler more often than there are epochs.
ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(0)).tolist()


def loader_of(dataset=None, batch_size=BATCH):
    x, y, _ = data()
    rows = IndexedDataset(TensorDataset(x, y)) if dataset is None else dataset
    return DataLoader(rows, batch_size=batch_size, sampler=ORDER)


def plain_loop(
    epochs, *, accumulate=1, clip=None, optimizer="AdamW", schedule=False, autocast=False
):
    """The same training written out, with the lens around its steps."""
    x, y, x_test = data()
    net = network()
    stepper = getattr(torch.optim, optimizer)(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(stepper, 3, gamma=0.5) if schedule else None
    lens = TelescopeLens(net, stepper, LOSS, x, y, {"test": x_test}, **OPTIONS)
    rows = []
    epoch = torch.tensor(ORDER).split(BATCH)
    for _ in range(epochs):
        for start in range(0, len(epoch), accumulate):
            group = epoch[start : start + accumulate]
            with lens.step(torch.cat(group)):
                stepper.zero_grad()
                for index in group:
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        value = LOSS(net(x[index]), y[index])
                    (value / accumulate).backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                stepper.step()
            if scheduler is not None:
                scheduler.step()
            if lens.steps % 4 == 0:
                rows.append((lens.steps, lens.snapshot().to_record()))
    return net, lens, rows


def assert_same(module, run, expected_net, expected_rows):
    pairs = zip(module.net.parameters(), expected_net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [step for step, _ in run.rows] == [step for step, _ in expected_rows]
    for (_, record), (_, expected) in zip(run.rows, expected_rows, strict=True):
        assert record == expected


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"clip": 0.2, "schedule": True},
        {"accumulate": 2, "clip": 0.2},
        {"accumulate": 3, "optimizer": "SGD"},
    ],
    ids=lambda setting: "-".join(setting) or "plain",
)
def test_it_sees_what_the_loop_written_out_sees(setting, tmp_path):
    run = Memory()
    module = Module(setting.get("optimizer", "AdamW"), setting.get("schedule", False))
    trainer = trainer_of(
        tmp_path,
        callback(run),
        max_epochs=4,
        accumulate_grad_batches=setting.get("accumulate", 1),
        gradient_clip_val=setting.get("clip"),
    )
    trainer.fit(module, loader_of())
    net, _, rows = plain_loop(4, **setting)
    assert len(rows) >= 2
    assert_same(module, run, net, rows)


def test_the_module_gets_batches_without_positions(tmp_path):
    module = Module()
    trainer_of(tmp_path, callback()).fit(module, loader_of())
    x, y, _ = data()
    batches = torch.tensor(ORDER * 3).split(BATCH)
    for (seen_x, seen_y), index in zip(module.seen, batches, strict=True):
        assert torch.equal(seen_x, x[index])
        assert torch.equal(seen_y, y[index])


def test_validation_in_between_changes_nothing(tmp_path):
    run = Memory()
    module = Module()
    x, y, _ = data()
    validation = DataLoader(TensorDataset(x, y), batch_size=8)
    trainer_of(tmp_path, callback(run), val_check_interval=2).fit(module, loader_of(), validation)
    net, _, rows = plain_loop(3)
    assert_same(module, run, net, rows)


def test_loggers_and_other_callbacks_see_the_records(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    run = Memory()
    logger = CSVLogger(tmp_path)
    # A multiple that no record falls on.
    trainer = trainer_of(tmp_path, callback(run), logger=logger, log_every_n_steps=7)
    trainer.fit(Module(), loader_of())
    last = run.rows[-1][1]
    shown = trainer.callback_metrics
    assert float(shown["train/degrees_of_freedom"]) == pytest.approx(
        last["train/degrees_of_freedom"], rel=1e-6
    )
    (path,) = tmp_path.glob("**/metrics.csv")
    with path.open() as file:
        logged = list(csv.DictReader(file))
    assert [int(row["step"]) for row in logged] == [4, 8, 12]
    for row, (_, record) in zip(logged, run.rows, strict=True):
        assert float(row["test/approximation_error"]) == record["test/approximation_error"]


def test_a_network_inside_the_module(tmp_path):
    run = Memory()
    module = Module()
    trainer_of(tmp_path, callback(run, network="net")).fit(module, loader_of())
    net, _, rows = plain_loop(3)
    assert_same(module, run, net, rows)


def test_dropout_and_unequal_batches_are_followed_by_passes_that_are_run_again(tmp_path):
    run, module = Memory(), Module(dropout=0.3)
    follower = callback(run, kernel_norms=False)
    trainer = trainer_of(tmp_path, follower, accumulate_grad_batches=2)
    trainer.fit(module, loader_of(batch_size=5))  # Batches of 5, 5, 5, 5 and 4.
    assert follower.lens.strategy == "replayed"
    weights = [p.detach().clone() for p in module.parameters()]
    plain = Module(dropout=0.3)
    dataset = TensorDataset(*data()[:2])
    trainer_of(tmp_path, accumulate_grad_batches=2).fit(plain, loader_of(dataset, batch_size=5))
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.parameters(), strict=True))
    assert run.rows[-1][1]["train/degrees_of_freedom"] > 0


@pytest.mark.parametrize("network", [None, "net"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_bfloat16_is_followed_like_an_autocast_in_the_loop_written_out(
    network, accumulate, tmp_path
):
    run, module = Memory(), Module()
    trainer = trainer_of(
        tmp_path, callback(run, network=network), precision="bf16-mixed", max_epochs=4,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(module, loader_of())
    net, _, rows = plain_loop(4, accumulate=accumulate, autocast=True)
    assert len(rows) >= 2
    assert_same(module, run, net, rows)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("bf16-true", torch.bfloat16, 0.03), ("64-true", torch.float64, 1e-12)],
)
def test_inputs_are_taken_in_the_precision_of_the_trainer(precision, dtype, tolerance, tmp_path):
    follower, module = callback(), Module("SGD")
    trainer_of(tmp_path, follower, precision=precision).fit(module, loader_of())
    _, _, x_test = data()
    predictions = follower.lens.predictions("test")
    expected = module(x_test.to(dtype)).to(predictions.dtype)
    assert next(module.parameters()).dtype == dtype
    torch.testing.assert_close(predictions, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("probes", [None, 6])
def test_steps_that_a_scaler_skips_are_no_steps_of_the_lens(probes, tmp_path):
    from lightning.pytorch.plugins import MixedPrecision

    weights = []
    for watched in (True, False):
        follower, module = callback(probes=probes, kernel_norms=False), Module("SGD")
        # Gradients overflow until the scale has been halved often enough.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**21)
        trainer = trainer_of(
            tmp_path, *([follower] if watched else []),
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        )  # fmt: skip
        trainer.fit(module, loader_of(None if watched else TensorDataset(*data()[:2])))
        weights.append([p.detach().clone() for p in module.parameters()])
        if watched:
            skipped = 21 - math.log2(scaler.get_scale())
            assert 0 < skipped < 12
            assert follower.lens.steps == 12 - skipped
            assert follower.lens.snapshot().to_record()["test/approximation_error"] < 0.02
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_predictions_only_follow_anything(tmp_path):
    run = Memory()
    follower = callback(run, probes=None, kernel_norms=False)
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    trainer = trainer_of(tmp_path, follower, accumulate_grad_batches=2, **options)
    trainer.fit(Module(), loader_of(batch_size=5))  # Batches of 5, 5, 5, 5 and 4.
    assert [step for step, _ in run.rows] == [4, 8, 9]  # The last one when training ends.
    assert follower.lens.steps == 9


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    whole = Memory()
    module = Module()
    trainer_of(tmp_path, callback(whole), max_epochs=4).fit(module, loader_of())

    first, second = Memory(), Memory()
    trainer = trainer_of(tmp_path, callback(first), max_epochs=2)
    trainer.fit(Module(), loader_of())
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    resumed = Module()
    trainer_of(tmp_path, callback(second), max_epochs=4).fit(resumed, loader_of(), ckpt_path=path)

    assert first.rows + second.rows == whole.rows
    pairs = zip(module.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_failing_step_leaves_nothing_behind(tmp_path):
    class Failing(Module):
        def training_step(self, batch, batch_idx):
            if len(self.seen) == 5:
                raise KeyError("the module's own")
            return super().training_step(batch, batch_idx)

    trainer = trainer_of(tmp_path, callback())
    with pytest.raises(KeyError, match="the module's own"):
        trainer.fit(Failing(), loader_of())
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "loader", "options", "error", "message"),
    [
        (Manual(), {}, {}, ConfigurationError, "optimises manually"),
        (Module(), {"dataset": TensorDataset(*data()[:2])}, {}, ConfigurationError, "IndexedDat"),
        (Module(), {"batch_size": 5}, {"accumulate_grad_batches": 5}, ConfigurationError, "4 rows"),
        (
            Module(),
            {},
            {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
            ConfigurationError,
            "clipped by value",
        ),
        (Module(dropout=0.5), {}, {}, ConfigurationError, "kernel_norms=True needs training"),
    ],
    ids=["manual", "no positions", "unequal", "clip by value", "dropout"],
)
def test_what_cannot_be_followed_is_refused(module, loader, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        trainer_of(tmp_path, callback(), **options).fit(module, loader_of(**loader))


def test_a_wrong_network_or_loss_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'body'.*it has net"):
        trainer_of(tmp_path, callback(network="body")).fit(Module(), loader_of())

    class Penalised(Module):
        def training_step(self, batch, batch_idx):
            penalty = sum(p.square().sum() for p in self.parameters())
            return super().training_step(batch, batch_idx) + 0.5 * penalty

    with pytest.raises(TrainingMismatchError, match="not a multiple"):
        trainer_of(tmp_path, callback()).fit(Penalised(), loader_of())


def test_alerts_that_do_not_fit_are_refused_before_training(tmp_path):
    module = Module()
    with pytest.raises(ConfigurationError, match="'validation'"):
        trainer_of(tmp_path, callback(alerts=[ApproximationFails("validation")])).fit(
            module, loader_of()
        )
    assert module.seen == []


def test_users_are_shown_every_argument():
    shown = inspect.signature(TelescopeCallback)
    assert list(shown.parameters) == [
        *("loss", "train_inputs", "train_targets", "eval_sets"),
        *("network", "eval_rows", "log_to", "description", "every", "alerts", "options"),
    ]
    assert shown.parameters["network"].default is None
    assert "train_targets:" in TelescopeCallback.__init__.__doc__


def test_the_lens_exists_once_training_has_started():
    with pytest.raises(ConfigurationError, match="fit first"):
        _ = callback().lens


def test_it_also_works_under_the_older_name(tmp_path, monkeypatch):
    """With ``pytorch_lightning`` imported and ``lightning`` not, which may both be installed."""
    import pytorch_lightning

    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    home = sys.modules[TelescopeCallback.__module__]
    module = module_from_file("callbacks_under_the_older_name", home.__file__)
    monkeypatch.undo()
    assert issubclass(module.TelescopeCallback, pytorch_lightning.Callback)
    assert not issubclass(module.TelescopeCallback, lightning.pytorch.Callback)

    class Older(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, batch_idx):
            return LOSS(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    x, y, x_test = data()
    run = Memory()
    follower = module.TelescopeCallback(
        LOSS, x, y, {"test": x_test}, network="net", log_to=run, every=4, **OPTIONS
    )
    older = Older()
    trainer_of(tmp_path, follower, kind=pytorch_lightning.Trainer).fit(older, loader_of())
    net, _, rows = plain_loop(3)
    assert_same(older, run, net, rows)
