"""Losses of several outputs, adversaries, two views and teachers, as they are trained."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.scripts import Ended, assert_predictions, followed, run
from telescope_core.errors import TrainingMismatchError

D = torch.float64


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


ROWS, TEST = torch.sigmoid(random(12, 6)), torch.sigmoid(random(4, 6, seed=1))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.decode = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6), nn.Sigmoid())

    def forward(self, x):
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        z = mean
        if self.training:
            z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decode(z), mean, log_variance


def reconstruction(x_again, x):
    return functional.binary_cross_entropy(x_again, x, reduction="sum")


def train_vae(Lens, *, told=False):
    model = VAE().to(D)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    of_training = (optimizer, reconstruction, ROWS, ROWS) if told else (optimizer,)
    lens = Lens(model, *of_training, eval_sets={"test": TEST}, output=0)
    for _ in range(3):
        model.train()
        for batch in torch.randperm(12).split(4):
            with lens.step(batch if told else None):
                optimizer.zero_grad()
                x_again, mean, log_variance = model(ROWS[batch])
                divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
                (reconstruction(x_again, ROWS[batch]) + divergence).backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(TEST)[0]
    return Ended(model, optimizer, lens, {"test": outputs})


def test_a_variational_autoencoder():
    assert_predictions(train_vae)


def test_with_probes_a_loss_of_more_than_the_outputs_is_refused():
    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient of the given"):
        run(lambda Lens: train_vae(Lens, told=True), followed(probes=3))


def train_gan(Lens):
    generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6)).to(D)
    critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)).to(D)
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-3) for m in (critic, generator)]
    judged = functional.binary_cross_entropy_with_logits
    noise, real, fake = random(4, 2, seed=3), torch.ones(4, 1, dtype=D), torch.zeros(4, 1, dtype=D)
    lenses = [
        Lens(critic, optimizers[0], eval_sets={"real": TEST}),
        Lens(generator, optimizers[1], eval_sets={"drawn": noise}),
    ]
    for batch in torch.arange(24).remainder(12).split(4):
        drawn = generator(torch.randn(4, 2, dtype=D))
        with lenses[0].step():
            optimizers[0].zero_grad()
            (judged(critic(ROWS[batch]), real) + judged(critic(drawn.detach()), fake)).backward()
            optimizers[0].step()
        with lenses[1].step():
            optimizers[1].zero_grad()
            judged(critic(drawn), real).backward()
            optimizers[1].step()
    both = nn.ModuleList([critic, generator]).eval()
    ends = {"real": critic(TEST).detach(), "drawn": generator(noise).detach()}
    return both, tuple(optimizers), lenses, ends


@pytest.mark.parametrize("which", [0, 1])
def test_an_adversary_and_a_generator(which):
    def one(Lens):
        both, optimizers, lenses, ends = train_gan(Lens)
        name = list(ends)[which]
        return Ended(both, optimizers, lenses[which], {name: ends[name]})

    assert_predictions(one)


def train_views(Lens):
    """Two views of each row, one pass for each, and a teacher that is an average."""
    student = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 4)).to(D)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    lens = Lens(student, optimizer, eval_sets={"test": TEST})
    averaged = Lens(teacher, eval_sets={"test": TEST})
    for batch in torch.arange(24).remainder(12).split(6):
        views = [ROWS[batch] + 0.1 * torch.randn(6, 6, dtype=D) for _ in range(2)]
        with lens.step(), averaged.step():
            optimizer.zero_grad()
            first, second = (functional.normalize(student(view), dim=1) for view in views)
            with torch.no_grad():
                target = functional.normalize(teacher(views[0]), dim=1)
            contrast = functional.cross_entropy(first @ second.T / 0.5, torch.arange(6))
            (contrast + (second - target).square().sum(dim=1).mean()).backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                    slow.lerp_(fast, 0.3)
    student.eval()
    teacher.eval()
    ends = [model(TEST).detach() for model in (student, teacher)]
    return student, optimizer, (lens, averaged), ends


@pytest.mark.parametrize("which", [0, 1])
def test_two_views_and_a_teacher(which):
    def one(Lens):
        student, optimizer, lenses, ends = train_views(Lens)
        return Ended(student, optimizer, lenses[which], {"test": ends[which]})

    assert_predictions(one)
