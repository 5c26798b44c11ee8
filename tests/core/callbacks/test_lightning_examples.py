"""Small trainings as Lightning publishes them, with nothing added but the callback.

Each runs with and without it, to the same weights, optimizer state, random streams and losses.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, random_split

from support.trainings import Path, assert_same, assert_telescoped, digits, everything
from telescope_core.errors import ConfigurationError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning", reason="needs telescope-lens[lightning]")

from telescope_core.callbacks.lightning import TelescopeCallback

pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch.utils.data")


class AutoEncoder(lightning.LightningModule):
    """Its forward gives the code; the decoder is only called in training."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 64))

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        loss = mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Classifier(lightning.LightningModule):
    """Batch statistics, dropout, a metric of its own, validation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(144, 10),
        )  # fmt: skip
        self.losses = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self(x), y)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Manual(Classifier):
    """Two optimizers that the module steps itself, the one twice as often as the other."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        first, second = self.optimizers()
        self.manual_backward(loss)
        first.step()
        first.zero_grad()
        if batch_idx % 2:
            second.step()
            second.zero_grad()

    def configure_optimizers(self):
        body, head = self.net[:2].parameters(), self.net[-1].parameters()
        return torch.optim.SGD(body, lr=0.05), torch.optim.Adam(head, lr=1e-2)


def fit(tmp_path, kind, *callbacks, validation=True, **options):
    lightning.seed_everything(0, verbose=False)
    train, val = random_split(digits(), [100, 20])
    module = kind()
    trainer = lightning.Trainer(
        max_epochs=2, callbacks=[*callbacks], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    loaders = [DataLoader(train, 12, shuffle=True), DataLoader(val, 12)]
    trainer.fit(module, *loaders[: 1 + validation])
    held = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return module, everything(module, held, getattr(module, "losses", []))


class Watched(lightning.Callback):
    def on_train_start(self, trainer, pl_module):
        self.path = Path(pl_module, trainer.optimizers[0])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.first = getattr(self, "first", batch[0].clone())


def test_lightnings_autoencoder_of_which_forward_is_a_part(tmp_path):
    callback, watched = TelescopeCallback(), Watched()
    _, after = fit(tmp_path, AutoEncoder, callback, watched)
    assert_same(after, fit(tmp_path, AutoEncoder)[1])
    assert callback.lens.steps == 18
    flat = watched.first.flatten(1)
    assert_telescoped(
        callback.lens, "first_batch", watched.path, lambda m: m.decoder(m.encoder(flat))
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16-mixed", "accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    ],
    ids=["plain", "bfloat16", "clipped"],
)
def test_lightnings_classifier_with_batch_statistics_and_dropout(options, tmp_path):
    callback = TelescopeCallback()
    module, after = fit(tmp_path, Classifier, callback, **options)
    assert_same(after, fit(tmp_path, Classifier, **options)[1])
    accumulated = options.get("accumulate_grad_batches", 1)
    assert callback.lens.steps == 2 * -(-9 // accumulated)  # The last of an epoch is not full.
    images = torch.stack([digits()[i][0] for i in _validation_rows()])
    module.eval()
    found = callback.lens.predictions("val")
    torch.testing.assert_close(found, module(images).detach(), rtol=1e-4, atol=1e-5)
    record = callback.lens.snapshot().to_record()
    assert 0 < record["val/approximation_error"] < record["val/linearization_error"]


def _validation_rows():
    lightning.seed_everything(0, verbose=False)
    return random_split(digits(), [100, 20])[1].indices


class Flattened(Classifier):
    """Knows its positions only in its step, as rows of their own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x, y):
        return self.net(x.flatten(0, 2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        labels = (y % 3).repeat_interleave(8)
        return cross_entropy(self(x, y), labels)

    validation_step = training_step


def test_positions_that_a_step_flattens_into_rows_are_taken_apart(tmp_path):
    callback = TelescopeCallback()
    module, after = fit(tmp_path, Flattened, callback)
    assert_same(after, fit(tmp_path, Flattened)[1])
    images = torch.stack([digits()[i][0] for i in _validation_rows()])
    expected = module.net(images[:, 0]).detach()
    torch.testing.assert_close(callback.lens.predictions("val"), expected.flatten(1))


@pytest.mark.parametrize("validation", [True, False])
def test_lightnings_manual_optimisation_with_two_optimizers(validation, tmp_path):
    callback = TelescopeCallback()
    _, after = fit(tmp_path, Manual, callback, validation=validation)
    assert_same(after, fit(tmp_path, Manual, validation=validation)[1])
    assert callback.lens.steps == 18
    assert callback.lens.sets == (("val",) if validation else ("first_batch",))


def test_a_module_that_does_not_show_what_it_predicts_is_refused_by_name(tmp_path):
    class Adversarial(Manual):
        def forward(self, noise, condition):
            return self.net(noise + condition)

    with pytest.raises(ConfigurationError, match=r"Adversarial does not show.*predict_step"):
        fit(tmp_path, Adversarial, TelescopeCallback(), validation=False)
