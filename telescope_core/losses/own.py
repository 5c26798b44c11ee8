"""A loss that the model computes itself, recognised among the standard ones of its outputs.

Models of transformers return their loss beside their outputs.  The lens needs it as a function of
outputs and targets alone, so it tries the losses that such models have, and takes the one whose
value and gradient are those of the model's own.  What training then backpropagates is compared with
it at every step, as for any loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError, LossError
from telescope_core.losses.calls import Loss
from telescope_core.losses.class_coupling import agree, tolerance
from telescope_core.network.checks import random_rows
from telescope_core.network.function import Network
from telescope_core.network.inputs import Inputs
from telescope_core.network.outputs import Output, described, selected
from telescope_core.network.samples import TARGETS

IGNORED = -100
"""The class index of a position without a label."""


@dataclass(frozen=True)
class StandardLoss:
    """A loss by its name, ``loss(outputs, targets) -> scalar``.

    Attributes:
        name: What it is, in words.
        function: What computes it.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.function(outputs, targets)

    def smoothed(self, share: float) -> StandardLoss:
        """The same cross-entropy of labels of which a share is spread evenly over classes.

        Args:
            share: How much of every label.

        Returns:
            The loss.

        Raises:
            ConfigurationError: It is no cross-entropy of classes.
        """
        plain = self.function
        if not isinstance(plain, partial) or plain.func is not cross_entropy:
            raise ConfigurationError(
                f"labels of a {self.name} cannot be smoothed; pass loss=function(outputs, targets)"
            )
        name = f"{self.name} with label smoothing"
        options = {**plain.keywords, "smoothing": share}
        return StandardLoss(name, partial(cross_entropy, **options))


def cross_entropy(
    outputs: Tensor, targets: Tensor, *, axis: int = -1, shift: bool = False, smoothing: float = 0.0
) -> Tensor:
    """The mean over all labels that count; 0 where there are none.

    Args:
        outputs: Logits.
        targets: Class indices, -100 for positions without a label; or class probabilities laid out
            as the outputs are, zero there.
        axis: The dimension of the outputs that runs over classes.
        shift: Whether the output at position t belongs to the target at t + 1.
        smoothing: The share of every label that is spread evenly over classes.

    Returns:
        A scalar.
    """
    log_p = outputs.log_softmax(axis).movedim(axis, -1)
    if targets.is_floating_point():
        weights = targets.movedim(axis, -1)
        log_p, weights = (log_p[:, :-1], weights[:, 1:]) if shift else (log_p, weights)
        of_label = (weights * log_p).sum(-1)
        share = weights.sum(-1)
    else:
        log_p, targets = (log_p[:, :-1], targets[:, 1:]) if shift else (log_p, targets)
        counts = targets != IGNORED
        index = targets.masked_fill(~counts, 0).long()
        of_label = log_p.gather(-1, index[..., None])[..., 0] * counts
        share = counts.to(log_p.dtype)
    if smoothing:
        of_label = (1 - smoothing) * of_label + smoothing * share * log_p.mean(-1)
    return -of_label.sum() / (share.detach() != 0).sum().clamp(min=1)


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.reshape(targets.shape), targets)


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs.reshape(targets.shape), targets)


def standard_losses(outputs: Tensor, targets: Tensor) -> Iterator[StandardLoss]:
    """The losses that outputs and targets of these shapes may have, by the commonest first.

    Yields:
        Each of them.
    """
    if targets.is_floating_point():
        if outputs.numel() == targets.numel():
            yield StandardLoss("squared error", _squared)
            yield StandardLoss("binary cross-entropy of logits", _binary)
        return
    shape, tail = tuple(outputs.shape), tuple(targets.shape)
    for axis in dict.fromkeys((outputs.ndim - 1, 1)):
        if axis < 1 or shape[:axis] + shape[axis + 1 :] != tail:
            continue
        for shift in (False, True) if targets.ndim > 1 else (False,):
            name = "cross-entropy of the next position" if shift else "cross-entropy"
            yield StandardLoss(name, partial(cross_entropy, axis=axis, shift=shift))


def own_loss(
    model: nn.Module, loss: str | int, output: Output, rows: Mapping[str, Tensor], labels: str
) -> StandardLoss:
    """The loss that a model returns, as a function of its outputs and of the targets.

    Args:
        model: The model.
        loss: Which of the things that it returns is its loss: a name or a position.
        output: Which are its outputs.
        rows: Some training rows as the model takes them, labels among them.
        labels: Their entry.

    Returns:
        The standard loss with the same value and gradient, in evaluation mode.

    Raises:
        ConfigurationError: Nothing says which of the things are the outputs.
        LossError: The model returns no such loss, or it is none of the standard ones.
    """
    if output is None:
        raise ConfigurationError(
            f"loss={loss!r} is what the model returns beside its outputs; name these, too: "
            "output='logits'"
        )
    targets = rows[labels]
    with torch.enable_grad(), Network(model, training=False).at() as call:
        returned = call(rows)
        value, outputs = selected(returned, loss), selected(returned, output)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            raise LossError(
                f"loss={loss!r} of what the model returned ({described(returned)}) is "
                f"{described(value)}; expected a scalar tensor that depends on the parameters: are "
                f"there labels among the inputs ({', '.join(rows)})?"
            )
        (g,) = torch.autograd.grad(value, outputs, allow_unused=True)
    tried = []
    for candidate in standard_losses(outputs, targets):
        f = outputs.detach().requires_grad_()
        with torch.enable_grad():
            other = candidate(f, targets)
            (there,) = torch.autograd.grad(other, f)
        value, other = value.detach(), other.detach()
        near = abs(float(value - other)) <= tolerance(f.dtype) * (1 + abs(float(other)))
        if near and g is not None and agree(there, g.to(there)):
            return candidate
        tried.append(f"{candidate.name} {float(other):.6g}")
    raise LossError(
        f"the loss that the model returns is {float(value):.6g} on {len(outputs)} rows, "
        f"and none that is known of outputs {tuple(outputs.shape)} and {labels} "
        f"{tuple(targets.shape)} {targets.dtype} ({', '.join(tried) or 'none fits their shapes'}): "
        "another reduction, class weights, or a further term? Pass it as "
        "loss=function(outputs, targets)"
    )


def resolved(
    loss: Loss | str | int | None,
    model: nn.Module,
    output: Output,
    inputs: Inputs | None,
    targets: Tensor | None,
) -> tuple[Loss | StandardLoss | None, Tensor | None]:
    """A loss as a function, and its targets, where it may be one of the model's own.

    Args:
        loss: The loss, or its name among the things that the model returns.
        model: The model.
        output: Which of these are its outputs.
        inputs: All training rows.
        targets: Their targets; ``None`` if they are among the inputs.

    Returns:
        The loss and the targets; as they are if the loss is a function.

    Raises:
        ConfigurationError: There are no labels among the inputs, or nothing names the outputs.
        LossError: The model's own loss is none of the standard ones.
    """  # own_loss raises the last
    if loss is None or callable(loss):
        return loss, targets
    device = next(model.parameters()).device
    rows = None if inputs is None else random_rows(inputs, device)
    found = isinstance(rows, Mapping) and next((name for name in TARGETS if name in rows), None)
    if not found or not isinstance(rows, Mapping):
        named = ", ".join(rows) if isinstance(rows, Mapping) else type(rows).__name__
        raise ConfigurationError(
            f"loss={loss!r} is one that the model computes from labels among its inputs: expected "
            f"train_inputs as a mapping that holds them ({', '.join(TARGETS[:3])}, ...), got "
            f"{named}; or pass loss=function(outputs, targets)"
        )
    if targets is None and isinstance(inputs, Mapping):
        targets = inputs[found]
    return own_loss(model, loss, output, rows, found), targets
