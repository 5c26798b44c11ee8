"""Losses of class indices, and what is known of their derivatives."""

import torch
from torch import nn
from torch.nn import functional

CLASSES = 4
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape, seed=0, count=CLASSES):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def picked(f, y):
    return -f.log_softmax(1).gather(1, y[:, None]).mean()


def focal(f, y):
    log_p = f.log_softmax(1).gather(1, y[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def one_hot_mse(f, y):
    return ((f - functional.one_hot(y, f.shape[1])) ** 2).mean()


def penalised(f, y):
    return functional.nll_loss(f.log_softmax(1), y, reduction="sum") + f.square().sum()


def margins(f, y):
    correct = f.gather(1, y[:, None])
    return functional.softplus(1 + f - correct).sum() / len(f)


POINTWISE = [
    lambda f, y: functional.nll_loss(f.log_softmax(1), y),
    lambda f, y: functional.nll_loss(f.log_softmax(1), y, weight=CLASS_WEIGHTS, reduction="sum"),
    nn.CrossEntropyLoss(ignore_index=0, reduction="sum"),
    picked,
    focal,
    one_hot_mse,
    penalised,
    margins,
]
OWN_EXTENSION = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, reduction="sum"),
]


def language_model(reduction="mean", shift=1, **options):
    """Outputs at t against targets at t + shift, as causal language models do it."""

    def loss(f, y):
        return functional.cross_entropy(
            f[:, :-shift].reshape(-1, f.shape[-1]),
            y[:, shift:].reshape(-1),
            reduction=reduction,
            **options,
        )

    return loss


def pixelwise(f, y):
    return functional.nll_loss(f.log_softmax(1), y)


def tokens(f, y):
    return functional.nll_loss(f.log_softmax(-1).transpose(1, 2), y)


def by_classes(loss, f, y):
    """∂g/∂Y of Σ_c Y_c g(f, c), one position's label set to each class in turn.

    For outputs (rows, positions, classes), of shape (size of f, targets, classes).
    """
    columns = []
    for at in range(y.numel()):
        for c in range(CLASSES):
            if not 0 <= y.flatten()[at] < CLASSES:
                columns.append(torch.zeros(f.numel(), dtype=f.dtype))
                continue
            here, other = y.flatten().clone(), y.flatten().clone()
            here[at], other[at] = c, (c + 1) % CLASSES
            g, g_other = (gradient_at(loss, f, z.reshape(y.shape)) for z in (here, other))
            # The label's share is g at the positions that change with it.
            reached = ((g - g_other).abs() > 1e-12).any(-1, keepdim=True)
            columns.append(torch.where(reached, g, 0).flatten())
    return torch.stack(columns, dim=1).reshape(f.numel(), y.numel(), CLASSES)


def gradient_at(loss, f, y):
    leaf = f.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, y), leaf)[0]
