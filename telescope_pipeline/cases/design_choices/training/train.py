"""One small network per design choice, from the same weights and on the same batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.closed_forms import sigmoid_slope
from telescope_core.kernels import TangentKernel
from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.design_choices.names import FIFTHS, by_fifth
from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.cases.design_choices.training.unrolled import Unrolled, unroll_run
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import (
    Batches,
    TrainingRun,
    accuracy,
    half_squared_error,
    squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


def record_steps(steps: int, records: int, stride: int) -> list[int]:
    """Steps dense at both ends: momentum's weights change in the last few steps only.

    Args:
        steps: Number of updates T.
        records: Records after step 0 that are evenly spaced in log(step), at most.
        stride: Block length of the lens.

    Returns:
        The log-spaced steps t and T − t of those, increasing.
    """
    early = log_spaced_steps(steps, records, stride=stride)
    return sorted({*early, *(steps - step for step in early)})


def train(
    case: DesignChoicesCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one member, record it, and write its run out in closed form beside it.

    Members that share a seed start from the same weights and see the same batches.

    Args:
        case: The case's parameters.
        member: One of the case's members.
        data: Tensors of the member's file.
        seed: The run's seed.
        device: Where to compute; the closed form in float64 is computed on the CPU.
        checkpoint: Where the state is kept; the closed form is worked out anew on resumption.
        progress: Told about finished updates.

    Returns:
        The history and the final weights.
    """
    (choice,) = (c for c in case.training.choices if c.name == member.values["choice"])

    seed_of = seeds_of(member, seed, "design_choices")

    sizes = (data["train_inputs"].shape[1], *case.model.hidden, 1)

    def network() -> nn.Module:
        mlp = MLP(sizes, seed=seed_of("weights"))
        return nn.Sequential(mlp, nn.Sigmoid()) if choice.output == "sigmoid" else mlp

    steps = case.training.steps
    recorded = record_steps(steps, case.lens.records, case.lens.stride)
    batches = Batches(len(data["train_inputs"]), case.training.batch_size, seed_of("batches"))
    unrolled = unroll_run(
        network().double(),
        choice,
        steps,
        data["train_inputs"].double(),
        data["train_targets"].double(),
        data["test_inputs"].double(),
        batches.at,
        recorded,
    )
    data = {name: tensor.to(device) for name, tensor in data.items()}
    inputs, targets = data["train_inputs"], data["train_targets"]
    model = network().to(device)
    optimizer = optimizer_of(choice.optimizer, model)
    lens = TelescopeLens(
        model,
        optimizer,
        half_squared_error,
        inputs,
        targets,
        eval_sets={"test": data["test_inputs"]},
        order=case.lens.order,
        stride=case.lens.stride,
        probes=case.lens.probes,
        deflate=case.lens.deflate,
        seed=seed_of("probes"),
    )
    kernel = TangentKernel(model, inputs)
    before_sigmoid = TangentKernel(model[0], inputs) if isinstance(model, nn.Sequential) else None

    def record() -> dict[str, Any]:
        on_train, on_test = model(inputs), model(data["test_inputs"])
        norms = _row_norms(kernel, data["test_inputs"], inputs)
        without = norms
        if before_sigmoid is not None:
            without = _row_norms(before_sigmoid, data["test_inputs"], inputs)
        return {
            "train/mse": squared_error(on_train, targets),
            "test/mse": squared_error(on_test, data["test_targets"]),
            "train/accuracy": accuracy(on_train, targets),
            "test/accuracy": accuracy(on_test, data["test_targets"]),
            **lens.snapshot().to_record(),
            **_by_confidence(on_test[:, 0], norms, without),
            **_at_step(unrolled, lens.steps),
        }

    run = TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses={"lens": lens},
        inputs=inputs,
        targets=targets,
        batch=batches.at,
        steps=steps,
        record_steps=recorded,
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
    )
    history = run.run(checkpoint, progress)
    return Trained(history, {name: value.cpu() for name, value in model.state_dict().items()})


def _row_norms(kernel: TangentKernel, rows: Tensor, others: Tensor) -> Tensor:
    """``‖[K(x, x_i) / n]_i‖``: kernel rows as a batch of all training points weighs them."""
    norms: Tensor = kernel(rows, others)[:, 0, :, 0].norm(dim=1)
    return norms / len(others)


def _by_confidence(outputs: Tensor, norms: Tensor, without: Tensor) -> dict[str, float]:
    """Means over fifths of the test points by confidence |2f − 1|, the least confident first.

    The slope is that of a sigmoid with these outputs, 0 where an output without sigmoid is outside
    of [0, 1].
    """
    confidence = (2 * outputs - 1).abs()
    order = confidence.argsort(stable=True)
    slope = sigmoid_slope(outputs.clamp(0, 1))
    quantities = {
        "confidence": confidence,
        "sigmoid_slope": slope,
        "kernel_norm_mean": norms,
        "kernel_norm_before_output": without,
        "kernel_norm_ratio": norms / without,
    }
    return {
        by_fifth(quantity, fifth): float(values[part].double().mean())
        for fifth, part in zip(FIFTHS, order.tensor_split(len(FIFTHS)), strict=True)
        for quantity, values in quantities.items()
    }


def _at_step(unrolled: Unrolled, step: int) -> dict[str, float]:
    low, median, high = (float(rate) for rate in unrolled.rates[step])
    return {
        "closed_form/prediction_error": float(unrolled.prediction_error[step]),
        "closed_form/smoother_error": float(unrolled.smoother_error[step]),
        "gradient/weight": float(unrolled.weights[step]),
        "gradient/contribution_share": float(unrolled.shares[step]),
        "rate/quantile10": low,
        "rate/median": median,
        "rate/quantile90": high,
        "update/cosine": float(unrolled.cosines[step]),
    }
