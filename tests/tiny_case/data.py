"""Data of the tiny case."""

from __future__ import annotations

import torch

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.tiny.schema import TinyCase
from telescope_pipeline.contract import Prepared


def prepare(case: TinyCase, seed: int) -> Prepared:
    """Draw one file per seed."""
    files = {}
    for replicate in range(case.seeds):
        generator = torch.Generator().manual_seed(derive_seed(seed, "tiny", replicate))
        noise = case.data.label_noise * torch.randn(20, generator=generator)
        x = torch.linspace(-1, 1, 20)
        files[f"seed-{replicate}"] = {"x": x, "y": 2 * x + noise}
    return Prepared(files, {"title": "A line", "rows": 20})
