r"""Closed forms of momentum, weight decay, adaptive rates and an output sigmoid (section 5).

The update rules follow an optimizer step by step; here the same steps are written out as sums over
all past gradients.  With ``G_k = J_{k−1}(X_{B_k})ᵀ g_k`` the gradient of step k (from 1) and
``Δf̃_t(x) = J_{t−1}(x) Δθ_t``, every design choice is a way to weigh these gradients:

* **Momentum** (Eq. 11).  ``M_t = μ M_{t−1} + (1−d) G_t``, ``M_1 = G_1``, unrolls to
  ``M_t = Σ_k w_{t,k} G_k`` with ``w_{t,k} = (1−d) μ^{t−k}``, and ``w_{t,1} = μ^{t−1}``.  So

      Δf̃_t(x) = −γ Σ_{k≤t} w_{t,k} J_{t−1}(x) J_{k−1}(X_{B_k})ᵀ g_k :

  past gradients act through a kernel between two times.  Adam's average has
  ``w_{t,k} = (1−β₁) β₁^{t−k} / (1−β₁ᵗ)``, whose rows sum to one.
* **Weight decay** (Eq. 12).  ``θ_t = θ_{t−1} − γ (M_t + λθ_{t−1})`` unrolls to
  ``θ_t = (1−γλ)ᵗ θ_0 − γ Σ_k (1−γλ)^{t−k} M_k``: the initial weights and early steps are
  forgotten.  With plain descent coupled and decoupled decay are the same.  Coupled decay enters the
  momentum too: ``M = W (G + λ Θ_−)`` with ``Θ_− = (θ_0, …, θ_{T−1})``, which
  :func:`unroll` solves.
* **Adaptive rates.**  ``Δθ_t = −γ P_t M_t`` with ``P_t = diag(1/φ_t)`` held at its actual value:
  the kernel is ``J_{t−1}(x) P_t J_{k−1}(x′)ᵀ``.
* **Sigmoid output** (Eq. 13).  ``f = σ(z)`` has ``J = σ′(z) J_z``, so its kernel is
  ``σ′(z) σ′(z′) K_z(x, x′)`` with ``σ′ = f (1−f) ≤ 1/4``, small where the network is confident.
"""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError, ShapeError


def momentum_weights(
    steps: int, momentum: float, *, dampening: float = 0.0, nesterov: bool = False
) -> Tensor:
    """The weight of every past gradient in each update of ``torch.optim.SGD`` (Eq. 11).

    Args:
        steps: Number of updates T.
        momentum: μ, in [0, 1); without it nothing is dampened, as in torch.
        dampening: d, in [0, 1].
        nesterov: Whether the update is ``G + μM`` instead of ``M``.

    Returns:
        ``w_{t,k}``, float64, lower triangular, shape ``(T, T)``: row t − 1 has the weights of the
        gradients of steps 1 to t in update t.

    Raises:
        ConfigurationError: A value is out of range.
    """
    _require("steps", steps, steps >= 1, "at least 1")
    _require("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
    _require("dampening", dampening, 0 <= dampening <= 1, "in [0, 1]")
    if momentum == 0:
        return torch.eye(steps, dtype=torch.float64)
    weights = _powers(momentum, steps)
    # Torch takes the first gradient whole.
    weights[:, 1:] *= 1 - dampening
    if nesterov:
        weights = momentum * weights + torch.eye(steps, dtype=torch.float64)
    return weights


def averaging_weights(steps: int, beta: float) -> Tensor:
    """The weight of every past gradient in Adam's bias-corrected averages (Eq. 11).

    Args:
        steps: Number of updates T.
        beta: β₁ for the gradients, β₂ for their squares, in [0, 1).

    Returns:
        ``(1−β) β^{t−k} / (1−βᵗ)``, float64, lower triangular, shape ``(T, T)``; rows sum to one.

    Raises:
        ConfigurationError: A value is out of range.
    """
    _require("steps", steps, steps >= 1, "at least 1")
    _require("beta", beta, 0 <= beta < 1, "in [0, 1)")
    weights = _powers(beta, steps)
    return weights / weights.sum(dim=1, keepdim=True)


def unroll(
    weights: Tensor, rate: float, *, coupled: float = 0.0, decoupled: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Parameters as a weighted sum of the initial ones and of all past gradients (Eq. 12).

    ``θ_t = a_t θ_0 − Σ_k b_{t,k} G_k``.  Stacked over t, with L the lower triangular matrix of
    ``(1−γλ_d)^{t−s}``, N the shift by one step and λ_c the coupled decay,
    ``Θ = (1−γλ_d)ᵗ θ_0 − γ L W (G + λ_c (e_1 θ_0 + N Θ))``, so
    ``(I + γλ_c L W N) Θ = ((1−γλ_d)ᵗ − γλ_c L W e_1) θ_0 − γ L W G``, a triangular system.  Without
    momentum ``b_{t,k} = γ (1−γλ)^{t−k}`` and ``a_t = (1−γλ)ᵗ`` for either decay.

    Args:
        weights: ``w_{t,k}`` of :func:`momentum_weights` or :func:`averaging_weights`, ``(T, T)``.
        rate: Learning rate γ, the same at every step.
        coupled: λ that is added to the gradient before momentum (``torch.optim.SGD``).
        decoupled: λ that shrinks the parameters beside the update (``torch.optim.AdamW``).

    Returns:
        ``a``, shape ``(T + 1,)``, and ``b``, shape ``(T + 1, T)``, float64, from step 0 on.

    Raises:
        ShapeError: The weights are not a square matrix.
        ConfigurationError: A value is out of range.
    """
    steps = _square(weights)
    _require("rate", rate, rate > 0, "above 0")
    _require("coupled", coupled, coupled >= 0, "at least 0")
    _require("decoupled", decoupled, decoupled >= 0, "at least 0")
    summed = rate * _powers(1 - rate * decoupled, steps) @ weights.double()
    start = (1 - rate * decoupled) ** torch.arange(1, steps + 1, dtype=torch.float64)
    system = torch.eye(steps, dtype=torch.float64)
    system[:, :-1] += coupled * summed[:, 1:]
    right = torch.cat([(start - coupled * summed[:, 0])[:, None], summed], dim=1)
    solved = torch.linalg.solve_triangular(system, right, upper=False)
    initial = torch.cat([torch.ones(1, dtype=torch.float64), solved[:, 0]])
    return initial, torch.cat([torch.zeros(1, steps, dtype=torch.float64), solved[:, 1:]])


def unroll_adaptive(
    weights: Tensor, rates: Tensor, rate: float, *, decoupled: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The last parameters as a sum over past gradients, with a rate for every parameter.

    ``θ_T = (1−γλ)ᵀ θ_0 − γ Σ_k [Σ_{t≥k} (1−γλ)^{T−t} w_{t,k} P_t] G_k``.

    Args:
        weights: ``w_{t,k}``, shape ``(T, T)``.
        rates: Diagonals of ``P_1 … P_T``, shape ``(T, p)``.
        rate: Learning rate γ.
        decoupled: Decoupled decay λ.

    Returns:
        ``a_T``, a scalar, and ``b_{T,k}``, shape ``(T, p)``, float64.

    Raises:
        ShapeError: The shapes do not fit each other.
        ConfigurationError: A value is out of range.
    """
    steps = _square(weights)
    if rates.ndim != 2 or len(rates) != steps:
        raise ShapeError(
            f"rates have shape {tuple(rates.shape)}; expected ({steps}, p), one row per update"
        )
    _require("rate", rate, rate > 0, "above 0")
    _require("decoupled", decoupled, decoupled >= 0, "at least 0")
    left = _powers(1 - rate * decoupled, steps)[-1]
    passed_on = (left[:, None] * weights.double()).T @ rates.double()
    return torch.tensor((1 - rate * decoupled) ** steps, dtype=torch.float64), rate * passed_on


def sigmoid_slope(outputs: Tensor) -> Tensor:
    """``σ′ = f (1 − f)`` of a sigmoid's outputs f, of the same shape (Eq. 13)."""
    return outputs * (1 - outputs)


def sigmoid_kernel(kernel: Tensor, outputs: Tensor, other_outputs: Tensor) -> Tensor:
    """The tangent kernel behind an output sigmoid, ``σ′(z) σ′(z′) K_z(x, x′)`` (Eq. 13).

    Args:
        kernel: K_z, the kernel of what goes into the sigmoid, shape ``(rows, others)``.
        outputs: f = σ(z) of the rows, shape ``(rows,)``.
        other_outputs: f of the others, shape ``(others,)``.

    Returns:
        The kernel of the sigmoid's outputs, shape ``(rows, others)``.

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    expected = (*outputs.shape, *other_outputs.shape)
    if tuple(kernel.shape) != expected or kernel.ndim != 2:
        raise ShapeError(
            f"the kernel has shape {tuple(kernel.shape)} for outputs of shapes "
            f"{tuple(outputs.shape)} and {tuple(other_outputs.shape)}; expected one row and one "
            "column for each output"
        )
    return sigmoid_slope(outputs)[:, None] * kernel * sigmoid_slope(other_outputs)[None, :]


def _powers(base: float, steps: int) -> Tensor:
    """``base^{t−k}`` for k ≤ t, else 0, shape ``(steps, steps)``."""
    positions = torch.arange(steps, dtype=torch.float64)
    lag = positions[:, None] - positions[None, :]
    return torch.where(lag >= 0, base ** lag.clamp(min=0), 0.0)


def _square(weights: Tensor) -> int:
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or len(weights) < 1:
        raise ShapeError(
            f"weights have shape {tuple(weights.shape)}; expected (T, T), one row per update"
        )
    return len(weights)


def _require(name: str, value: float, right: bool, expected: str) -> None:
    if not right:
        raise ConfigurationError(f"{name} must be {expected}, got {value!r}")
