"""What outputs stand for is recognised by what the loss does, or not at all."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.class_losses import (
    CLASS_WEIGHTS,
    classes,
    focal,
    language_model,
    margins,
    one_hot_mse,
    penalised,
    pixelwise,
    tokens,
)
from support.losses import KINKED, QUADRATIC, draw, log_cosh, name, pair
from telescope_core.errors import ConfigurationError, RefusalWarning
from telescope_core.losses import LossGradient
from telescope_core.testing import Scenario

F, Y = draw(12, 4, seed=1), classes(12)
ONE_HOT = functional.one_hot(Y, 4).double()
BINARY = (draw(12, 4, seed=3) > 0).double()
SENTENCES, WORDS = draw(6, 5, 4), classes(6, 5)


def colder(f, y):
    return functional.cross_entropy(f / 2, y)


def brier(f, y):
    return (f.softmax(1) - y).square().mean()


def of_probabilities(f, y):
    return functional.nll_loss(f.log(), y)


def logistic(f, y):
    return functional.softplus(-f * y).mean()


def kind_of(loss, f, y, **options):
    response = LossGradient(loss, f, y, **options).response
    return None if response is None else response.kind


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "expected"),
    [
        (nn.CrossEntropyLoss(), F, Y, "softmax"),
        (nn.CrossEntropyLoss(), 0 * F, Y, "softmax"),
        (nn.CrossEntropyLoss(), F, ONE_HOT, "softmax"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), F, Y, "softmax"),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), F, ONE_HOT, "softmax"),
        (nn.CrossEntropyLoss(), F, torch.where(torch.arange(12) < 3, -100, Y), "softmax"),
        (nn.CrossEntropyLoss(), F[:, :2], Y % 2, "softmax"),
        (nn.CrossEntropyLoss(), F.float(), Y, "softmax"),
        (nn.CrossEntropyLoss(), F.bfloat16(), Y, "softmax"),
        (nn.CrossEntropyLoss(), F.softmax(1), Y, "softmax"),
        (focal, F, Y, "softmax"),
        (brier, F, ONE_HOT, "softmax"),
        (tokens, SENTENCES, WORDS, "softmax"),
        (language_model(), SENTENCES, WORDS, "softmax"),
        (nn.BCEWithLogitsLoss(), F, BINARY, "sigmoid"),
        (nn.BCEWithLogitsLoss(), F[:, 0], BINARY[:, 0], "sigmoid"),
        (nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS), F, BINARY, "sigmoid"),
        (nn.NLLLoss(), F.log_softmax(1), Y, "exp"),
        (nn.KLDivLoss(reduction="batchmean"), F.log_softmax(1), ONE_HOT, "exp"),
        (nn.BCELoss(), F.sigmoid(), BINARY, "identity"),
        (nn.MSELoss(), F.sigmoid(), BINARY, "identity"),
        (of_probabilities, F.softmax(1), Y, "identity"),
        (one_hot_mse, F, Y, "identity"),
        (nn.PoissonNLLLoss(log_input=False), F.exp(), F.exp().round(), "identity"),
        (nn.PoissonNLLLoss(), F, F.exp().round(), None),
        (colder, F, Y, None),
        (colder, F[:, :2], Y % 2, None),
        (colder, F.bfloat16(), Y, None),
        (penalised, F, Y, None),
        (margins, F, Y, None),
        (logistic, F, 2 * BINARY - 1, None),
    ],
)
def test_by_what_the_loss_does(loss, outputs, targets, expected):
    assert kind_of(loss, outputs, targets) == expected


@pytest.mark.parametrize("loss", [*QUADRATIC, *KINKED[:5], log_cosh], ids=name)
def test_losses_of_predictions(loss):
    assert kind_of(loss, *pair()) == "identity"


def test_the_classes_are_found_among_positions():
    assert LossGradient(tokens, SENTENCES, WORDS).response.axis == 1
    assert LossGradient(pixelwise, SENTENCES.transpose(1, 2), WORDS).response.axis == 0


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "response", "message"),
    [
        (nn.CrossEntropyLoss(), F, Y, "identity", "shows the response 'softmax'"),
        (nn.MSELoss(), F, ONE_HOT, "softmax", "shows the response 'identity'"),
        (logistic, F[:, 0], 2 * BINARY[:, 0] - 1, "softmax", "at least two classes"),
        (colder, F, Y, "exp", "sum to one"),
    ],
)
def test_a_name_that_does_not_suit_is_refused(loss, outputs, targets, response, message):
    with pytest.raises(ConfigurationError, match=message):
        kind_of(loss, outputs, targets, response=response)


def test_a_loss_that_tells_nothing_is_measured_as_a_sensitivity_and_says_so(lens_of):
    training = Scenario("mlp-outputs", "sgd", "cross-entropy").start()
    training.loss = colder
    with pytest.warns(RefusalWarning, match='pass response="identity"'):
        lens = lens_of(training)
    training.run(lens)
    assert lens.response is None
    record = lens.snapshot().to_record()
    assert "train/logit_sensitivity" in record
    assert not any("freedom" in key or "effective" in key or "hat" in key for key in record)
    with pytest.raises(ConfigurationError, match="the loss does not tell"):
        lens.degrees_of_freedom()
    named = lens_of(training, response="softmax")
    assert named.response == "softmax"
    assert named.degrees_of_freedom() == (0.0, 0.0)
    with pytest.raises(ConfigurationError, match="response must be one of"):
        lens_of(training, response="logit")
