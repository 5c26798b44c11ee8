"""Whatever is asked of the lens, model, data and random streams are what they were."""

import gc
import os
import random
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from torch import nn

from support.left_alone import Watch, differences, everything, same, streams, values
from support.runs import attached
from telescope_core import TelescopeLens
from telescope_core.errors import TelescopeError
from telescope_core.testing.models import ZOO
from telescope_core.testing.registry import Cell

FOLLOWED = [name for name, model in ZOO.items() if model.refused is None]
# Every other model, unless `make test-slow` asks for the whole zoo.
LOOKED_AT = FOLLOWED if os.environ.get("TELESCOPE_WHOLE_ZOO") else FOLLOWED[::2]
REFUSED = [name for name, model in ZOO.items() if model.refused is not None]
IN_EVAL_MODE = [
    "batch-norm-eval",
    "dropout-eval",
    "encoder-eval",
    "instance-norm-eval",
    "linear-probe",
    "norm-and-dropout-eval",
    "own-generator-eval",
]
CONTEXTS = [nullcontext, torch.inference_mode, torch.no_grad]
SETS = ("train", "test")


def cell_of(name):
    return Cell(name, "sgd-momentum", "mse", stride=2)


def lens_of(run, **options):
    return attached(
        TelescopeLens, run, **{"probes": "exact", "stride": 2, "strategy": "auto", **options}
    )


def require_same_structure(before, after):
    """Training moves values, and what forward passes keep, but neither parameters nor hooks."""

    def structure(held):
        return {
            path: id(value)
            for path, (value, _) in held.items()
            if "_hooks" in path
            or (isinstance(value, nn.Parameter) and "._parameters[" in path)
            or path.startswith("<")
        }

    assert structure(before) == structure(after)


def seed_streams():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)


@pytest.fixture(autouse=True)
def _own_streams():
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_streams()
        yield
    random.setstate(python)
    np.random.set_state(numpy)


# --------------------------------------------------------------------------------------- calls


SIZES = ("logit_sensitivity", "effective_parameters")


def readings(lens):
    calls = {"snapshot": lambda: lens.snapshot().to_record()}
    for name in SETS:
        for quantity in (
            "predictions",
            "telescoped",
            "linearized",
            "smoother",
            "constant",
            "smoothed",
            f"{SIZES[lens.response == 'identity']}_per_example",
        ):
            calls[f"{quantity}({name})"] = lambda q=quantity, n=name: getattr(lens, q)(n)
    state = {}
    calls["degrees_of_freedom"] = lens.degrees_of_freedom
    calls["classical_degrees_of_freedom"] = lens.classical_degrees_of_freedom
    calls["state_dict"] = lambda: state.update(lens.state_dict())
    calls["load_state_dict"] = lambda: lens.load_state_dict(state)
    calls["snapshot after loading"] = lens.snapshot
    return calls


@pytest.mark.parametrize(
    ("name", "reading"),
    [(name, CONTEXTS[number % 3]) for number, name in enumerate(LOOKED_AT)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_call_of_the_lens_changes_anything(name, reading):
    run, alone = cell_of(name).start(), cell_of(name).start()
    run.run(steps=1)  # There are gradients now, and what the forward pass keeps.
    watch = Watch(run)
    lens = lens_of(run)
    watch.unchanged("attaching")
    before = everything(run)
    run.run(lens, steps=3)  # one block, and a step of the next
    require_same_structure(before, everything(run))
    watch = Watch(run)
    for what, call in readings(lens).items():
        with reading():
            call()
        watch.unchanged(what)
    run.run(lens, steps=1)

    followed = everything(run), streams()
    seed_streams()
    alone.run(steps=5)
    require_same_bits((everything(alone), streams()), followed)


@pytest.mark.parametrize("probes", ["exact", None], ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_no_refusal_changes_anything(name, probes):
    run = cell_of(name).start()
    watch = Watch(run)
    try:
        lens = lens_of(run, probes=probes)
    except TelescopeError:
        watch.unchanged("refusing to attach")
        return
    # Passes that are run again are taken down by two hooks, as long as the lens is there.
    watch.unchanged("attaching", but="._forward_" if lens.strategy == "replayed" else "no path")
    before = everything(run)
    with suppress(TelescopeError):
        run.run(lens, steps=2)
    if lens.strategy == "replayed":
        del lens
        gc.collect()
        before = watch.before
    require_same_structure(before, everything(run))


# ------------------------------------------------------------------------------------ training


def trained(name, *, follow, reading=nullcontext, mode=None, **options):
    """Everything after a short training, with or without a lens that is read at every step."""
    seed_streams()
    run = cell_of(name).start()
    lens = lens_of(run, **options) if follow else None
    for _ in range(4):
        if mode is not None:
            run.model.train(mode)
        run.run(*([lens] if lens else []), steps=1)
        if lens:
            with reading():
                lens.snapshot()
                lens.telescoped("test")
    return everything(run), streams()


def require_same_bits(alone, followed):
    found = differences(values(alone[0]), values(followed[0]), identity=False)
    assert not found, found[:8]
    assert same(alone[1], followed[1]), "a random stream moved"


@pytest.mark.parametrize("reading", CONTEXTS)
@pytest.mark.parametrize("name", ["mlp-zero-head", "gru-bidirectional", "masked-tokens", "conv2d"])
def test_reading_in_any_mode_leaves_training_alone(name, reading):
    alone = trained(name, follow=False)
    for options in ({"strategy": "midpoint"}, {"probes": None}):
        require_same_bits(alone, trained(name, follow=True, reading=reading, **options))


@pytest.mark.parametrize("reading", CONTEXTS)
@pytest.mark.parametrize("name", IN_EVAL_MODE)
def test_attached_in_eval_mode_and_trained_in_train_mode(name, reading):
    alone = trained(name, follow=False, mode=True)
    followed = trained(name, follow=True, reading=reading, mode=True, probes=None)
    require_same_bits(alone, followed)


@pytest.mark.parametrize("name", IN_EVAL_MODE)
def test_train_mode_does_draw_or_move_something(name):
    # Otherwise the test above would say nothing.
    (in_eval, eval_streams), (in_train, train_streams) = (
        trained(name, follow=False, mode=mode) for mode in (False, True)
    )
    moved = differences(values(in_eval), values(in_train), identity=False)
    assert not same(eval_streams, train_streams) or any(
        "_buffers" in d or "generator" in d for d in moved
    )


class KeepsAll(nn.Module):
    """Writes to everything that it holds, and to nothing that its outputs depend on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.array, self.names, self.table = np.zeros(2), ["a", "b"], {"calls": 0}
        self.kept, self.seen, self.nested = [torch.zeros(2)], set(), {"inner": [torch.zeros(1)]}
        self.numbers = np.random.default_rng(0)
        self.python = random.Random(0)

    def forward(self, x):
        self.array += 1
        self.names.append("c")
        self.table["calls"] += 1
        self.kept[0] += 1
        self.kept.append(x)
        self.nested["inner"][0] += 1
        self.seen.add(len(x))
        self.added = self.numbers.random() + self.python.random() + random.random()
        return self.layer(x)


def test_whatever_a_forward_pass_writes_to():
    torch.manual_seed(0)
    model = KeepsAll()
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = random.getstate()
    lens = TelescopeLens(model, optimizer, nn.MSELoss(), x, y, {"test": x[:2]}, probes=4)
    lens.snapshot()
    assert model.array.tolist() == [0, 0]
    assert model.names == ["a", "b"]
    assert model.table == {"calls": 0}
    assert len(model.kept) == 1
    assert not model.kept[0].any()
    assert not model.nested["inner"][0].any()
    assert not model.seen
    assert not hasattr(model, "added")
    assert model.numbers.random() == np.random.default_rng(0).random()
    assert model.python.random() == random.Random(0).random()
    assert random.getstate() == state
