"""The lens on accelerators is the lens on the CPU, and never mixes devices."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from telescope_core.testing import Scenario, assert_agrees


def _exists(name):
    return {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }[name]()


DEVICES = [
    pytest.param(name, marks=pytest.mark.skipif(not _exists(name), reason=f"there is no {name}"))
    for name in ("cuda", "mps")
]
# MPS has no float64; there, only the first digits survive a run in single precision.
PRECISION = {
    "cpu": (torch.float64, 0.0),
    "cuda": (torch.float64, 1e-9),
    "mps": (torch.float32, 1e-3),
}
READS = ("predictions", "telescoped", "linearized")


def moved(scenario, device, dtype):
    """A run on a device, from the same numbers as on the CPU."""
    training = scenario.start()
    for p in training.model.parameters():
        assert p.device.type == "cpu"
    training.model.to(device=device, dtype=dtype)

    def move(tensor):
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    training.train_inputs = move(training.train_inputs)
    training.train_targets = move(training.train_targets)
    training.eval_sets = {name: move(rows) for name, rows in training.eval_sets.items()}
    return training


def followed(scenario, device, dtype, lens_of, resume=False, **options):
    """A lens at the end of its run, taken over by another one half way if asked."""
    training = moved(scenario, device, dtype)
    lens = lens_of(training, **options)
    half = scenario.steps // 2
    training.run(lens, steps=half)
    if resume:
        saved = lens.state_dict()
        copies = {name: t.cpu().to(t.device) for name, t in saved["tensors"].items()}
        lens = lens_of(training, **options)
        lens.load_state_dict({**saved, "tensors": copies})
    training.run(lens)
    return lens


@pytest.mark.parametrize("device", ["cpu", *DEVICES])
@pytest.mark.parametrize(
    ("specimen", "optimizer", "loss", "options"),
    [
        ("mlp-outputs", "adamw", "cross-entropy", {"order": 2, "stride": 3, "probes": "exact"}),
        ("mlp-vector", "sgd-momentum", "mse", {"order": 1, "stride": 1, "probes": "exact"}),
        ("convolution", "adamw", "mse", {"order": 1, "stride": 2, "probes": 6, "deflate": 2}),
        ("attention", "sgd", "mse", {"order": 2, "stride": 4, "probes": 6, "kernel_norms": True}),
        ("lstm", "adamw", "mse", {"order": 2, "stride": 3, "probes": 6, "deflate": 0}),
        ("gru", "sgd", "huber", {"order": 2, "stride": 2, "probes": 3}),
    ],
)
def test_a_run_is_the_same_as_on_the_cpu(specimen, optimizer, loss, options, device, lens_of):
    scenario = Scenario(specimen, optimizer, loss, steps=7)
    dtype, tolerance = PRECISION[device]
    here = followed(scenario, device, dtype, lens_of, **options)
    resumed = followed(scenario, device, dtype, lens_of, resume=True, **options)
    expected = here if device == "cpu" else followed(scenario, "cpu", dtype, lens_of, **options)
    for name in ("train", "test"):
        for read in READS:
            actual = getattr(here, read)(name)
            assert actual.device.type == device
            wanted = getattr(expected, read)(name)
            assert_agrees(actual, wanted, tolerance=tolerance, what=f"{read} of {name}")
            again = getattr(resumed, read)(name)
            assert_agrees(again, actual, tolerance=tolerance, what=f"{read} after a checkpoint")
    record, wanted = (lens.snapshot().to_record() for lens in (here, expected))
    assert record.keys() == wanted.keys()
    for key in (key for key in wanted if "_error" not in key):
        assert record[key] == pytest.approx(wanted[key], rel=tolerance), key


@pytest.mark.parametrize("device", ["cpu", *DEVICES])
def test_function_space_is_the_same_as_on_the_cpu(device, lens_of):
    scenario = Scenario("mlp-outputs", "sgd", "mse", batch_size=None, steps=20)
    dtype, tolerance = PRECISION[device]
    options = {"strategy": "function-space", "stride": 9}
    here = followed(scenario, device, dtype, lens_of, resume=True, **options)
    expected = followed(scenario, "cpu", dtype, lens_of, **options)
    for read in ("telescoped", "smoother", "constant"):
        actual, wanted = (getattr(lens, read)("test") for lens in (here, expected))
        assert_agrees(actual, wanted, tolerance=tolerance, what=read)


class TwoDevices(TorchFunctionMode):
    """Pretends that all given tensors are on an accelerator, to find slips without one.

    A tensor made without ``device=`` is on the host, and so is all that is computed from such
    tensors alone, until ``.to(...)`` moves it.  As in torch, only numbers (no dimensions) and
    positions may meet the other device.
    """

    FACTORIES = frozenset(
        {torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.linspace}
        | {torch.logspace, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm}
        | {torch.scalar_tensor, torch.tensor, torch.zeros}
        | {torch.tril_indices, torch.triu_indices}
    )
    MAY_MIX = frozenset({Tensor.copy_, Tensor.__getitem__, Tensor.__setitem__})

    def __init__(self):
        super().__init__()
        self.on_host = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in self.FACTORIES:
            made_on_host = kwargs.get("device") is None
            self.on_host += made_on_host
            return self._mark(result, made_on_host)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is Tensor.cpu:
            return self._mark(result.view_as(result), True)
        if func is Tensor.to:
            where = [
                a for a in (*args[1:], *kwargs.values()) if not isinstance(a, torch.dtype | bool)
            ]
            if where:
                there = isinstance(where[0], Tensor) and self._is_on_host(where[0])
                return self._mark(result.view_as(result), there)
        sized = {self._is_on_host(tensor) for tensor in tensors if tensor.ndim > 0}
        if len(sized) == 2 and func not in self.MAY_MIX:
            raise AssertionError(f"{func.__name__} was given tensors on two devices")
        if sized == {True}:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._mark(leaf, True)
        return result

    @staticmethod
    def _is_on_host(tensor):
        return getattr(tensor, "made_on_host", False)

    @staticmethod
    def _mark(tensor, on_host):
        tensor.made_on_host = on_host
        return tensor


def test_the_pretended_accelerator_tells_the_two_apart():
    here = torch.ones(3)
    with TwoDevices() as devices:
        there = torch.arange(3.0) * 2 + 1
        assert devices.on_host == 1
        with pytest.raises(AssertionError, match="two devices"):
            here + there
        with pytest.raises(AssertionError, match="two devices"):
            torch.cat([here, torch.linalg.qr(there[:, None]).Q[:, 0]])
        here + there.to(here.device)
        here + there.to(here)
        here + torch.arange(3.0, device=here.device)
        here + torch.tensor(2.0)
        here[torch.tensor([0, 1])]
        with pytest.raises(AssertionError, match="two devices"):
            here.cpu() + here


CASES = [
    ("mlp-outputs", "adamw", "cross-entropy", {"probes": 5, "deflate": 2, "kernel_norms": True}),
    ("mlp-vector", "sgd-momentum", "mse", {"probes": "exact", "order": 1, "stride": 1}),
    ("convolution", "sgd-nesterov", "huber", {"probes": 5}),
    ("attention", "adam-groups", "mse", {"probes": "exact"}),
    ("tied", "sgd-dampening", "cross-entropy-smoothed", {"probes": 6}),
    ("lstm", "adam-decay", "mse", {"probes": 6, "chunk_size": 3}),
    ("gru", "adamw", "half-squared", {"probes": "exact"}),
    ("mlp-outputs", "adamw", "mse", {"probes": None}),
]


@pytest.mark.parametrize(("specimen", "optimizer", "loss", "options"), CASES)
def test_the_lens_never_mixes_devices(specimen, optimizer, loss, options, lens_of):
    training = Scenario(specimen, optimizer, loss, steps=5).start()
    with TwoDevices() as devices:
        lens = lens_of(training, **{"stride": 2, **options})
        training.run(lens, steps=3)
        lens.snapshot()
        again = lens_of(training, **{"stride": 2, **options})
        again.load_state_dict(lens.state_dict())
        training.run(again)
        again.snapshot()
    assert devices.on_host or options["probes"] is None, "the mode sees no factory at all"


class WithoutDoubles(TwoDevices):
    """An accelerator that has no float64, and says so as torch does for MPS."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        for leaf in tree_leaves(result):
            is_double = isinstance(leaf, Tensor) and leaf.dtype == torch.float64
            if is_double and not self._is_on_host(leaf):
                raise TypeError(f"{func.__name__} made float64 on the accelerator")
        return result


@pytest.mark.parametrize("options", [{"probes": "exact"}, {"probes": 6, "deflate": 0}])
def test_steps_in_single_precision_make_no_doubles(options, lens_of):
    training = moved(Scenario("lstm", "adamw", "huber", steps=5), "cpu", torch.float32)
    with WithoutDoubles():
        lens = lens_of(training, stride=2, **options)
        training.run(lens)
        for name in ("train", "test"):
            lens.predictions(name), lens.telescoped(name), lens.linearized(name)
        with pytest.raises(TypeError, match="float64"):
            lens.telescoped("test").double()


@pytest.mark.parametrize("batch_size", [None, 3])
def test_function_space_never_mixes_devices(batch_size, lens_of):
    training = Scenario("mlp-outputs", "sgd", "mse", batch_size=batch_size, steps=20).start()
    with TwoDevices():
        lens = lens_of(training, strategy="function-space", stride=9)
        training.run(lens)
        lens.snapshot()


def test_a_slip_in_the_hot_path_would_be_found(lens_of, monkeypatch):
    training = Scenario("mlp-vector", "adamw", "huber", steps=1).start()
    lens = lens_of(training, probes="exact", stride=1)
    whole = type(lens._run.linearizer.function).gradient

    def slip(function):
        gradient = whole(function)
        return gradient + torch.zeros(len(gradient), dtype=gradient.dtype)

    monkeypatch.setattr(type(lens._run.linearizer.function), "gradient", slip)
    with TwoDevices(), pytest.raises(AssertionError, match="two devices"):
        training.run(lens)
