"""Training one member in the process it was given to."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from telescope_core.errors import ArtifactError, ExecutionError, NonFiniteError
from telescope_pipeline.contract import Member, Progress, Recorded, TrainingJob
from telescope_pipeline.parameters.model import RunSettings
from telescope_pipeline.parameters.user_code import make_importable
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.store import files
from telescope_pipeline.store import table_checks as tables
from telescope_pipeline.store.manifest import key_of, manifest_of
from telescope_pipeline.store.scratch import Scratch

if TYPE_CHECKING:
    from telescope_pipeline.contract import Trained

HISTORY = "history.parquet"
FINAL = "final.safetensors"
MANIFEST = "manifest.json"
TIMING = "timing.json"


class Live(Protocol):
    """A place that shows the history of a member; nothing that happens there raises an error."""

    def rows(self) -> AbstractContextManager[Recorded]:
        """Begin to show it; what comes out is told every row, in order and maybe again."""
        ...


@dataclass(frozen=True)
class Task:
    """A member and all it takes to train it.

    Attributes:
        case: The case, narrowed to this member.
        member: The member.
        run: The run settings.
        data: The data file.
        manifest: What the member is made of, as the sender sees it.
        root: The project's folder, below which the user's code lies.
        scratch: The scratch folder.
        live: Where its history is shown meanwhile.
    """

    case: Case
    member: Member
    run: RunSettings
    data: Path
    manifest: Mapping[str, Any]
    root: Path
    scratch: Path
    live: Live | None = None


def train_member(task: Task, progress: Progress) -> str:
    """Train a member, or go on where it was, and leave its files in the scratch folder.

    Args:
        task: The member.
        progress: Is told how far it is.

    Returns:
        The member's key in the scratch folder.

    Raises:
        ExecutionError: If this process has other code, libraries or data than the sender.
        TelescopeError: Whatever the training raises.
    """
    started, worked = time.monotonic(), time.process_time()
    make_importable(task.root)
    data = _check_same(task)
    key = key_of(dict(task.manifest))
    scratch = Scratch(task.scratch)
    with task.live.rows() if task.live else nullcontext(_ignore) as recorded:
        trained = _train(task, data, scratch, key, progress, recorded)
        for row in trained.history.to_dict("records") if task.live else ():
            recorded({str(name): value for name, value in row.items()})
    tables.check_member_history(trained.history, task.case, f"history of {task.member.name}")
    _check_finite(trained, task.member.name)
    contents = {
        HISTORY: files.parquet_bytes(trained.history.reset_index(drop=True)),
        FINAL: files.tensor_bytes(trained.final),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = files.json_bytes({**task.manifest, "outputs": digests})
    contents[TIMING] = files.json_bytes(
        {
            "wall_seconds": round(time.monotonic() - started, 3),
            # Unlike the clock, the same on a machine that has other things to do.
            "cpu_seconds": round(time.process_time() - worked, 3),
            "peak_memory_mb": round(_peak_memory() / 2**20, 1),
            **({"measured": dict(trained.measured)} if trained.measured else {}),
        }
    )
    scratch.store(key, contents)
    return key


def _check_same(task: Task) -> bytes:
    """Return the data file's bytes once sender and worker agree on what is to be trained."""
    try:
        data = files.read_bytes(task.data)
    except ArtifactError as error:
        message = f"{error}; a worker on another machine needs the project's folder at this path"
        raise ExecutionError(message) from None
    digest = hashlib.sha256(data).hexdigest()
    here = manifest_of(task.case, task.member, task.run, digest, task.root)
    for name, value in here.items():
        if task.manifest[name] != value:
            raise ExecutionError(
                f"the worker has another {name} than the stage started with: {value} instead of "
                f"{task.manifest[name]}; it was changed meanwhile, or the worker has other "
                "versions installed; run the stage again"
            )
    return data


def _train(
    task: Task,
    data: bytes,
    scratch: Scratch,
    key: str,
    progress: Progress,
    recorded: Recorded,
) -> Trained:
    # cuBLAS is reproducible only with a fixed workspace, chosen before it is loaded.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(task.run.threads)
    torch.use_deterministic_algorithms(True)
    _reset_peak_memory()
    training = import_module(f"telescope_pipeline.cases.{task.case.kind}.training.train")
    trained: Trained = training.train(
        TrainingJob(
            task.case,
            task.member,
            files.parse_tensors(task.data, data),
            seed=task.run.seed,
            device=torch.device(task.run.device),
            checkpoint=scratch.checkpoint(key),
            progress=progress,
            recorded=recorded,
        )
    )
    return trained


def _ignore(row: Mapping[str, int | float]) -> None:
    """Nobody follows."""


def _check_finite(trained: Trained, name: str) -> None:
    for key, tensor in trained.final.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NonFiniteError(f"{name}: the trained tensor {key} holds NaN or infinity")


def _reset_peak_memory() -> None:
    # Linux forgets the peak on request; elsewhere it is that of the whole process.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
