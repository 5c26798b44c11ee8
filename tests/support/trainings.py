"""Trainings by frameworks: their state to the bit, and what the lens says of them by hand."""

import random
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset


def digits():
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels[:120] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return TensorDataset(images, torch.tensor(labels[:120]))


def everything(model, *held):
    """The state of a training and of all global random streams, as a flat list."""
    streams = [torch.get_rng_state(), random.getstate(), np.random.get_state()]
    return tree_leaves([dict(model.state_dict()), *held, streams])


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b)
        assert same, (a, b)


class Path:
    """Parameters before training and after every step, taken from the model itself."""

    def __init__(self, model, optimizer):
        self.model = model
        self.steps = []
        self.take()
        optimizer.register_step_post_hook(lambda *_: self.take())

    def take(self):
        self.steps.append({n: p.detach().clone() for n, p in self.model.named_parameters()})

    def telescoped(self, outputs, stride):
        """f̃ by the trapezoid rule over blocks, in evaluation mode, by forward mode alone."""
        thetas = [*self.steps[:-1][::stride], self.steps[-1]]
        self.model.eval()

        def of(theta):
            return torch.func.functional_call(Calling(self.model, outputs), theta)

        def named(theta):
            return {f"model.{name}": value for name, value in theta.items()}

        total = of(named(thetas[0])).detach()
        for start, end in pairwise(thetas):
            move = named({name: end[name] - start[name] for name in start})
            for theta in (named(start), named(end)):
                with sdpa_kernel(SDPBackend.MATH):  # the others know no forward mode
                    total = total + torch.func.jvp(of, (theta,), (move,))[1].detach() / 2
        return total


class Calling(nn.Module):
    def __init__(self, model, outputs):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self):
        return self.outputs(self.model)


def assert_telescoped(lens, name, path, outputs, stride=10):
    expected = path.telescoped(outputs, stride)
    found = lens.telescoped(name).reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    moved = (expected - lens.predictions(name).reshape(expected.shape)).abs().max()
    assert len(path.steps) > stride
    assert moved > 0
