"""A network on a stream of rows from disk, followed in several ways at once.

The ways take turns block by block, the first one another every time, on the same batches and with
the same masks, so that what a machine does otherwise weighs on all of them alike.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from telescope_core.errors import DataError
from telescope_core.lens import TelescopeLens
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.cases.large_scale.sweep import WAYS, counted
from telescope_pipeline.cases.large_scale.training.ways import Batch, Way, network
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.datasets.stream import BatchesOnDisk, TeacherTable
from telescope_pipeline.study.training.loop import final_state
from telescope_pipeline.study.training.measures import Row, half_squared_error, squared_error
from telescope_pipeline.study.training.schedules import log_spaced_steps
from telescope_pipeline.study.training.state import pack, unpack

# Operations are counted in the first block, which is not timed.
_COUNTED = 1
# The name of the way that keeps the whole training set in memory.
STORED = "stored"


def train(job: TrainingJob[LargeScaleCase]) -> Trained:
    """Write the rows, train on them in every way at once, and record what the lenses see.

    Returns:
        The recorded history, the weights, and what was measured of this machine.
    """
    data = job.data
    table = TeacherTable(
        int(data["key"]), data["teacher_inner"], data["teacher_outer"], job.case.data.noise
    )
    with tempfile.TemporaryDirectory(prefix="telescope-rows-") as folder:
        path = Path(folder) / "rows.npy"
        table.write(path, int(job.member.values["rows"]))
        _require_same(path, data)
        return _Run(job, path).finish()


def _require_same(path: Path, data: Mapping[str, Tensor]) -> None:
    """Refuse rows that come out otherwise on this machine than where the data was prepared."""
    inputs, targets, _ = next(iter(BatchesOnDisk(path, len(data["train_inputs"]))))
    same = torch.equal(inputs, data["train_inputs"])
    if not same or not torch.allclose(targets, data["train_targets"], rtol=1e-4, atol=1e-5):
        raise DataError(
            "the first rows of the training set are not those that the prepare stage made from "
            "the same teacher (another version of numpy?); run the stage again on this machine"
        )


class _Run:
    """All ways of a member."""

    def __init__(self, job: TrainingJob[LargeScaleCase], path: Path) -> None:
        self._job, self._path = job, path
        case, lens = job.case, job.case.lens
        self._rows = int(job.member.values["rows"])
        self._test = {"test": job.data["test_inputs"]}
        is_stored = self._rows <= case.data.compared_rows
        names = (*WAYS, STORED) if is_stored else WAYS
        seed, features = job.seed_of("weights"), case.data.features
        self.ways = {
            name: Way(network(case.model, features, seed), case.training) for name in names
        }
        options: dict[str, Any] = {"order": lens.order, "stride": lens.stride}
        way = self.ways["predictions"]
        way.lens = TelescopeLens(
            way.model, way.optimizer, eval_sets=self._test, probes=None, **options
        )
        options |= {"probes": lens.probes, "deflate": 0, "seed": job.seed_of("probes")}
        way = self.ways["probes"]
        way.lens = TelescopeLens(
            *(way.model, way.optimizer, half_squared_error, self._loader(0)),
            eval_sets=self._test,
            eval_rows=case.data.test_size,
            train_rows=self._rows,
            sample_id=2,
            follow_train=False,
            **options,
        )
        if is_stored:
            way, (x, y, _) = self.ways[STORED], next(self._batches(0, self._rows))
            way.lens = TelescopeLens(
                *(way.model, way.optimizer, half_squared_error, x, y), self._test, **options
            )

    def finish(self) -> Trained:
        """Train to the end, from the last checkpoint if there is one."""
        job, case = self._job, self._job.case
        stride, steps = case.lens.stride, case.training.steps
        wanted = {
            min(steps, math.ceil(step / stride) * stride)
            for step in log_spaced_steps(steps, case.lens.records, stride=stride)
        }
        start, rows = self._resumed()
        for row in rows or [self._record(0, rows, {})]:
            job.recorded(row)
        counts = {name: float(rows[-1][counted(name)]) for name in WAYS}
        batches = self._batches(start)
        for step in range(start + stride, steps + 1, stride):
            counts |= self._block(list(islice(batches, stride)), step // stride)
            if step in wanted:
                job.recorded(self._record(step, rows, counts))
            every = max(stride, case.lens.checkpoint_every // stride * stride)
            if step % every == 0 and step < steps:
                self._save(step, rows)
            job.progress(step, steps)
        history = pd.DataFrame(rows).astype({"step": "int64"})
        return Trained(history, final_state(self.ways["probes"].model), self._measured())

    def _block(self, block: list[Batch], number: int) -> dict[str, float]:
        """Train every way on the same batches; count operations in the first block."""
        seed = derive_seed(self._job.seed_of("masks"), number)
        names = list(self.ways)
        turn = number % len(names)
        counts = {}
        for name in names[turn:] + names[:turn]:
            if number == _COUNTED and name in WAYS:
                with FlopCounterMode(display=False) as counter:
                    self.ways[name].train(block, seed)
                counts[name] = counter.get_total_flops() / len(block) / 1e9
            else:
                self.ways[name].train(block, seed)
        return counts

    def _record(self, step: int, rows: list[Row], counts: dict[str, float]) -> Row:
        lens = self.ways["probes"].lens
        assert lens is not None
        state = lens.state_dict()["tensors"].values()
        mse = squared_error(lens.predictions("test"), self._job.data["test_targets"])
        of_lens = {k: v for k, v in lens.snapshot().to_record().items() if k.startswith("test/")}
        stored = {"effective_parameters": math.nan, "effective_parameters_stderr": math.nan}
        if STORED in self.ways:
            other = self.ways[STORED].lens
            assert other is not None
            found = other.snapshot().to_record()
            stored = {name: float(found[f"test/{name}"]) for name in stored}
        rows.append(
            {
                "step": step,
                "test/mse": mse,
                **of_lens,
                "training/difference": self._difference(),
                "probes/state_mb": sum(t.numel() * t.itemsize for t in state) / 1e6,
                **{counted(name): counts.get(name, math.nan) for name in WAYS},
                **{f"{STORED}/{name}": value for name, value in stored.items()},
            }
        )
        return rows[-1]

    def _difference(self) -> float:
        """The largest difference of any parameter or buffer from plain training."""
        plain, *others = (way.model.state_dict() for way in self.ways.values())
        return max(
            float((other[name].double() - value.double()).abs().max())
            for other in others
            for name, value in plain.items()
        )

    def _measured(self) -> dict[str, float]:
        """Medians over blocks."""
        found = {}
        for name, way in self.ways.items():
            for unit, values in (("cpu", way.cpu_seconds), ("wall", way.wall_seconds)):
                timed = values[_COUNTED:] or values
                found[f"{name}_{unit}_seconds_a_step"] = statistics.median(timed)
        return found

    def _loader(self, first: int, size: int | None = None) -> DataLoader[Batch]:
        size = self._job.case.training.batch_size if size is None else size
        return DataLoader(BatchesOnDisk(self._path, size, first), batch_size=None)

    def _batches(self, first: int, size: int | None = None) -> Iterator[Batch]:
        device = self._job.device
        for x, y, ids in self._loader(first, size):
            yield x.to(device), y.to(device), ids.to(device)

    def _save(self, step: int, rows: list[Row]) -> None:
        lenses = {name: way.lens for name, way in self.ways.items() if way.lens is not None}
        way = self.ways["probes"]
        tensors, states = pack(way.model, way.optimizer, lenses)
        kept = [{n: None if math.isnan(v) else v for n, v in row.items()} for row in rows]
        self._job.checkpoint.save(tensors, {"step": step, "rows": kept, "lenses": states})

    def _resumed(self) -> tuple[int, list[Row]]:
        """Every way trains the same network, so that one of them stands for all."""
        stored = self._job.checkpoint.load()
        if stored is None:
            return 0, []
        tensors, state = stored
        for name, way in self.ways.items():
            lenses = {} if way.lens is None else {name: way.lens}
            states = {key: state["lenses"][key] for key in lenses}
            # Copies, since an optimizer takes over the tensors that it is given.
            own = {key: tensor.clone() for key, tensor in tensors.items()}
            unpack(way.model, way.optimizer, lenses, own, states)
        rows = [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in state["rows"]
        ]
        return int(state["step"]), rows
