"""One small run of the polynomial regression on which training groks, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from telescope_core.errors import ArtifactError
from telescope_pipeline.cases.grokking_polynomial.data import prepare
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.cases.grokking_polynomial.sweep import members
from telescope_pipeline.cases.grokking_polynomial.training.train import train
from telescope_pipeline.contract import TrainingJob
from telescope_pipeline.demo.figure import draw
from telescope_pipeline.demo.reading import Reading
from telescope_pipeline.demo.screen import watched
from telescope_pipeline.store import files
from telescope_pipeline.study.drawing.picture import png

_MADE_BY = "telescope demo"
_SUMMARY = "demo.json"

# The network and the task of Section 4.1, smaller, at the rate and the strides of the case.
_SETTINGS: Mapping[str, Any] = {
    "kind": "grokking_polynomial",
    "seeds": 1,
    "data": {"dimension": 60, "train_size": 320, "test_size": 300},
    "model": {"hidden": 200, "epsilon": 0.2},
    "training": {"steps": 1200, "learning_rate": 1600.0},
    "lens": {"order": 2, "stride": 6, "probes": "exact", "records": 80},
    "claims": {"low_error": 0.1},
    "plot": {"dpi": 160},
}


def demo(folder: Path, *, seed: int = 0, steps: int | None = None) -> tuple[Path, list[str]]:
    """Train a network that groks, show it while it trains, and draw what happened.

    The folder gets ``grokking.png``, its numbers ``grokking.csv`` and ``demo.json``, all anew at
    every run; the same seed gives the same numbers.

    Args:
        folder: Where to; made if missing. It may hold files of an earlier demo, no others.
        seed: Decides the task, the initial weights and nothing else.
        steps: Updates; as many as show it if None.

    Returns:
        The picture, and two sentences on what to see in it.

    Raises:
        ArtifactError: The folder holds other files, or cannot be written.
    """
    _check_ours(folder)
    case = GrokkingPolynomialCase.model_validate(_SETTINGS)
    if steps is not None:
        training = case.training.model_copy(update={"steps": steps})
        case = case.model_copy(update={"training": training})
    torch.set_num_threads(1)
    member = members(case)[0]
    with watched(case) as (progress, recorded):
        job = TrainingJob(
            case=case,
            member=member,
            data=prepare(case, seed).files[member.data],
            seed=seed,
            device=torch.device("cpu"),
            checkpoint=_NoCheckpoint(),
            progress=progress,
            recorded=recorded,
        )
        history = train(job).history
    reading = Reading.of(history, case)
    drawn = draw(history, reading)
    picture = folder / "grokking.png"
    files.write_json(
        folder / _SUMMARY,
        {
            "made_by": _MADE_BY,
            "seed": seed,
            "settings": case.model_dump(mode="json", exclude_none=True),
            "numbers": reading.numbers,
            "what_to_see": reading.sentences,
        },
    )
    files.write_text(folder / "grokking.csv", drawn.table.to_csv(index=False, lineterminator="\n"))
    files.write_bytes(picture, png(drawn, case.plot.dpi))
    return picture, reading.sentences


def _check_ours(folder: Path) -> None:
    """Refuse a folder that a demo has not made."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        ours = json.loads((folder / _SUMMARY).read_bytes())["made_by"] == _MADE_BY
    except (OSError, ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise ArtifactError(
            f"{folder} is there already and no earlier demo made it: nothing was written; name "
            "another folder with --out"
        )


class _NoCheckpoint:
    """The run is too short to be worth a checkpoint."""

    def load(self) -> None:
        return None

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Keep nothing."""
