"""A teacher for every seed, and the rows that are evaluated.

The training sets themselves are no outputs of the stage: a million rows take 70 MB and a second or
two to make, and every member makes its own from the teacher, on disk, and streams them from there.
"""

from __future__ import annotations

import torch

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.stream import TeacherTable
from telescope_pipeline.study.sweep import seed_stem

# So many rows are kept, to tell whether members make the same ones.
_FIRST = 200
# Positions of rows that are in no training set.
_BEYOND = 2**40


def prepare(case: LargeScaleCase, seed: int) -> Prepared:
    """Draw a teacher for every seed, with a seed derived from the run's."""
    settings, files = case.data, {}
    for replicate in range(case.seeds):
        drawn_with = derive_seed(seed, "large_scale", "teacher", replicate)
        generator = torch.Generator().manual_seed(drawn_with)
        inner = torch.randn(settings.features, settings.teacher, generator=generator)
        outer = torch.randn(settings.teacher, generator=generator)
        table = TeacherTable(
            drawn_with,
            inner / settings.features**0.5,
            outer * (2 / settings.teacher) ** 0.5,
            settings.noise,
        )
        parts = {
            "train": table.rows(0, min(_FIRST, *settings.rows)),
            "test": table.rows(_BEYOND, settings.test_size),
        }
        files[seed_stem(replicate)] = {
            "key": torch.tensor([table.key]),
            "teacher_inner": table.inner,
            "teacher_outer": table.outer,
            **{f"{name}_inputs": torch.from_numpy(x.copy()) for name, (x, _) in parts.items()},
            **{f"{name}_targets": torch.from_numpy(y) for name, (_, y) in parts.items()},
        }
    card = {
        "name": "teacher table",
        "rows": sorted(settings.rows),
        "features": settings.features,
        "made": "by every member from the teacher, row by row, on disk",
        "files": {stem: {"train_rows_kept": len(t["train_inputs"])} for stem, t in files.items()},
    }
    return Prepared(files, card)
