"""Accelerate: one line follows a loop of one's own, which stays as it is."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from telescope_core.callbacks.accelerate import TelescopeCallback

set_seed(0)
pixels, digits = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
train = DataLoader(TensorDataset(x[:1000], y[:1000]), batch_size=25, shuffle=True)
test = DataLoader(TensorDataset(x[1000:], y[1000:]), batch_size=100)

accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
model = nn.Sequential(
    nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
callback = TelescopeCallback(accelerator, model, optimizer, {"test": test})

for _ in range(5):
    for inputs, targets in train:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()

for name, value in callback.lens.snapshot().to_record().items():
    print(name, round(value, 4))
