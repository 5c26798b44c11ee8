"""A lens over a small model, in which one thing at a time is wrong."""

import torch
from torch import nn
from torch.optim import SGD

from telescope_core.lens import TelescopeLens

MSE = nn.MSELoss()
KINDS = [None, 4, "exact"]


def attach(model=None, *, optimizer=None, loss=MSE, x=None, y=None, sets=None, **options):
    """A lens over a small model in double precision, one thing of it replaced."""
    if model is None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64) if x is None else x
    y = torch.randn(8, 3, dtype=torch.float64) if y is None else y
    if optimizer is None:
        optimizer = SGD(model.parameters(), lr=0.1)
    elif isinstance(optimizer, type):
        optimizer = optimizer(model.parameters(), lr=0.1)
    return TelescopeLens(model, optimizer, loss, x, y, sets, **{"probes": 4, **options})


def rows(n=8, d=4):
    return torch.randn(n, d, dtype=torch.float64)
