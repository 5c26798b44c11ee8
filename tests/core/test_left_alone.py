"""Whatever is asked of the lens, model, data and random streams are what they were."""

import copy
import random
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.runs import attached
from telescope_core import TelescopeLens, from_checkpoints, tangent_kernel
from telescope_core.connectivity import gradient_change
from telescope_core.errors import ModelError, TelescopeError
from telescope_core.testing.models import ZOO
from telescope_core.testing.registry import Cell

FOLLOWED = [name for name, model in ZOO.items() if model.refused is None]
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
# After a forward pass these hold tensors with a graph, which Python cannot copy.
HOLD_GRAPHS = ["hook-watches", "keeps-activations"]
CONTEXTS = [nullcontext, torch.inference_mode, torch.no_grad]
SETS = ("train", "test")


def cell_of(name):
    return Cell(name, "sgd-momentum", "mse", stride=2)


def lens_of(run, **options):
    return attached(
        TelescopeLens, run, **{"probes": "exact", "stride": 2, "strategy": "auto", **options}
    )


# ------------------------------------------------------------------------------ what there is


def everything(run):
    """All that a run holds, by path: ``(object, its contents)``."""
    held = {}
    for name, module in run.model.named_modules(remove_duplicate=False):
        held[f"<{name}>"] = (module, None)
        for attribute, value in vars(module).items():
            walk(held, f"{name}.{attribute}", value)
    for name, rows in {"train": run.train_inputs, **run.eval_sets}.items():
        walk(held, f"inputs/{name}", rows)
    walk(held, "targets", run.train_targets)
    for number, group in enumerate(run.optimizer.param_groups):
        walk(held, f"optimizer/{number}", group)
    return held


def walk(held, path, value):
    held[path] = (value, contents(value))
    if isinstance(value, Tensor) and value.is_leaf and value.grad is not None:
        held[f"{path}/grad"] = (value.grad, contents(value.grad))
    if isinstance(value, dict):
        for key, entry in value.items():
            walk(held, f"{path}[{key}]", entry)
    elif isinstance(value, list | tuple):
        for key, entry in enumerate(value):
            walk(held, f"{path}[{key}]", entry)


def contents(value):
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        return (value.requires_grad, value._version, dense.clone())
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, dict | set):
        return list(value)
    return len(value) if isinstance(value, list | tuple) else None  # Entries are walked.


def values(held):
    """What two runs have in common if they are the same: no objects, no numbers of hooks."""
    return {
        path: (value, inside)
        for path, (value, inside) in held.items()
        if "_hooks" not in path and not isinstance(inside, list)
    }


def streams():
    _, keys, *rest = np.random.get_state()  # the global stream is what is meant
    return [torch.get_rng_state(), repr(random.getstate()), torch.from_numpy(keys), repr(rest)]


def same(a, b):
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or a is b


def differences(before, after, *, identity=True):
    found = [f"{path} is gone" for path in before if path not in after]
    found += [f"{path} is new" for path in after if path not in before]
    for path in before.keys() & after.keys():
        (a, inside_a), (b, inside_b) = before[path], after[path]
        # Bound methods and small numbers are made anew whenever they are looked at.
        if identity and a is not b and not isinstance(a, int | float | str):
            found.append(f"{path} is another object")
        elif not same(inside_a, inside_b):
            found.append(f"{path} holds something else")
    return sorted(found)


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


class Watch:
    """Requires after each call that nothing has changed."""

    def __init__(self, run):
        self.run = run
        self.before, self.streams = everything(run), streams()

    def unchanged(self, what):
        found = differences(self.before, everything(self.run))
        assert not found, f"after {what}: {found[:8]}"
        assert same(self.streams, streams()), f"after {what}: a random stream moved"


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
            "effective_parameters_per_example",
        ):
            calls[f"{quantity}({name})"] = lambda q=quantity, n=name: getattr(lens, q)(n)
    state = {}
    calls["classical_degrees_of_freedom"] = lens.classical_degrees_of_freedom
    calls["state_dict"] = lambda: state.update(lens.state_dict())
    calls["load_state_dict"] = lambda: lens.load_state_dict(state)
    calls["snapshot after loading"] = lens.snapshot
    return calls


@pytest.mark.parametrize(
    ("name", "reading"),
    [(name, CONTEXTS[number % 3]) for number, name in enumerate(FOLLOWED)],
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


@pytest.mark.parametrize("name", FOLLOWED)
def test_no_other_call_on_a_model_changes_anything(name):
    run = cell_of(name).start()
    weights = [copy.deepcopy(run.model.state_dict())]
    run.run(steps=1)
    weights.append(copy.deepcopy(run.model.state_dict()))
    watch = Watch(run)
    rows = run.eval_sets["test"]
    tangent_kernel(run.model, run.train_inputs, rows)
    watch.unchanged("tangent_kernel")
    not_copied = name in HOLD_GRAPHS or ZOO[name].refused_as_copy
    allowed = pytest.raises(ModelError) if not_copied else nullcontext()
    with allowed:
        list(from_checkpoints(run.model, weights, {"test": rows}))
    watch.unchanged("from_checkpoints")
    with allowed:
        gradient_change(run.model, *weights, rows)
    watch.unchanged("gradient_change")


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
    watch.unchanged("attaching")
    before = everything(run)
    with suppress(TelescopeError):
        run.run(lens, steps=2)
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
