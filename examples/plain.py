"""A training loop of one's own; its records go to a tracker while it runs, if one is named.

``python plain.py`` needs no tracker, ``python plain.py wandb`` logs to Weights & Biases.
"""

import sys

import torch
from torch import nn

from telescope_core import TelescopeLens
from telescope_core.live import ApproximationFails, PartingWays
from telescope_core.trackers import RunDescription, open_tracker

torch.manual_seed(0)
x = torch.rand(1000, 8) * 2 - 1
y = (x[:, 0] * x[:, 1] > 0).float()
x_train, y_train, x_test = x[:500], y[:500], x[500:]

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
loss = nn.MSELoss()
lens = TelescopeLens(model, optimizer, loss, x_train, y_train, {"test": x_test}, probes=30)

run = RunDescription("product-plain", name="product", group="examples", job_type="train")
alerts = [PartingWays("train", "test"), ApproximationFails("test", relative=0.1)]
wandb = "wandb" in sys.argv
tracker = open_tracker("wandb", project="telescope") if wandb else open_tracker("none")
with lens.log_to(tracker, description=run, every=10, alerts=alerts):
    for _ in range(200):
        index = torch.randperm(500)[:50]
        with lens.step(index):
            optimizer.zero_grad()
            loss(model(x_train[index]), y_train[index]).backward()
            optimizer.step()

record = lens.snapshot().to_record()
print("step", record["step"])
print("p_train", round(record["train/effective_parameters"], 1))
print("p_test", round(record["test/effective_parameters"], 1))
