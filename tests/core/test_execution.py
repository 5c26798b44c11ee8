"""Training in half precision, compiled, recomputed, accumulated, scaled and scheduled.

In every way of running it training has the same bits with and without the lens.  In double
precision the columns are the derivative of the run, against retraining with perturbed labels; in
half precision they are those of the same run in single precision, within its rounding.
"""

from shutil import which

import pytest
import torch
from torch._inductor import config as inductor

from support.execution import (
    Execution,
    Network,
    Run,
    along,
    assert_same_training,
    retrained,
    sgd,
)
from telescope_core.errors import ModelError, RefusalWarning, TrainingMismatchError

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _compile_anew():
    yield
    torch._dynamo.reset()


def assert_derivative(way, tolerance=1e-8):
    assert_same_training(way, probes=None)
    lens = assert_same_training(way)
    assert lens.strategy == "replayed"
    expected = retrained(way)
    assert (along(lens) - expected).norm() < tolerance * expected.norm()
    return lens


def assert_close(way, reference, rounding):
    """S and the predictions are those of another way of running, within so much of them."""
    assert_same_training(way, probes=None)
    lens = assert_same_training(way, curvature="gauss-newton")
    other = Run(reference).attach(curvature="gauss-newton").train().lens
    for reading in ("smoother", "predictions", "telescoped"):
        actual, expected = (getattr(one, reading)("test") for one in (lens, other))
        assert (actual - expected).norm() < rounding * expected.norm()


SINGLE = Execution(dtype=torch.float32)


@pytest.mark.parametrize("half", HALVES)
def test_autocast_around_the_forward_pass(half):
    assert_close(SINGLE.but(autocast=half), SINGLE, torch.finfo(half).eps)


@pytest.mark.parametrize("half", HALVES)
def test_autocast_inside_the_forward_pass(half):
    """It belongs to the model, whose derivatives are then taken in that precision, too."""
    inside = SINGLE.but(make=lambda: Network(inside=half))
    assert_close(inside, SINGLE, 4 * torch.finfo(half).eps)


@pytest.mark.parametrize("half", HALVES)
def test_a_model_held_in_half_precision(half):
    assert_close(SINGLE.but(dtype=half), SINGLE, torch.finfo(half).eps)


def test_an_autocast_around_the_whole_loop_is_refused():
    """Its cache keeps the weights of the first step, which training then goes on to use."""
    run = Run(SINGLE)
    refused = pytest.raises(TrainingMismatchError, match="runs under an autocast, which keeps")
    with torch.autocast("cpu", torch.bfloat16), refused:
        run.attach().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_training(SINGLE, probes=None)


def test_a_scaled_loss_clipped_by_norm():
    scaled = SINGLE.but(autocast=torch.float16, scaler={"init_scale": 2.0**12}, clip=0.5)
    assert_close(scaled, SINGLE.but(clip=0.5), torch.finfo(torch.float16).eps)


def test_steps_that_the_scaler_leaves_out():
    lens = assert_derivative(Execution(scaler={"growth_interval": 2}, infinite_at=1))
    assert lens.steps == 3


def test_steps_that_a_fused_optimizer_leaves_out():
    def fused(model):
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)

    assert_derivative(Execution(scaler={}, infinite_at=1, optimizer=fused))


def in_place(model):
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def in_part(model):
    model.second = torch.compile(model.second, backend="aot_eager")
    model.first.compile(backend="eager")
    return model


COMPILED = {
    "eager": lambda model: torch.compile(model, backend="eager"),
    "aot_eager": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
    "in place": in_place,
    "in part": in_part,
}


@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
def test_compiled_models(how):
    assert_derivative(Execution(wrap=COMPILED[how]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_with_the_streams_of_torch():
    if not any(map(which, ("g++", "clang++", "c++"))):
        pytest.skip("inductor needs a C++ compiler")
    with inductor.patch(fallback_random=True):
        assert_derivative(Execution(wrap=torch.compile, steps=3))
    torch._dynamo.reset()
    with pytest.raises(ModelError, match="fallback_random"):
        Run(Execution(wrap=torch.compile, steps=1)).attach().train()


def test_a_model_compiled_without_the_lens_knowing_is_refused():
    """Compiled from outside, its passes cannot be seen; nothing is traced into the graph."""
    run = Run(Execution())
    run.attach()
    run.model = torch.compile(run.inner, backend="aot_eager", fullgraph=True)
    with pytest.raises(TrainingMismatchError, match=r"0 passes .* what torch.compile"):
        run.train()
    assert_same_training(Execution(wrap=COMPILED["aot_eager"]), probes=None)


@pytest.mark.parametrize("kind", ["kept", "reentrant"])
def test_recomputed_activations(kind):
    """The statistics of a part that is recomputed move twice, dropout masks are the same."""
    assert_derivative(Execution(make=lambda: Network(recomputed=kind)))


def test_accumulated_batches_of_unequal_size():
    assert_derivative(Execution(sizes=(3, 8, 5)))


def in_groups(model):
    first = list(model.first.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("first")]
    groups = [{"params": first, "lr": 0.02, "weight_decay": 0.1}, {"params": rest, "momentum": 0.5}]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)


def still(model):
    # The preconditioner is held fixed in the model; here its adaptive part is next to nothing.
    return torch.optim.Adam(model.parameters(), lr=5e3, betas=(0.9, 0.999), eps=1e5)


def one_cycle(run, step):
    """It moves the learning rate and, the other way, momentum or the first beta."""
    if step == 0:
        most = 4 * run.optimizer.param_groups[0]["lr"]
        run.schedule = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, most, total_steps=20)
    else:
        run.schedule.step()
    group = run.optimizer.param_groups[0]
    run.seen = {*getattr(run, "seen", ()), group.get("momentum") or group["betas"][0]}
    assert len(run.seen) == step + 1


def test_several_groups():
    assert_derivative(Execution(optimizer=in_groups))


def test_a_schedule_of_rate_and_momentum():
    assert_derivative(Execution(optimizer=sgd, event=one_cycle))


def test_a_schedule_of_rate_and_betas():
    assert_derivative(Execution(optimizer=still, event=one_cycle), tolerance=1e-5)


def freeze(run, step):
    if step == 2:
        run.inner.first.requires_grad_(False)


def test_parameters_frozen_on_the_way():
    assert_derivative(Execution(event=freeze))


def reset(run, step):
    if step == 2:
        run.inner.norm.reset_running_stats()


def test_buffers_that_change_otherwise_are_named():
    run = Run(Execution(event=reset)).attach()
    with pytest.warns(RefusalWarning, match=r"norm.running_mean, norm.running_var moved where no"):
        run.train()


def test_a_model_that_training_changes_by_a_hook_on_its_gradients_is_refused_when_compiled():
    def hooked(model):
        model.last.weight.register_hook(lambda gradient: gradient * 0.5)
        return torch.compile(model, backend="eager")

    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient"):
        Run(Execution(wrap=hooked, dtype=torch.float32, autocast=torch.bfloat16)).attach().train()
