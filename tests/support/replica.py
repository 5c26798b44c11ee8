"""One of two processes that train replicas of a network: ``python replica.py RANK FOLDER``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from support.execution import OUTPUTS, ROWS, WIDTH, Network, direction, squared
from telescope_core.errors import ConfigurationError, ModelError, TrainingMismatchError
from telescope_core.lens import TelescopeLens
from telescope_core.network import replicas

STEPS, BATCH = 3, 6


class Calm(nn.Sequential):
    """Nothing random, nothing that couples rows."""

    def __init__(self):
        super().__init__(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, OUTPUTS))


def data():
    generator = torch.Generator().manual_seed(2)
    x, y, test = (
        torch.rand(*shape, generator=generator, dtype=torch.float64)
        for shape in ((ROWS, WIDTH), (ROWS, OUTPUTS), (7, WIDTH))
    )
    return 2 * x - 1, y, 2 * test - 1


def batches():
    """Per step the rows of both processes."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randperm(ROWS, generator=generator)[: 2 * BATCH] for _ in range(STEPS)]


def trained(kind, rank, targets=None, probes="none", accumulate=False, **options):
    """The replica after training, its lens, and everything that training has."""
    x, y, test = data()
    y = y if targets is None else targets
    torch.manual_seed(1)
    model = DistributedDataParallel(kind().double().train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lens = None
    if probes is None:
        lens = TelescopeLens(model, eval_sets={"test": test}, stride=1)
    elif probes != "none":
        told = (model, optimizer, squared, x, y, {"test": test})
        options = {"stride": 1, "curvature": "full", **options}
        lens = TelescopeLens(*told, probes=probes, **options)
    torch.manual_seed(5 + rank)
    for index in batches():
        mine = index.chunk(2)[rank]
        with lens.step(mine) if lens else nullcontext():
            optimizer.zero_grad()
            parts = mine.split([2, 4]) if accumulate else [mine]
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                with nullcontext() if last else model.no_sync():
                    loss = squared(model(x[part]), y[part]) * (len(part) / len(mine))
                    loss.backward()
            optimizer.step()
    state = [v for s in optimizer.state.values() for v in s.values()]
    state = [*model.module.state_dict().values(), *state, torch.get_rng_state()]
    model.module.eval()
    with torch.no_grad():
        return model.module(test), lens, [t.clone() for t in state]


def refusal(act):
    """The name and the message of an error of ours."""
    try:
        act()
    except (ConfigurationError, ModelError, TrainingMismatchError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def report(rank):
    """What there is to compare, as tensors, and errors, as texts."""
    found, texts = {}, {}
    for kind, accumulate in ((Network, True), (Calm, False)):
        name = f"{kind.__name__}/{accumulate}"
        how = {"kind": kind, "rank": rank, "accumulate": accumulate}
        plain = trained(**how)
        y = data()[1]
        ends = [trained(targets=y + s * 1e-5 * direction(), **how)[0] for s in (1, -1)]
        for probes in (None, "exact"):
            outputs, lens, state = trained(probes=probes, **how)
            found[f"{name}/same/{probes}"] = torch.tensor(
                all(torch.equal(a, b) for a, b in zip(plain[2], state, strict=True))
            )
            found[f"{name}/gap/{probes}"] = (lens.predictions("test") - outputs).abs().max()
        found[f"{name}/S"] = lens.smoother("test", reading="end-to-end")
        found[f"{name}/retrained"] = (ends[0] - ends[1]) / 2e-5
    texts["seeds"] = refusal(lambda: trained(Calm, rank, probes=4, seed=rank))
    texts["alone"] = refusal(lambda: alone(rank))
    texts["module"] = refusal(lambda: given_the_module(rank))
    texts["strategy"] = refusal(
        lambda: trained(Calm, rank, probes=4, strategy="midpoint", curvature="gauss-newton")
    )
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm
    model = synchronised(Network())
    texts["statistics"] = refusal(lambda: attached(model))
    predicted = TelescopeLens(model, eval_sets={"test": data()[2].float()}).predictions("test")
    with torch.no_grad():
        found["synchronised"] = (model.eval()(data()[2].float()) - predicted).abs().max()
    return found, texts


def attached(model, optimizer=None):
    x, y, test = (t.float() for t in data())
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    return TelescopeLens(
        model, optimizer, squared, x, y, {"test": test}, probes=4, strategy="replayed"
    )


def alone(rank):
    """A lens in the first process only, while the other goes on training."""
    patience, replicas.SECONDS_TO_MEET = replicas.SECONDS_TO_MEET, 2
    model = DistributedDataParallel(Calm())
    try:
        if rank == 0:
            attached(model)
        next(replicas._meetings)  # As if there had been one.
    finally:
        replicas.SECONDS_TO_MEET = patience


def given_the_module(rank):
    torch.manual_seed(1)
    model = Calm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lens, wrapper = attached(model, optimizer), DistributedDataParallel(model)
    x, y, _ = (t.float() for t in data())
    mine = batches()[0].chunk(2)[rank]
    with lens.step(mine):
        squared(wrapper(x[mine]), y[mine]).backward()
        optimizer.step()


def sharded(folder):
    """What is said of parameters that are split over processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (2,))
    new, old = fully_shard(Calm(), mesh=mesh), Calm()
    texts = {}
    sets = {"test": data()[2].float()}
    texts["fully_shard"] = refusal(lambda: TelescopeLens(new, eval_sets=sets))
    old = FullyShardedDataParallel(old, device_id=torch.device("cpu"))
    texts["FullyShardedDataParallel"] = refusal(lambda: TelescopeLens(old, eval_sets=sets))
    return texts


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    try:
        found, texts = report(rank)
        texts |= sharded(folder)
        save_file({n: t.contiguous() for n, t in found.items()}, folder / f"{rank}", texts)
    finally:
        distributed.destroy_process_group()
