"""What was true when the lens was attached may not be true later: followed, or refused by name."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.lens import TelescopeLens
from telescope_core.testing import RowAccount, assert_agrees

D = torch.float64
BATCHES = [torch.tensor(rows) for rows in ([0, 1, 2], [3, 4, 5], [5, 0, 3], [1, 4, 2])] * 3


def mse(f, y):
    return ((f - y) ** 2).mean()


class Net(nn.Module):
    """Two layers and a temperature that is no parameter."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("temperature", torch.ones(()))
        self.gain = 1.0

    def forward(self, x):
        return self.gain * self.second(torch.tanh(self.first(x))) / self.temperature


class Run:
    def __init__(self, optimizer=SGD, *, loss=mse, groups=None, **options):
        torch.manual_seed(0)
        self.model = Net().double()
        self.x, self.y = torch.randn(6, 4, dtype=D), torch.randn(6, 2, dtype=D)
        self.loss = loss
        options = {"lr": 0.05} | options
        self.optimizer = optimizer(
            groups(self.model) if groups else self.model.parameters(), **options
        )

    def attach(self, **options):
        options = {"probes": "exact", "stride": 3} | options
        sets = {"test": self.x[:2] + 0.3}
        at = (self.model, self.optimizer, self.loss, self.x, self.y, sets)
        self.lens = TelescopeLens(*at, **options)
        return self

    def watch(self, quadrature="trapezoid", stride=3):
        at = (self.model, self.optimizer, self.loss, self.x, self.y, {"test": self.x[:2] + 0.3})
        self.account = RowAccount(*at, quadrature=quadrature, stride=stride)
        return self

    def gradients(self, index):
        self.model.zero_grad()
        self.loss(self.model(self.x[index]), self.y[index]).backward()

    def step(self, index, before=lambda: None, after=lambda: None):
        with self.lens.step(index):
            self.gradients(index)
            before()
            self.optimizer.step()
            after()

    def train(self, steps=6, **options):
        for index in BATCHES[:steps]:
            self.step(index, **options)


def with_rows(run, act, steps, watched=True):
    """Train inside the lens and the account, calling ``act`` before every step."""
    for number, index in enumerate(BATCHES[:steps]):
        act(number)
        with run.account.step(index), run.lens.step(index):
            run.gradients(index)
            run.optimizer.step()
    for name in ("train", "test"):
        for what in ("telescoped", "smoother"):
            actual, expected = getattr(run.lens, what)(name), getattr(run.account, what)(name)
            assert_agrees(actual, expected, tolerance=1e-9, what=f"{what} of {name}")


# ------------------------------------------------------------------ freezing and unfreezing


def test_unfreezing_is_refused_by_name():
    run = Run()
    run.model.first.requires_grad_(False)
    run.attach(probes="exact")
    run.train(2)
    run.model.first.requires_grad_(True)
    with pytest.raises(TrainingMismatchError, match=r"first\.weight, first\.bias.*unfreezing"):
        run.train(3)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("what", ["first", "second"])
def test_freezing_in_mid_run_is_followed(what, optimizer):
    run = Run(optimizer).attach().watch()

    def freeze(number):
        if number == 2:
            getattr(run.model, what).requires_grad_(False)
            run.optimizer.zero_grad()

    with_rows(run, freeze, 7)


def test_a_layer_that_is_replaced_is_refused_by_name():
    run = Run().attach()
    run.train(2)
    run.model.second = nn.Linear(5, 2).double()
    with pytest.raises(TrainingMismatchError, match=r"second\.weight.*another parameter"):
        run.train(1)


# ----------------------------------------------------------- moved otherwise than by the step


def norm_constraint(run):
    with torch.no_grad():
        run.model.first.weight /= run.model.first.weight.norm(dim=1, keepdim=True)


def silent_clamp(run):
    run.model.second.weight.data.clamp_(-0.1, 0.1)


def averaged_weights(run):
    state = {name: 0.9 * value for name, value in run.model.state_dict().items()}
    run.model.load_state_dict(state)


@pytest.mark.parametrize("change", [norm_constraint, silent_clamp, averaged_weights])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_parameters_that_move_outside_of_the_step_are_refused_by_name(change, where):
    run = Run().attach()
    run.step(BATCHES[0], after=lambda: change(run) if where == "inside" else None)
    if where == "outside":
        change(run)
    with pytest.raises(TrainingMismatchError, match=r"(first|second)\.weight.*moved outside"):
        run.step(BATCHES[1])


def test_and_nothing_is_read_before_the_next_step_either():
    run = Run().attach()
    run.step(BATCHES[0], after=lambda: silent_clamp(run))
    with pytest.raises(TrainingMismatchError, match=r"second\.weight.*when read"):
        run.lens.smoother("test")


@pytest.mark.parametrize("strategy", ["parameter-space", "midpoint", "function-space"])
def test_a_clamp_in_a_hook_of_the_step_is_refused_by_name(strategy):
    run = Run().attach(strategy=strategy)
    run.optimizer.register_step_post_hook(lambda *_: silent_clamp(run))
    with pytest.raises(TrainingMismatchError, match=r"second\.weight did not move by SGD"):
        run.step(BATCHES[0])


def test_predictions_follow_parameters_however_they_move():
    run = Run().attach(probes=None, stride=1)

    def shrink():
        run.model.first.weight.data *= 0.98

    run.train(6, after=shrink)
    assert run.lens.snapshot().metrics["test/approximation_error"] < 1e-3


# ----------------------------------------------------------------------- gradients and scales


def test_clipping_inside_a_block_is_seen_in_function_space():
    run = Run().attach(strategy="function-space", stride=4)
    run.step(BATCHES[0])

    def clip():
        nn.utils.clip_grad_norm_(run.model.parameters(), 1e-3)

    with pytest.raises(TrainingMismatchError, match=r"scaled by"):
        run.step(BATCHES[1], before=clip)


def test_clipping_that_does_nothing_is_fine_in_function_space():
    run = Run().attach(strategy="function-space", stride=4)
    run.train(6, before=lambda: nn.utils.clip_grad_norm_(run.model.parameters(), 1e6))


@pytest.mark.parametrize("strategy", ["function-space", "parameter-space"])
@pytest.mark.parametrize("batch", [BATCHES[0], torch.arange(6)], ids=["batch", "full"])
def test_an_annealed_loss_is_followed(strategy, batch):
    weight = [1.0]
    run = Run(loss=lambda f, y: weight[0] * mse(f, y)).attach(strategy=strategy, order=1, stride=1)
    run.watch("start", stride=1)
    for _ in range(5):
        weight[0] *= 0.8
        with run.account.step(batch), run.lens.step(batch):
            run.gradients(batch)
            run.optimizer.step()
    assert_agrees(run.lens.smoother("test"), run.account.smoother("test"), tolerance=1e-9, what="S")


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_fused_optimizer_that_unscales_by_itself_is_followed(kind):
    scaled, plain = Run(kind, fused=True, lr=0.01).attach(), Run(kind, lr=0.01).attach()
    plain.train(6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for index in BATCHES[:6]:
        with scaled.lens.step(index):
            scaled.optimizer.zero_grad()
            outputs = scaled.model(scaled.x[index])
            scaler.scale(scaled.loss(outputs, scaled.y[index])).backward()
            scaler.step(scaled.optimizer)
        scaler.update()
    S, expected = scaled.lens.smoother("test"), plain.lens.smoother("test")
    assert_agrees(S, expected, tolerance=1e-7, what="S")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("probes", ["exact", 4], ids=str)
def test_a_step_that_a_scaler_leaves_out_is_left_out(fused, probes):
    run, plain = Run(fused=fused).attach(probes=probes), Run().attach(probes=probes)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number, index in enumerate(BATCHES[:5]):
        with run.lens.step(index):
            run.optimizer.zero_grad()
            outputs = run.model(run.x[index])
            scaler.scale(run.loss(outputs, run.y[index])).backward()
            if number == 2:
                run.model.first.weight.grad[0, 0] = float("inf")
            scaler.step(run.optimizer)
        scaler.update()
        if number != 2:
            plain.step(index)
    assert run.lens.steps == plain.lens.steps == 4
    for key, value in plain.lens.snapshot().metrics.items():
        assert run.lens.snapshot().metrics[key] == pytest.approx(value, rel=1e-9, abs=1e-14)


def test_a_second_optimizer_on_other_layers_is_refused_by_name():
    run = Run(groups=lambda model: model.second.parameters()).attach()
    other = SGD(run.model.first.parameters(), lr=0.1)
    with pytest.raises(TrainingMismatchError, match=r"first\.weight.*another optimizer"):
        run.train(3, after=other.step)


def test_predictions_follow_two_optimizers():
    run = Run(groups=lambda model: model.second.parameters()).attach(probes=None, stride=1)
    other = SGD(run.model.first.parameters(), lr=0.05)
    both = Run().attach(probes=None, stride=1)
    run.train(6, after=other.step)
    both.train(6)
    assert_agrees(
        run.lens.telescoped("test"), both.lens.telescoped("test"), tolerance=1e-12, what="f̃"
    )


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros((), dtype=D))

    def forward(self, f, y):
        return mse(f, y) * torch.exp(-self.log_variance) + self.log_variance


@pytest.mark.parametrize("held", [True, False], ids=["one optimizer", "fixed"])
def test_what_is_trained_inside_the_loss_is_refused_by_name(held):
    loss = Learned()
    groups = (lambda m: [*m.parameters(), *loss.parameters()]) if held else None
    run = Run(loss=loss, groups=groups)
    with pytest.raises(ConfigurationError, match=r"trained along: log_variance"):
        run.attach()
    run.attach(probes=None).train(3)


def test_another_module_in_the_same_optimizer_is_refused():
    other = nn.Linear(3, 7).double()
    run = Run(groups=lambda model: [*model.parameters(), *other.parameters()])
    with pytest.raises(ConfigurationError, match=r"shape \(7, 3\)"):
        run.attach()


# ------------------------------------------------------------------ what else outputs depend on


def cool(run):
    run.model.temperature *= 0.9


def set_gain(run):
    run.model.gain *= 1.1


def new_buffer(run):
    run.model.temperature = run.model.temperature + 0.1


@pytest.mark.parametrize("strategy", ["parameter-space", "function-space"])
@pytest.mark.parametrize(
    ("change", "name"), [(cool, "temperature"), (set_gain, "gain"), (new_buffer, "temperature")]
)
def test_a_function_that_changes_is_refused_by_name_with_a_smoother(change, name, strategy):
    run = Run().attach(strategy=strategy, stride=3)
    with pytest.raises(TrainingMismatchError, match=rf"otherwise than through.*{name}"):
        run.train(4, after=lambda: change(run))


def test_so_is_one_whose_change_nobody_can_see():
    gain = [1.0]
    run = Run()
    run.model.second.register_forward_hook(lambda _module, _inputs, output: gain[0] * output)
    run.attach(stride=2)
    run.step(BATCHES[0])
    gain[0] = 1.5
    with pytest.raises(TrainingMismatchError, match="does not hold itself"):
        run.lens.smoother("test")


def test_counters_that_change_nothing_are_fine():
    run = Run()
    run.model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    run.attach().watch()

    def count(number):
        run.model.count += 1

    with_rows(run, count, 7)


def jacobian(model, x, parameters):
    rows = []
    for output in model(x).flatten():
        gradients = torch.autograd.grad(output, parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("order", [1, 2])
def test_predictions_take_the_change_as_it_is(order):
    run = Run().attach(probes=None, stride=2, order=order)
    x = run.x[:2] + 0.3
    parameters = list(run.model.parameters())

    def outputs():
        return run.model(x).detach().flatten()

    def at(theta):
        theta = theta.clone()
        for p in parameters:
            p.data.copy_(theta[: p.numel()].view_as(p))
            theta = theta[p.numel() :]

    def theta():
        return torch.cat([p.detach().flatten() for p in parameters])

    expected, start = outputs(), theta()
    f_s = outputs()
    for number, index in enumerate(BATCHES[:6]):
        run.step(index, after=lambda: cool(run))
        if number % 2 == 0:
            continue
        end, J_end, f_e = theta(), jacobian(run.model, x, parameters), outputs()
        at(start)
        shift = outputs() - f_s  # of the buffer alone, at the start's parameters
        J = jacobian(run.model, x, parameters)  # with the buffer as it is now
        at(end)
        mean = J if order == 1 else (J + J_end) / 2
        expected = expected + mean @ (end - start) + shift
        start, f_s = end, f_e
    assert float(shift.abs().max()) > 1e-3
    assert_agrees(run.lens.telescoped("test").flatten(), expected, tolerance=1e-10, what="f̃")
    assert_agrees(run.lens.predictions("test").flatten(), f_s, tolerance=1e-12, what="f")


@pytest.mark.parametrize("moment", [2, 4])
def test_a_run_is_resumed_exactly_also_inside_a_block(moment):
    def begin():
        return Run().attach(probes=None, stride=4)

    whole, part, resumed = begin(), begin(), begin()
    for index in BATCHES[:6]:
        whole.step(index, after=lambda: cool(whole))
    for index in BATCHES[:moment]:
        part.step(index, after=lambda: cool(part))
    resumed.model.load_state_dict(part.model.state_dict())
    resumed.lens.load_state_dict(part.lens.state_dict())
    for index in BATCHES[moment:6]:
        resumed.step(index, after=lambda: cool(resumed))
    assert torch.equal(resumed.lens.telescoped("test"), whole.lens.telescoped("test"))


class Adapted(nn.Module):
    """A frozen layer with an adapter that eval() merges into it and train() takes out again."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 2)
        self.base.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(2, 1))
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.base.weight.data += (-1 if mode else 1) * (self.up @ self.down).data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        y = self.base(x)
        return y if self.merged else y + x @ (self.up @ self.down).T


def test_adapters_that_are_merged_while_reading_are_refused_by_name():
    run = Run()
    run.model = Adapted().double()
    trained = [p for p in run.model.parameters() if p.requires_grad]
    run.optimizer = SGD(trained, lr=0.02)
    run.attach(probes="exact")
    run.train(4)
    expected = run.lens.telescoped("test")
    run.model.eval()
    with pytest.raises(TrainingMismatchError, match=r"base\.weight.*eval mode"):
        run.lens.telescoped("test")
    run.model.train()
    assert_agrees(run.lens.telescoped("test"), expected, tolerance=1e-12, what="f̃")
    run.train(4)


def test_a_penalty_in_the_loss_is_refused_by_name():
    run = Run()
    run.loss = lambda f, y: mse(f, y) + 1e-3 * run.model.first.weight.square().sum()
    with pytest.raises(ConfigurationError, match=r"first\.weight.*weight decay"):
        run.attach()


@pytest.mark.parametrize("strategy", ["parameter-space", "function-space"])
def test_inputs_that_change_are_refused(strategy):
    run = Run().attach(strategy=strategy, stride=2)
    run.step(BATCHES[0])
    run.x += 0.1
    with pytest.raises(TrainingMismatchError):
        run.step(BATCHES[1])
