"""Training that cannot be followed: one typed error, or a warning and what is still right."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Rprop

from telescope_core.errors import (
    ConfigurationError,
    LossError,
    ModelError,
    RefusalWarning,
    TrainingMismatchError,
    UnsupportedOptimizerError,
)
from telescope_core.lens import TelescopeLens
from telescope_core.testing import Scenario
from telescope_core.trackers.null import NullRun

D = torch.float64


def mse(f, y):
    return ((f - y) ** 2).mean()


class Run:
    def __init__(self, optimizer=SGD, loss=mse, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        self.x, self.y = torch.randn(8, 4, dtype=D), torch.randn(8, 2, dtype=D)
        self.optimizer = optimizer(self.model.parameters(), lr=0.05)
        options = {"probes": 4, "stride": 3} | options
        at = (self.model, self.optimizer, loss, self.x, self.y, {"test": self.x[:3] + 0.2})
        self.lens = TelescopeLens(*at, **options)

    def train(self, steps, spoil=lambda: None):
        for number in range(steps):
            index = torch.arange(number, number + 3) % 8
            with self.lens.step(index):
                self.optimizer.zero_grad()
                mse(self.model(self.x[index]), self.y[index]).backward()
                spoil()
                self.optimizer.step()


def mask(run):
    return lambda: run.model[0].weight.grad[:, 0].zero_()


def test_raise_is_the_default_and_leaves_the_parameters_where_they_were():
    run = Run()
    run.train(2)
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(TrainingMismatchError, match=r"0\.weight"):
        run.train(1, mask(run))
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    run.train(3)  # nothing had moved, so the lens goes on
    assert run.lens.steps == 5


def test_warn_goes_on_with_predictions_and_says_so_once():
    run, plain = Run(on_refusal="warn"), Run(probes=None)
    run.train(4)
    plain.train(4)
    assert "test/effective_parameters" in run.lens.snapshot().metrics
    with pytest.warns(RefusalWarning, match=r"predictions only.*0\.weight") as seen:
        run.train(5, mask(run))
    plain.train(5, mask(plain))
    assert len(seen) == 1
    first, second = run.lens.snapshot(), run.lens.snapshot()
    assert first.to_record()["refused"] == 1.0
    assert "0.weight" in first.refusal
    assert "refused" not in second.to_record()
    assert second.metrics == plain.lens.snapshot().metrics
    assert torch.equal(run.lens.telescoped("test"), plain.lens.telescoped("test"))
    assert "0.weight" in run.lens.refusal
    with pytest.raises(ConfigurationError, match=r"gave up.*0\.weight"):
        run.lens.effective_parameters_per_example("test")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"optimizer": Rprop}, UnsupportedOptimizerError),
        ({"loss": lambda f, y: ((f - y).abs().detach() * (f - y) ** 2).mean()}, LossError),
    ],
    ids=["optimizer", "loss"],
)
def test_warn_when_attaching(options, error):
    with pytest.raises(error):
        Run(**options)
    with pytest.warns(RefusalWarning, match="predictions only"):
        run = Run(**options, on_refusal="warn")
    run.train(4)
    snapshot = run.lens.snapshot()
    assert error.__name__ in snapshot.refusal
    assert set(snapshot.metrics) == set(Run(probes=None).lens.snapshot().metrics)


def test_warn_leaves_the_networks_own_outputs_when_nothing_else_is_right():
    run = Run(on_refusal="warn")
    run.train(2)
    run.model[1].register_forward_hook(
        lambda _module, _inputs, y: y - y.mean(dim=0)
    )  # couples rows
    with pytest.warns(RefusalWarning):
        run.train(4)
    snapshot = run.lens.snapshot()
    assert snapshot.metrics == {}
    assert snapshot.refusal is not None
    with torch.no_grad():
        f = run.model(run.x)
    assert torch.allclose(run.lens.predictions("train"), f, rtol=1e-12, atol=1e-12)
    with pytest.raises(ConfigurationError, match="own outputs"):
        run.lens.telescoped("train")
    run.train(4)
    assert run.lens.steps == 10


def test_wrong_arguments_are_errors_under_warn_too():
    run = Run(on_refusal="warn")
    with pytest.raises(ConfigurationError, match="on_refusal"):
        Run(on_refusal="ignore")
    with pytest.raises(ValueError, match="positions"), run.lens.step(torch.tensor([99])):
        pass


def test_every_module_is_named_at_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.BatchNorm1d(4), nn.Dropout(0.3))
    x = torch.randn(6, 4)
    options = {"probes": 4, "strategy": "midpoint"}
    with pytest.raises(ModelError, match=r"1 \(Dropout\), 3 \(Dropout\).*2 \(BatchNorm1d\)"):
        TelescopeLens(model, SGD(model.parameters(), lr=0.1), mse, x, x, **options)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [(torch.jit.script, "TorchScript"), (nn.DataParallel, r"\.module")],
    ids=["script", "parallel"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrapped_models_are_told_what_to_pass(wrap, name):
    model = wrap(nn.Sequential(nn.Linear(4, 2)))
    x = torch.randn(6, 4)
    with pytest.raises(ModelError, match=name):
        TelescopeLens(model, SGD(model.parameters(), lr=0.1), mse, x, x[:, :2], probes=None)


def test_a_compiled_model_is_followed_as_the_plain_one():
    def follow(compiled):
        training = Scenario("mlp-vector", "adamw", "mse").start()
        model = torch.compile(training.model, backend="eager") if compiled else training.model
        at = (model, training.optimizer, training.loss, training.train_inputs)
        lens = TelescopeLens(*at, training.train_targets, training.eval_sets, probes=4, stride=3)
        training.model = model
        training.run(lens)
        return lens.snapshot().metrics

    assert follow(True) == pytest.approx(follow(False), rel=1e-9, abs=1e-12)


class Recorder(NullRun):
    """A run of a tracker that can call for attention."""

    def __init__(self):
        self.records, self.alerts = [], []

    def log(self, step, record):
        self.records.append(dict(record))

    def alert(self, title, text, level):
        self.alerts.append((text, level))


def test_a_live_log_is_told_why_measures_are_missing():
    run, tracked = Run(on_refusal="warn"), Recorder()
    log = run.lens.log_to(tracked, every=1)
    run.train(2)
    with pytest.warns(RefusalWarning):
        run.train(2, mask(run))
    assert log.close()
    assert [record.get("refused") for record in tracked.records] == [None, None, 1.0, None]
    assert "test/effective_parameters" in tracked.records[1]
    assert "test/effective_parameters" not in tracked.records[2]
    ((text, level),) = tracked.alerts
    assert "0.weight" in text
    assert level == "WARN"
