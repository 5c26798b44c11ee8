"""A parent network and, from each of its checkpoints, children whose weights are averaged."""

from __future__ import annotations

import pandas as pd
from torch import Tensor, nn

from telescope_pipeline.cases.weight_averaging.schema import DigitImages, WeightAveragingCase
from telescope_pipeline.cases.weight_averaging.training.measures import Measures
from telescope_pipeline.cases.weight_averaging.training.segments import (
    Kept,
    Segment,
    SegmentedRun,
    weights_of,
)
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.resnet import ResidualNetwork
from telescope_pipeline.study.training.measures import Row

CLASSES = 10
_CHILDREN = ("first", "second")
_PRETRAINED = "pretrained"


def train(job: TrainingJob[WeightAveragingCase]) -> Trained:
    """Train a parent, spawn children at its checkpoints, and average them.

    Both starts share data, last layers and batch orders, so that they differ in the pre-training
    alone.

    Returns:
        One row per t′, and the parent's weights at the last of them.

    Raises:
        NonFiniteError: Training diverged.
    """
    case, data = job.case, job.on_device()
    start = str(job.member.values["setting"])
    pairs = range(case.lens.pairs)

    def build(purpose: str = "weights") -> nn.Module:
        return _network(case, job.seed_of(purpose)).to(job.device)

    measures = Measures(case.lens, data, build)
    last_children = {_child(t, pairs[-1], _CHILDREN[-1]) for t in case.spawned_at(start)}

    def finished(segment: Segment, kept: Kept) -> list[Row]:
        if segment.name == _PRETRAINED:
            kept[_PRETRAINED] = _with_new_head(kept[_PRETRAINED], build("last layer"))
        if segment.name not in last_children:
            return []
        t = segment.first
        children = [
            [weights_of(kept.pop(_child(t, pair, which))) for which in _CHILDREN] for pair in pairs
        ]
        now, later = (weights_of(kept[_parent(t + wait)]) for wait in (0, case.lens.gradient_gap))
        return [{"step": t, **measures.of(now, later, children)}]

    run = SegmentedRun(
        settings=case.training,
        data=data,
        segments=_segments(job, start),
        build=build,
        finished=finished,
        checkpoint_every=case.lens.checkpoint_every,
    )
    rows, kept = run.run(job.checkpoint, job.progress)
    history = pd.DataFrame(rows).astype({"step": "int64"})
    final = weights_of(kept[_parent(case.spawned_at(start)[-1])])
    # By name: a state that went through a checkpoint has forgotten the model's own order.
    return Trained(history, {name: final[name].cpu() for name in sorted(final)})


def _network(case: WeightAveragingCase, seed: int) -> nn.Module:
    channels = 1 if isinstance(case.data, DigitImages) else 3
    return ResidualNetwork(
        channels, CLASSES, widths=case.model.widths, blocks=case.model.blocks, seed=seed
    )


def _segments(job: TrainingJob[WeightAveragingCase], start: str) -> list[Segment]:
    case, seed_of = job.case, job.seed_of
    pretraining, phase = case.training.pretraining, case.training.phase(start)
    steps, gap = case.spawned_at(start), case.lens.gradient_gap
    first = Segment(
        name=_PRETRAINED,
        begins=None,
        first=0,
        last=pretraining.steps,
        phase=pretraining,
        data="pretrain",
        order=seed_of("pre-training batches"),
        keeps={pretraining.steps: _PRETRAINED},
    )
    parent = Segment(
        name="parent",
        begins=_PRETRAINED if start == "pretrained" else None,
        first=0,
        last=steps[-1] + gap,
        phase=phase,
        data="train",
        order=seed_of("batches"),
        keeps={step: _parent(step) for t in steps for step in (t, t + gap)},
    )
    children = [
        Segment(
            name=_child(t, pair, which),
            begins=_parent(t),
            first=t,
            last=phase.steps,
            phase=phase,
            data="train",
            order=seed_of("batches of a child", t, pair, which),
            keeps={phase.steps: _child(t, pair, which)},
        )
        for t in steps
        for pair in range(case.lens.pairs)
        for which in _CHILDREN
    ]
    return [*([first] if start == "pretrained" else []), parent, *children]


def _parent(step: int) -> str:
    return f"parent-{step}"


def _child(t: int, pair: int, which: str) -> str:
    return f"child-{t}-{pair}-{which}"


def _with_new_head(state: dict[str, Tensor], fresh: nn.Module) -> dict[str, Tensor]:
    """The weights alone, without momentum, and with another network's last layer."""
    weights = {name: value for name, value in state.items() if name.startswith("model/")}
    for name, value in fresh.state_dict().items():
        if name.startswith("head."):
            weights[f"model/{name}"] = value.clone()
    return weights
