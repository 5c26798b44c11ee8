"""Losses by kind, and their gradients and second derivatives written out."""

import torch
from torch import nn
from torch.nn import functional

WEIGHTS = torch.tensor([1.0, 10.0, 1.0])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(rows=12, outputs=3, dtype=torch.float64):
    return draw(rows, outputs, seed=1, dtype=dtype), draw(rows, outputs, seed=2, dtype=dtype)


def mse(f, y):
    return ((f - y) ** 2).mean()


def half_sum(f, y):
    return 0.5 * ((f - y) ** 2).sum() / len(f)


def expanded(f, y):
    return (f * f - 2 * f * y + y * y).mean()


def in_place(f, y):
    return f.sub_(y).pow_(2).mean()


def in_place_on_targets(f, y):
    return y.neg_().add_(f).pow(2).mean()


def weighted(f, y):
    return (WEIGHTS.to(f.dtype) * (f - y) ** 2).mean()


def centred(f, y):
    r = f - y
    return ((r - r.mean()) ** 2).mean()


def correlated(f, y):
    r = f - y
    return (r @ torch.tensor([[2.0, 1, 0], [1, 2, 0], [0, 0, 1]], dtype=f.dtype) * r).sum()


def scaled_targets(f, y):
    return ((f - 2 * y - 1) ** 2).mean()


def pinball(f, y):
    return torch.maximum(0.9 * (y - f), 0.1 * (f - y)).mean()


def insensitive(f, y):
    return functional.relu((f - y).abs() - 0.1).mean()


def squared_insensitive(f, y):
    return functional.relu((f - y).abs() - 0.1).square().mean()


def log_cosh(f, y):
    r = f - y
    return (r + functional.softplus(-2 * r)).mean()


def clamped(f, y):
    return ((f - y).clamp(-3, 3) ** 2).mean()


def asymmetric(f, y):
    r = f - y
    return torch.where(r > 0, 2 * r**2, r**2).mean()


def one_rare_kink(f, y):
    r = f - y
    return (r[:, :2] ** 2).mean() + functional.huber_loss(f[:, 2], y[:, 2], delta=40.0)


def relative(f, y):
    return (((f - y) / y) ** 2).mean()


def log_targets(f, y):
    return ((f.abs().log() - y) ** 2).mean()


SCALES = {
    mse: lambda rows, k: 2 / (rows * k),
    nn.MSELoss(): lambda rows, k: 2 / (rows * k),
    nn.MSELoss(reduction="sum"): lambda rows, k: 2.0,
    half_sum: lambda rows, k: 1 / rows,
    expanded: lambda rows, k: 2 / (rows * k),
    in_place: lambda rows, k: 2 / (rows * k),
    in_place_on_targets: lambda rows, k: 2 / (rows * k),
}
QUADRATIC = [*SCALES, weighted, centred, correlated, scaled_targets]
SMOOTH = [log_cosh, nn.BCEWithLogitsLoss(), nn.PoissonNLLLoss(), relative, log_targets]
KINKED = [
    nn.L1Loss(),
    nn.HuberLoss(),
    nn.HuberLoss(delta=1e-6),
    nn.HuberLoss(delta=1e4),
    nn.SmoothL1Loss(beta=50.0),
    pinball,
    insensitive,
    squared_insensitive,
    clamped,
    asymmetric,
    one_rare_kink,
    nn.HingeEmbeddingLoss(),
    lambda f, y: functional.relu(1 - f * y).mean(),
    lambda f, y: functional.relu(1 - f * y).square().mean(),
]


def name(loss):
    return getattr(loss, "__name__", None) or repr(loss)


def dense(loss, f, y):
    """(g, ∂g/∂f, ∂g/∂Y), entry by entry, by double backward."""
    f, y = f.clone().requires_grad_(), y.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(f.clone(), y.clone()), f, create_graph=True)
    rows = []
    for entry in g.flatten():
        pair = (None, None)
        if entry.requires_grad:
            pair = torch.autograd.grad(entry, (f, y), retain_graph=True, allow_unused=True)
        rows.append([torch.zeros(f.numel()).to(f) if d is None else d.flatten() for d in pair])
    along_f, along_y = (torch.stack(column) for column in zip(*rows, strict=True))
    return g.detach(), along_f, along_y
