"""Training of the tiny case: gradient descent on two numbers, with a checkpoint every epoch."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from telescope_core.errors import NonFiniteError
from telescope_pipeline.cases.tiny.schema import TinyCase
from telescope_pipeline.contract import Member, Trained, TrainingJob


def train(job: TrainingJob[TinyCase]) -> Trained:
    """Fit slope and offset; ``TINY_TRACE`` names a file that gets a line per epoch."""
    assert torch.get_num_threads() == 1
    case, member, data, checkpoint = job.case, job.member, job.data, job.checkpoint
    weights = torch.zeros(2)
    rows: list[dict[str, float]] = []
    first = 0
    saved = checkpoint.load()
    if saved is not None:
        weights, rows, first = saved[0]["weights"], saved[1]["rows"], saved[1]["epoch"]
        for row in rows:
            job.recorded(row)
    for epoch in range(first, case.training.epochs):
        _trace(f"{member.name} {epoch}")
        residual = weights[0] * data["x"] + weights[1] - data["y"]
        gradient = torch.stack([(residual * data["x"]).mean(), residual.mean()])
        weights = weights - case.training.learning_rate * gradient
        rows.append(_record(epoch, residual, member))
        job.recorded(rows[-1])
        checkpoint.save({"weights": weights}, {"rows": rows, "epoch": epoch + 1})
        job.progress(epoch + 1, case.training.epochs)
        _misbehave(member, epoch)
        time.sleep(float(os.environ.get("TINY_PAUSE", "0")))
    frame = pd.DataFrame(rows).astype({"step": "int64"})
    return Trained(frame, {"weights": weights})


def _record(epoch: int, residual: Tensor, member: Member) -> dict[str, Any]:
    mse = float(residual.square().mean())
    width = float(member.values["width"])
    return {
        "step": epoch,
        "train/mse": mse,
        "test/mse": mse * 1.5,
        "train/effective_parameters": width,
        "test/effective_parameters": width / 2,
    }


def _trace(line: str) -> None:
    path = os.environ.get("TINY_TRACE")
    if path:
        with Path(path).open("a") as stream:
            stream.write(line + "\n")


def _misbehave(member: Member, epoch: int) -> None:
    if os.environ.get("TINY_FAIL") == member.name:
        raise NonFiniteError(f"the loss is nan at step {epoch}")
