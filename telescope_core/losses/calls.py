"""Calls of the user's loss: its value, its gradient, and products with its second derivatives.

Every call hands the loss fresh copies, as the training loop does (outputs that are not leaves), so
that a loss may work in place and never touches the caller's tensors.  Outputs have the model's own
shape, targets are as the loss sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from telescope_core.errors import LossError
from telescope_core.network.autograd import leaves_behind

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs, targets) -> scalar``, exactly as it is used for training."""

Argument = Literal["outputs", "targets"]
"""The argument of the loss that a derivative is taken in."""


def evaluate(loss: Loss, outputs: Tensor, targets: Tensor, *, owned: bool = False) -> Tensor:
    """The loss of a batch.

    Args:
        loss: The training loss.
        outputs: Of the model.
        targets: Of the batch.
        owned: The outputs are made for this call, so that they need no copy.

    Returns:
        A scalar that is connected to the outputs.

    Raises:
        LossError: The loss fails, or returns anything but a scalar tensor.
    """  # noqa: DOC501  # made by _failed
    try:
        value = loss(outputs if owned else outputs.clone(), targets.clone())
    except Exception as error:
        raise _failed(outputs, targets, error) from error
    if not isinstance(value, Tensor) or value.ndim != 0:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise LossError(
            f"the loss returned {given}, expected a scalar tensor; reduce it, e.g. by "
            "reduction='mean'"
        )
    return value


def gradient_of(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    r"""``g = ∂loss/∂f`` by one backward pass.

    Returns:
        g in the shape of the outputs.

    Raises:
        LossError: The loss fails, or has no gradient.
    """  # noqa: DOC501  # made by _failed
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        value = evaluate(loss, leaf, targets)
        _require_connected(value)
        try:
            (gradient,) = torch.autograd.grad(value, leaf)
        except Exception as error:
            raise _failed(outputs, targets, error) from error
    return gradient


def check_scalar(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that is not a finite, differentiable scalar on some rows.

    Raises:
        LossError: It fails, or returns anything else.
    """
    with torch.enable_grad():
        value = evaluate(loss, outputs.detach().requires_grad_(), targets)
    _require_connected(value)
    if not bool(torch.isfinite(value)):
        raise LossError(
            f"the loss is {value.item()} on rows of the training set; "
            "expected a finite number: check inputs, targets and initialisation"
        )


def leaves_of(loss: Loss, outputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Tensors besides outputs and targets that the loss would train.

    They are the leaves of the graph of one evaluation on detached arguments: parameters of a loss
    module, and whatever a function, a bound method or a ``functools.partial`` closes over, the
    model's own parameters included.  Nothing is accumulated into their ``.grad``.

    Returns:
        Each leaf that requires a gradient once, in the order it is met.

    Raises:
        LossError: The loss fails.
    """
    with torch.enable_grad():
        value = evaluate(loss, outputs.detach(), targets.detach())
    return leaves_behind(value)


def push(loss: Loss, of: Argument, outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
    r"""A product with ``∂g/∂f`` or ``∂g/∂Y`` by double backward (docs/mathematics.md, section 3.1).

    ``u ↦ (∂g/∂·)ᵀ u`` is linear in u; its vjp is the product.  That is several times faster than
    forward mode over a gradient, and torch has it for more losses.  Directions have the shape of
    the argument that moves with a trailing m.

    Returns:
        The product, in the shape of the outputs with a trailing m.

    Raises:
        LossError: The loss fails, or cannot be differentiated twice.
    """
    try:
        return _push(loss, of, outputs, targets, directions)
    except Exception as error:
        raise LossError(
            f"the gradient of the loss cannot be differentiated with respect to {of} on outputs "
            f"{_described(outputs)} and targets {_described(targets)}: {error}; use a loss that is "
            "differentiable twice, or probes=None for predictions only"
        ) from error


def _push(loss: Loss, of: Argument, outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
    nothing = outputs.new_zeros(*outputs.shape, directions.shape[-1])
    with torch.enable_grad():
        f = outputs.detach().requires_grad_()
        y = targets.detach()
        y = y.requires_grad_() if of == "targets" else y
        (g,) = torch.autograd.grad(loss(f.clone(), y.clone()), f, create_graph=True)
        if not g.requires_grad:
            return nothing
        u = torch.zeros_like(g, requires_grad=True)
        (pulled,) = torch.autograd.grad(
            g, (f if of == "outputs" else y,), u, create_graph=True, allow_unused=True
        )
        if pulled is None or not pulled.requires_grad:
            return nothing
        columns = directions.movedim(-1, 0)
        keep = {"retain_graph": True, "allow_unused": True}
        try:
            (result,) = torch.autograd.grad(pulled, u, columns, is_grads_batched=True, **keep)
        except RuntimeError:  # an operation that vmap does not know
            each = [torch.autograd.grad(pulled, u, v, **keep)[0] for v in columns]
            result = None if each[0] is None else torch.stack(each)
    # A gradient that is constant in pieces leaves a graph without u.
    return nothing if result is None else result.movedim(0, -1).detach()


def _require_connected(value: Tensor) -> None:
    if not value.requires_grad:
        raise LossError(
            "the loss does not depend on the outputs through differentiable operations; "
            "check for .detach(), .item() or integer arithmetic in it"
        )


def _failed(outputs: Tensor, targets: Tensor, error: Exception) -> LossError:
    return LossError(
        f"the loss failed on outputs {_described(outputs)} and targets {_described(targets)}: "
        f"{error}; pass the very callable used for training, loss(outputs, targets) -> scalar"
    )


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
