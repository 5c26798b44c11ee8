"""PyTorch Lightning: a callback attaches the lens; records go to the Trainer's logger."""

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from telescope_core.callbacks import IndexedDataset
from telescope_core.callbacks.lightning import TelescopeCallback

lightning.seed_everything(0, verbose=False)
pixels, digits = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
x_train, y_train, x_test = x[:500], y[:500], x[500:1000]
loss = nn.CrossEntropyLoss()


class Classifier(lightning.LightningModule):
    """One hidden layer; nothing in it knows of the lens."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        """Mean loss of a batch."""
        inputs, targets = batch
        return loss(self.net(inputs), targets)

    def configure_optimizers(self):
        """Any optimizer that the lens has a rule for."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


callback = TelescopeCallback(
    loss, x_train, y_train, {"test": x_test}, network="net", probes=30, every=10,
)  # fmt: skip
rows = IndexedDataset(TensorDataset(x_train, y_train))
trainer = lightning.Trainer(
    max_epochs=4, accelerator="cpu", callbacks=[callback], logger=CSVLogger("logs"),
    gradient_clip_val=1.0, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Classifier(), DataLoader(rows, batch_size=50, shuffle=True))

for name in ("train/degrees_of_freedom", "train/degrees_of_freedom_stderr"):
    print(name, round(float(trainer.callback_metrics[name]), 1))
