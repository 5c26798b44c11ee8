"""What one training step does to columns: the derivatives of network, loss and update.

Columns are changes: of the parameters (p, columns), of the outputs (rows·k, columns).  Everything
is plain ``torch.autograd.grad``, one row and one output at a time, and the optimizer's own class.
Parameters are counted in real coordinates: a complex entry is two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

Loss = Callable[[Tensor, Tensor], Tensor]
Rows = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]

# Columns are held this much smaller than they are.  Being a power of two it rounds nothing, and
# squares of columns vanish, so that they leave the second moments alone.
_SCALE = 2.0**-600

# Of each optimizer the buffers that are linear in the gradients, and by which factor its step
# multiplies the others, which make up the denominators.
_LINEAR = ("momentum_buffer", "exp_avg")
_DECAYS: dict[type[Optimizer], dict[str, Callable[[Mapping[str, Any]], float]]] = {
    SGD: {},
    **{
        kind: {
            "exp_avg_sq": lambda options: float(options["betas"][1]),
            "max_exp_avg_sq": lambda options: 1.0,
            "exp_inf": lambda options: float(options["betas"][1]),
        }
        for kind in (Adam, AdamW, NAdam, RAdam, Adamax)
    },
    RMSprop: {"square_avg": lambda options: float(options["alpha"])},
    Adagrad: {"sum": lambda options: 1.0},
}


# ------------------------------------------------------------------------ rows


def count(rows: Rows) -> int:
    """The number of rows, which the first dimension of every tensor counts."""
    if isinstance(rows, Tensor):
        return len(rows)
    return len(next(iter(rows.values() if isinstance(rows, Mapping) else rows)))


def take(rows: Rows, index: Tensor | slice) -> Rows:
    """Copies of some rows."""
    if isinstance(rows, Tensor):
        return rows[index].clone()
    if isinstance(rows, Mapping):
        return {name: leaf[index].clone() for name, leaf in rows.items()}
    return tuple(leaf[index].clone() for leaf in rows)


def call(model: nn.Module, rows: Rows) -> Tensor:
    """The model's outputs on copies of the rows: it may work in place."""
    copies = take(rows, slice(None))
    if isinstance(copies, Tensor):
        outputs = model(copies)
    elif isinstance(copies, Mapping):
        outputs = model(**copies)
    else:
        outputs = model(*copies)
    assert isinstance(outputs, Tensor)
    return outputs


# -------------------------------------------------------------------- network


def held_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that the optimizer holds and that require a gradient, each once."""
    held = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    return list(dict.fromkeys(held))


def coordinates(tensor: Tensor) -> Tensor:
    """The real coordinates of a tensor, float64, (size,); it may share its memory."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    real = torch.view_as_real(dense) if dense.is_complex() else dense
    return real.reshape(-1).to(torch.float64)


def gradient_of(output: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The derivative of one real number, (p,); zero where a parameter is not reached."""
    if not output.requires_grad:
        return torch.cat([torch.zeros_like(coordinates(p)) for p in parameters])
    gradients = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(coordinates(p)) if gradient is None else coordinates(gradient)
            for p, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def jacobian(model: nn.Module, rows: Rows, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The derivative of every output of every row, each row on its own.

    Returns:
        Shape (rows·k, p), with parameters that are frozen by now.
    """
    frozen = [p for p in parameters if not p.requires_grad]
    lines = []
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for row in range(count(rows)):
            with torch.enable_grad():
                outputs = call(model, take(rows, slice(row, row + 1)))
            lines += [gradient_of(output, parameters) for output in outputs.reshape(-1)]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return torch.stack(lines)


# ----------------------------------------------------------------------- loss


@dataclass(frozen=True)
class LossDerivatives:
    """The loss gradient of a batch and its derivatives.

    Attributes:
        g: ∂loss/∂f, (rows·k,).
        by_outputs: ∂g/∂f, (rows·k, rows·k).
        by_labels: ∂g/∂Y, (rows·k, rows·labels).
    """

    g: Tensor
    by_outputs: Tensor
    by_labels: Tensor


def labels_of(targets: Tensor, outputs: Tensor) -> Tensor:
    """Targets as real labels; class indices become one-hot rows.

    Returns:
        Float64, (rows, labels).

    Raises:
        ValueError: If integer targets are not one class index a row.
    """
    if targets.is_floating_point():
        return targets.reshape(len(targets), -1).to(torch.float64)
    if targets.ndim != 1 or outputs.ndim != 2:
        raise ValueError(
            f"integer targets have shape {tuple(targets.shape)} and outputs "
            f"{tuple(outputs.shape)}; expected class indices (rows,) with outputs (rows, classes)"
        )
    return nn.functional.one_hot(targets, outputs.shape[1]).to(torch.float64)


def loss_derivatives(loss: Loss, outputs: Tensor, targets: Tensor) -> LossDerivatives:
    """Differentiate the loss gradient by double backward, entry by entry.

    Args:
        loss: The training loss.
        outputs: The network's outputs on the batch, as the loss gets them.
        targets: The batch's targets, as the loss gets them.

    Returns:
        The gradient and its two derivatives in float64.

    Raises:
        ValueError: If targets are class indices and the gradient of the loss for one row depends
            on the class of another.
    """
    f = outputs.detach().clone().requires_grad_()
    g = _loss_gradient(loss, f, targets)
    if targets.is_floating_point():
        y = targets.detach().clone().requires_grad_()
        by_labels = _entry_by_entry(_loss_gradient(loss, f, y), y)
    else:
        by_labels = _by_class(loss, f, targets, g.detach())
    return LossDerivatives(
        g.detach().reshape(-1).double(), _entry_by_entry(g, f), by_labels.double()
    )


def _loss_gradient(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(loss(f, y), f, create_graph=True)
    return g


def _entry_by_entry(g: Tensor, source: Tensor) -> Tensor:
    lines = []
    for entry in g.reshape(-1):
        line = None
        if entry.requires_grad:
            (line,) = torch.autograd.grad(entry, source, retain_graph=True, allow_unused=True)
        lines.append(torch.zeros_like(source) if line is None else line)
    return torch.stack([line.detach().reshape(-1) for line in lines]).double()


def _by_class(loss: Loss, f: Tensor, targets: Tensor, g: Tensor) -> Tensor:
    """∂g/∂Y of class weights Y: as probabilities, or else linear, g(f, Y) = Σ_c Y_c g(f, c)."""
    y = labels_of(targets, f).to(f.dtype).requires_grad_()
    try:
        as_probabilities = _loss_gradient(loss, f, y)
    except (RuntimeError, ValueError, TypeError, IndexError):
        as_probabilities = None
    if as_probabilities is not None and torch.allclose(as_probabilities, g, rtol=1e-10, atol=1e-12):
        return _entry_by_entry(as_probabilities, y)
    rows, classes = f.shape
    derivative = torch.zeros(rows, classes, rows, classes, dtype=f.dtype)
    for row in range(rows):
        for c in range(classes):
            other = targets.clone()
            other[row] = c
            changed = _loss_gradient(loss, f, other).detach()
            rest = torch.arange(rows) != row
            if not torch.allclose(changed[rest], g[rest], rtol=1e-10, atol=1e-12):
                raise ValueError(
                    f"the loss gradient of other rows changes with the class of row {row} of the "
                    "batch, so it is not linear in the class weights; use a loss that is a sum "
                    "over rows"
                )
            derivative[row, :, row, c] = changed[row]
    return derivative.reshape(rows * classes, rows * classes)


# --------------------------------------------------------------------- update


@dataclass(frozen=True)
class _Before:
    """What the optimizer is about to do: its groups, and its state before it does it."""

    groups: list[dict[str, Any]]
    state: dict[nn.Parameter, dict[str, Any]]


class ShadowColumns:
    """Columns that the class of the real optimizer moves, its denominators being the real ones.

    Each step makes an optimizer of the same class with the same options.  Its parameters are the
    columns, its gradients the changes of the real gradient, its buffers the columns' own; second
    moments are what leads to the real ones in this step.  All these optimizers act entry by entry,
    so a parameter with n entries may as well have n × columns.

    Args:
        optimizer: The real one.
        start: The columns at first, (p, columns).
        constant: The column whose buffers start as the real ones; those of the others are zero.

    Attributes:
        parameters: The parameters that columns are followed for.
        sizes: Their numbers of real coordinates.

    Raises:
        TypeError: If the optimizer is none of those named in ``_DECAYS``.
    """

    def __init__(self, optimizer: Optimizer, start: Tensor, constant: int) -> None:
        if type(optimizer) not in _DECAYS:
            known = ", ".join(kind.__name__ for kind in _DECAYS)
            raise TypeError(
                f"{type(optimizer).__name__} is not known to act entry by entry and linearly "
                f"up to its denominators; expected one of {known}"
            )
        self.optimizer = optimizer
        self.parameters = held_parameters(optimizer)
        self.sizes = [coordinates(p).numel() for p in self.parameters]
        blocks = torch.split(start, self.sizes)
        self._columns = {
            p: block.clone().mul_(_SCALE) for p, block in zip(self.parameters, blocks, strict=True)
        }
        self._buffers: dict[nn.Parameter, dict[str, Tensor]] = {}
        for p, columns in self._columns.items():
            held = self._linear_state(p)
            self._buffers[p] = {key: torch.zeros_like(columns) for key in held}
            for key, buffer in held.items():
                self._buffers[p][key][:, constant] = coordinates(buffer) * _SCALE

    @property
    def values(self) -> Tensor:
        """The columns now, (p, columns)."""
        return torch.cat([self._columns[p] for p in self.parameters]) / _SCALE

    def observe(self) -> _Before:
        """Read what the optimizer is about to do; call right before its step."""
        groups = [dict(group) for group in self.optimizer.param_groups]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.grad is not None]
        state = {p: {**self.optimizer.state.get(p, {})} for p in self.parameters}
        for entries in state.values():
            if "mu_product" in entries:
                entries["mu_product"] = entries["mu_product"].clone()
        return _Before(groups, state)

    def step(self, before: _Before, gradients: Tensor) -> None:
        """Move the columns; call right after the optimizer's step.

        Args:
            before: What :meth:`observe` gave.
            gradients: Derivative of the parameters' gradient, (p, columns).
        """
        by_parameter = dict(zip(self.parameters, torch.split(gradients, self.sizes), strict=True))
        groups, states = [], {}
        for group in before.groups:
            shadows = []
            for p in group["params"]:
                shadow = self._columns[p].requires_grad_()
                shadow.grad = by_parameter[p] * _SCALE
                states[p] = self._state_before(p, before.state[p], group)
                shadows.append(shadow)
            if shadows:
                groups.append({**self._options(group), "params": shadows})
        if not groups:
            return
        kind: Callable[..., Optimizer] = type(self.optimizer)
        twin = kind(groups)
        for p, entries in states.items():
            if entries:
                twin.state[self._columns[p]].update(entries)
        twin.step()
        for p in states:
            entries = twin.state.get(self._columns[p], {})
            self._buffers[p] = {
                key: entries[key] for key in _LINEAR if entries.get(key) is not None
            }
            self._columns[p] = self._columns[p].detach()

    def _options(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a group, its arithmetic being the plain one."""
        options = {key: value for key, value in group.items() if key != "param_names"}
        options["lr"] = float(options["lr"])
        plain = ("foreach", "fused", "capturable", "differentiable")
        return {**options, **{key: False for key in plain if key in options}}

    def _state_before(
        self, p: nn.Parameter, before: Mapping[str, Any], group: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The state from which the step leads to the columns' buffers and the real denominators."""
        columns, after = self._columns[p], self.optimizer.state[p]
        decays = _DECAYS[type(self.optimizer)]
        entries: dict[str, Any] = {}
        for key, value in after.items():
            if key in _LINEAR:
                if before.get(key) is not None:
                    entries[key] = self._buffers[p].get(key, torch.zeros_like(columns))
                elif not isinstance(self.optimizer, SGD):  # which starts from its first gradient
                    entries[key] = torch.zeros_like(columns)
            elif key == "step":
                entries[key] = torch.as_tensor(value).detach().cpu() - 1
            elif key == "mu_product":
                entries[key] = before.get(key, torch.ones_like(value))
            elif key == "grad_avg":
                entries[key] = torch.zeros_like(columns)
            elif key in decays:
                moment = coordinates(value)
                if after.get("grad_avg") is not None:  # centred: v − ḡ² takes the place of v
                    moment = moment - coordinates(after["grad_avg"]) ** 2
                moment = moment[:, None] / decays[key](group)
                entries[key] = moment.expand_as(columns).clone()
            elif value is not None:
                raise TypeError(f"{type(self.optimizer).__name__} keeps an unknown buffer {key!r}")
        return entries

    def _linear_state(self, p: nn.Parameter) -> dict[str, Tensor]:
        state = self.optimizer.state.get(p, {})
        return {key: state[key] for key in _LINEAR if state.get(key) is not None}
