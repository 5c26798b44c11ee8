"""A training loop of one's own; its records go to Weights & Biases while it runs."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from telescope_core import TelescopeLens
from telescope_core.live.alerts import ApproximationFails, PartingWays
from telescope_core.trackers import RunDescription, open_tracker

torch.manual_seed(0)
pixels, digits = load_digits(return_X_y=True)
order = torch.randperm(len(pixels))
x = torch.tensor(pixels / 16, dtype=torch.float32)[order]
y = torch.tensor(digits % 2, dtype=torch.float32)[order]
x_train, y_train, x_test = x[:500], y[:500], x[500:1000]

model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loss = nn.MSELoss()
lens = TelescopeLens(model, optimizer, loss, x_train, y_train, {"test": x_test}, probes=30)

run = RunDescription("digits-plain", name="digits", group="examples", job_type="train")
alerts = [PartingWays("train", "test"), ApproximationFails("test", relative=0.1)]
tracker = open_tracker("wandb", project="telescope", mode="offline")
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
