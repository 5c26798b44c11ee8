"""One small network per design choice, from the same weights and on the same batches."""

from __future__ import annotations

from torch import Tensor, nn

from telescope_core.closed_forms import sigmoid_slope
from telescope_core.kernels import TangentKernel
from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.cases.design_choices.sweep import FIFTHS, by_fifth
from telescope_pipeline.cases.design_choices.training.unrolled import Unrolled, unroll_run
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.mlp import MLP, with_output
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, fit, outputs_of
from telescope_pipeline.study.training.optimizers import optimizer_of
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


def train(job: TrainingJob[DesignChoicesCase]) -> Trained:
    """Train one member, record it, and write its run out in closed form beside it.

    Members that share a seed start from the same weights and see the same batches. The closed form
    in float64 is computed on the CPU, and anew on resumption.

    Returns:
        The recorded history and the final weights.
    """
    case = job.case
    rows, features = job.data["train_inputs"].shape
    (choice,) = (c for c in case.training.choices if c.name == job.member.values["choice"])

    def network() -> nn.Module:
        sizes = (features, *case.model.hidden, 1)
        return with_output(MLP(sizes, seed=job.seed_of("weights")), choice.output)

    steps = case.training.steps
    recorded = record_steps(steps, case.lens.records, case.lens.stride)
    batches = Batches(rows, case.training.batch_size, job.seed_of("batches"))
    exact = {name: tensor.double() for name, tensor in job.data.items()}
    unrolled = unroll_run(network().double(), choice, steps, exact, batches, recorded)
    data = job.on_device()
    inputs, test_inputs = data["train_inputs"], data["test_inputs"]
    model = network().to(job.device)
    optimizer = optimizer_of(choice.optimizer, model)
    lens = attach_lens(model, optimizer, data, case.lens, seed=job.seed_of("probes"))
    kernel = TangentKernel(model, inputs)
    before_sigmoid = TangentKernel(model[0], inputs) if isinstance(model, nn.Sequential) else None

    def record() -> Row:
        outputs = outputs_of(model, data)
        norms = without = _row_norms(kernel, test_inputs, inputs)
        if before_sigmoid is not None:
            without = _row_norms(before_sigmoid, test_inputs, inputs)
        return {
            **fit(outputs, data),
            **lens.snapshot().to_record(),
            **_by_confidence(outputs["test"][:, 0], norms, without),
            **_at_step(unrolled, lens.steps),
        }

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=batches,
        steps=steps,
        settings=case.lens,
        record=record,
        record_steps=recorded,
    ).finish(job)


def _row_norms(kernel: TangentKernel, rows: Tensor, others: Tensor) -> Tensor:
    """``‖[K(x, x_i) / n]_i‖``: kernel rows as a batch of all training points weighs them."""
    norms: Tensor = kernel(rows, others)[:, 0, :, 0].norm(dim=1)
    return norms / len(others)


def _by_confidence(outputs: Tensor, norms: Tensor, without: Tensor) -> dict[str, float]:
    """Means over fifths of the test points by confidence |2f − 1|, the least confident first.

    The slope is that of a sigmoid with these outputs, 0 where an output without sigmoid is outside
    of [0, 1].

    Returns:
        The means by quantity and fifth.
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
