"""Two real processes that train replicas of a network, each followed by a lens of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from support import replica
from support.execution import direction, squared
from telescope_core.lens import TelescopeLens

KINDS = ["Network/True", "Calm/False"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Per process its tensors and its errors."""
    folder = tmp_path_factory.mktemp("replicas")
    command = [sys.executable, "-m", "support.replica"]
    here = Path(replica.__file__).parents[1]
    running = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=here, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in running:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said.decode()[-3000:]
    found = []
    for rank in range(2):
        with safe_open(folder / str(rank), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
            found.append((tensors, file.metadata()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_and_predictions_are_the_networks(processes, kind):
    for tensors, _ in processes:
        assert tensors["synchronised"] < 1e-6
        for probes in (None, "exact"):
            assert tensors[f"{kind}/same/{probes}"]
            assert tensors[f"{kind}/gap/{probes}"] < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_the_derivative_of_the_run_of_all_processes(processes, kind):
    """Each process has its own masks; running statistics are those of the first."""
    for tensors, _ in processes:
        actual = torch.einsum("xkny,ny->xk", tensors[f"{kind}/S"], direction())
        expected = tensors[f"{kind}/retrained"]
        assert (actual - expected).norm() < 1e-8 * expected.norm()


def test_it_is_one_process_with_both_batches(processes):
    x, y, test = replica.data()
    torch.manual_seed(1)
    model = replica.Calm().double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    told = (model, optimizer, squared, x, y, {"test": test})
    lens = TelescopeLens(*told, probes="exact", stride=1, curvature="full")
    for index in replica.batches():
        with lens.step(index):
            optimizer.zero_grad()
            squared(model(x[index]), y[index]).backward()
            optimizer.step()
    S = lens.smoother("test", reading="end-to-end")
    for tensors, _ in processes:
        torch.testing.assert_close(tensors["Calm/False/S"], S, rtol=1e-10, atol=1e-12)


def test_a_lens_in_one_process_alone_is_not_left_waiting(processes):
    (_, first), (_, second) = processes
    assert "ConfigurationError: process 1 has made no lens within 2 s" in first["alone"]
    assert second["alone"] == "nothing"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("seeds", "ConfigurationError: the lenses of the processes follow other label directions"),
        ("module", "several processes train: give the lens the DistributedDataParallel itself"),
        ("strategy", "ConfigurationError: strategy='midpoint' does not follow the other processes"),
        ("statistics", "ModelError: norm (SyncBatchNorm) takes statistics over the batches of all"),
        ("fully_shard", "shards its parameters over processes (FSDP)"),
        ("FullyShardedDataParallel", "shards its parameters over processes (FSDP)"),
    ],
)
def test_what_is_refused_by_name(processes, what, said):
    for _, texts in processes:
        assert said in texts[what]
