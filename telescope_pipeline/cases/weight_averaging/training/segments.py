"""A member's training: pre-training, the parent, and two children from each of its checkpoints.

They run one after the other as *segments*, and a member can be resumed in any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ArtifactError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.weight_averaging.schema import AveragingTraining, Phase
from telescope_pipeline.cases.weight_averaging.training.images import augment
from telescope_pipeline.contract import Checkpoint, Progress
from telescope_pipeline.study.training.loop import Batches
from telescope_pipeline.study.training.measures import Row
from telescope_pipeline.study.training.state import pack, under, unpack

Kept = dict[str, dict[str, Tensor]]
"""States kept for later by key; ``pack`` of ``study/training/state.py`` names their tensors."""

_KEPT, _NOW = "kept/", "now/"


@dataclass(frozen=True)
class Segment:
    """Updates without a break.

    Attributes:
        name: Unique in the member.
        begins: Key of the kept state it starts from, or None for a fresh network.
        first: Updates done in its phase when it starts.
        last: Updates done when it ends.
        phase: Its learning rates.
        data: ``train`` or ``pretrain``.
        order: Seed of its batches and augmentations.
        keeps: Updates done at which to keep the state, and the key to keep it under.
    """

    name: str
    begins: str | None
    first: int
    last: int
    phase: Phase
    data: str
    order: int
    keeps: Mapping[int, str] = field(default_factory=dict)


@dataclass
class SegmentedRun:
    """Runs segments one after the other.

    Attributes:
        settings: Batch size, momentum and augmentation.
        data: ``<data>_inputs`` and ``<data>_targets`` of the segments.
        segments: What to run, in order.
        build: A fresh network.
        finished: Called after each segment with it and the kept states, which it may change;
            gives rows of the history.
        checkpoint_every: Updates between two checkpoints.
    """

    settings: AveragingTraining
    data: Mapping[str, Tensor]
    segments: Sequence[Segment]
    build: Callable[[], nn.Module]
    finished: Callable[[Segment, Kept], list[Row]]
    checkpoint_every: int

    def run(self, checkpoint: Checkpoint, progress: Progress) -> tuple[list[Row], Kept]:
        """Run all segments, from the last checkpoint if there is one.

        Args:
            checkpoint: Where to look for and keep the state.
            progress: Told the number of updates done, about a hundred times.

        Returns:
            The rows in the order in which they came, and the states still kept.

        Raises:
            ArtifactError: The checkpoint is of another plan or another network.
        """
        rows: list[Row] = []
        kept: Kept = {}
        start = at = 0
        resumed: dict[str, Tensor] | None = None
        if (stored := checkpoint.load()) is not None:
            tensors, state = stored
            start, at, rows = self._find(state), int(state["step"]), state["rows"]
            resumed = under(tensors, _NOW)
            for path, value in under(tensors, _KEPT).items():
                key, name = path.split("/", maxsplit=1)
                kept.setdefault(key, {})[name] = value
        total = sum(segment.last - segment.first for segment in self.segments)
        done = sum(segment.last - segment.first for segment in self.segments[:start])
        often = max(1, total // 100)
        for segment in self.segments[start:]:
            model, optimizer = self._begin(segment, resumed or kept.get(segment.begins or ""))
            if resumed is None:
                at = segment.first
                _keep(segment, at, model, optimizer, kept)
            resumed = None
            done += at - segment.first
            progress(done, total)
            rows_of_set = len(self.data[f"{segment.data}_targets"])
            batches = Batches(rows_of_set, self.settings.batch_size, segment.order)
            while at < segment.last:
                self._update(segment, at, batches, model, optimizer)
                at, done = at + 1, done + 1
                _keep(segment, at, model, optimizer, kept)
                if done % self.checkpoint_every == 0 and done < total:
                    tensors = {_NOW + name: x for name, x in pack(model, optimizer, {})[0].items()}
                    for key, known in kept.items():
                        tensors |= {f"{_KEPT}{key}/{name}": x for name, x in known.items()}
                    checkpoint.save(tensors, {"segment": segment.name, "step": at, "rows": rows})
                if done % often == 0 or done == total:
                    progress(done, total)
            rows = rows + self.finished(segment, kept)
        return rows, kept

    def _find(self, state: Mapping[str, Any]) -> int:
        names = [segment.name for segment in self.segments]
        if state.get("segment") not in names:
            raise ArtifactError(
                f"the checkpoint was written in {state.get('segment')!r}, which this run does not "
                "have; delete the checkpoint to start over"
            )
        return names.index(state["segment"])

    def _begin(
        self, segment: Segment, state: dict[str, Tensor] | None
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = self.build().to(self.data["train_inputs"].device)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=segment.phase.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        if state is not None:
            # Copies: the optimizer takes momentum as it is given, and siblings start from it too.
            unpack(model, optimizer, {}, {name: x.clone() for name, x in state.items()}, {})
        return model.train(), optimizer

    def _update(
        self,
        segment: Segment,
        at: int,
        batches: Batches,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        inputs = self.data[f"{segment.data}_inputs"]
        targets = self.data[f"{segment.data}_targets"]
        index = batches.at(at).to(inputs.device)
        seed = derive_seed(segment.order, "augmentation", at)
        seen = augment(inputs[index], self.settings.crop, self.settings.flip, seed)
        for group in optimizer.param_groups:
            group["lr"] = segment.phase.rate_at(at)
        optimizer.zero_grad()
        functional.cross_entropy(model(seen), targets[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _keep(
    segment: Segment, at: int, model: nn.Module, optimizer: torch.optim.Optimizer, kept: Kept
) -> None:
    if at in segment.keeps:
        kept[segment.keeps[at]] = pack(model, optimizer, {})[0]


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's part of a kept state, by the model's own names."""
    return under(state, "model/")
