"""``optimizer.step(closure)`` is followed like the same lines before ``optimizer.step()``."""

from __future__ import annotations

import pytest
import torch

from telescope_core.errors import TrainingMismatchError
from telescope_core.lens.watch import watch_step
from telescope_core.testing import Scenario


def train(training, lens, how):
    for index in training.batches:

        def closure(index=index):
            training.optimizer.zero_grad()
            outputs = training.model(training.train_inputs[index])
            value = training.loss(outputs, training.train_targets[index])
            value.backward()
            torch.nn.utils.clip_grad_norm_(training.model.parameters(), 0.05)
            return value

        with lens.step(index):
            if how == "before":
                closure()
                training.optimizer.step()
            elif how == "positional":
                training.optimizer.step(closure)
            else:
                training.optimizer.step(closure=closure)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("how", ["positional", "keyword"])
def test_a_closure_is_followed_to_the_bit(how, optimizer, lens_of):
    outcomes = []
    for each in ("before", how):
        training = Scenario("mlp-vector", optimizer, "mse").start()
        lens = lens_of(training, stride=3, kernel_norms=True)
        train(training, lens, each)
        outcomes.append((lens.snapshot().to_record(), training.parameters()))
    (expected, theta), (record, theta_closure) = outcomes
    assert record == expected
    assert all(torch.equal(a, b) for a, b in zip(theta, theta_closure, strict=True))


class Searching(torch.optim.SGD):
    """Looks at the loss before it moves, as a line search does."""

    def step(self, closure):
        closure()
        return super().step(closure)


def test_a_closure_that_is_evaluated_twice_is_refused():
    training = Scenario("mlp-vector", "sgd", "mse").start()
    optimizer = Searching(training.model.parameters(), lr=0.1)
    watched = watch_step(optimizer, training.model, lambda update: None, lambda update: None)
    with pytest.raises(TrainingMismatchError, match="twice within one step"), watched:
        optimizer.step(lambda: None)
