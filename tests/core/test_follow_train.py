"""Leaving the training set out changes nothing about the sets that are followed."""

import pytest
import torch
from torch import nn
from torch.optim import Adam

from telescope_core.errors import ConfigurationError
from telescope_core.lens import TelescopeLens

N, STEPS = 12, 7


def train(steps=STEPS, state=None, model_state=None, **options):
    """A short run with predictions only, from a state if one is given."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    optimizer = Adam(model.parameters(), lr=0.01)
    x = torch.randn(N, 4, dtype=torch.float64)
    y = torch.randn(N, 2, dtype=torch.float64)
    sets = {"test": torch.randn(5, 4, dtype=torch.float64)}
    settings = {"probes": None, "stride": 3} | options
    lens = TelescopeLens(model, optimizer, nn.MSELoss(), x, y, sets, **settings)
    for step in range(steps):
        index = (torch.arange(4) + step) % N
        with lens.step(index):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[index]), y[index]).backward()
            optimizer.step()
    return lens


def test_the_sets_that_are_followed_have_the_same_readings():
    everything, some = train(), train(follow_train=False)
    assert everything.sets == ("train", "test")
    assert some.sets == ("test",)
    for reading in ("predictions", "telescoped", "linearized"):
        assert torch.equal(getattr(some, reading)("test"), getattr(everything, reading)("test"))
    expected = {
        name: value
        for name, value in everything.snapshot().metrics.items()
        if not name.startswith("train/")
    }
    assert some.snapshot().metrics == expected
    assert expected["test/approximation_error"] > 0


def test_the_training_set_is_then_unknown_by_name():
    with pytest.raises(ConfigurationError, match="no set named 'train'; there are test"):
        train(follow_train=False).predictions("train")


def test_a_state_goes_on_and_fits_no_lens_that_follows_everything():
    lens = train(follow_train=False)
    state = lens.state_dict()
    resumed = train(0, follow_train=False)
    resumed.load_state_dict(state)
    assert resumed.steps == STEPS
    with pytest.raises(ConfigurationError, match="differs in sets"):
        train(0).load_state_dict(state)


def test_positions_are_still_those_of_the_training_set():
    lens = train(follow_train=False)
    with pytest.raises(ValueError, match=f"positions in 0…{N - 1}"), lens.step(torch.tensor([N])):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 4}, "probes needs the training set"),
        ({"kernel_norms": True}, "kernel_norms needs the training set"),
        ({"follow_train": "no"}, "must be True or False, got 'no'"),
    ],
)
def test_where_it_is_needed(options, message):
    with pytest.raises(ConfigurationError, match=message):
        train(0, **({"follow_train": False} | options))


def test_nothing_left_to_follow():
    model = nn.Linear(4, 1)
    optimizer = Adam(model.parameters())
    x, y = torch.randn(N, 4), torch.randn(N, 1)
    with pytest.raises(ConfigurationError, match="leaves no set to follow"):
        TelescopeLens(model, optimizer, nn.MSELoss(), x, y, probes=None, follow_train=False)
