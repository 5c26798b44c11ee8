"""One comparison for all tests, with messages that say what is probably wrong."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_agrees(actual: Tensor, expected: Tensor, *, tolerance: float, what: str) -> None:
    """Require two arrays to agree, entry by entry.

    Args:
        actual: What is tested.
        expected: What it should be.
        tolerance: Largest deviation allowed, relative to the largest expected entry or to 1,
            whichever is greater.
        what: The quantity's name, for the message.

    Raises:
        AssertionError: With the likely cause, the largest deviation and its position.
    """
    if actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
            + (
                " (same number of entries: a reshape is missing)"
                if actual.numel() == expected.numel()
                else ""
            )
        )
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    if not bool(e.isfinite().all()):
        raise AssertionError(f"{what}: the expected values are not finite; choose a tamer case")
    if not bool(a.isfinite().all()):
        raise AssertionError(f"{what}: {int((~a.isfinite()).sum())} entries are not finite")
    if a.numel() == 0:
        raise AssertionError(f"{what}: nothing to compare, both arrays are empty")
    scale = max(1.0, float(e.abs().max()))
    deviation = (a - e).abs()
    largest = float(deviation.max())
    if largest <= tolerance * scale:
        return
    position = tuple(int(i) for i in torch.unravel_index(deviation.argmax(), deviation.shape))
    wrong = int((deviation > tolerance * scale).sum())
    raise AssertionError(
        f"{what}: deviates by {largest:.3e} at {position} (actual {float(a[position]):.10g}, "
        f"expected {float(e[position]):.10g}; tolerance {tolerance:.0e} at scale {scale:.3g}; "
        f"{wrong} of {a.numel()} entries wrong). Likely cause: {_likely_cause(a, e, largest)}"
    )


def _likely_cause(actual: Tensor, expected: Tensor, largest: float) -> str:
    size = float(expected.abs().max())
    if float(actual.abs().max()) == 0:
        return "nothing was computed, all entries are zero."
    if size == 0:
        return "something was added that should vanish."
    factor = float((actual * expected).sum() / (expected**2).sum())
    rest = float((actual - factor * expected).abs().max())
    if rest <= 1e-3 * largest:
        if abs(factor + 1) < 1e-6:
            return "the sign is flipped."
        return f"a constant factor of {factor:.6g} (a batch mean, a learning rate, a ½ or a 2)."
    if (
        expected.ndim == 2
        and expected.shape[0] == expected.shape[1]
        and float((actual.T - expected).abs().max()) <= 1e-3 * largest
    ):
        return "the matrix is transposed."
    if largest <= 1e-5 * size:
        return "single precision somewhere, or an ill-conditioned step."
    if expected.ndim and len(expected) > 1:
        by_row = (actual - expected).abs().reshape(len(expected), -1).amax(dim=1)
        good = int((by_row <= 1e-6 * largest).sum())
        if good:
            bad = [int(i) for i in (by_row > 1e-6 * largest).nonzero()[:5, 0]]
            return f"only some rows are wrong (first: {bad}), so an index or a chunk."
    if largest <= 0.05 * size:
        return "a Jacobian of another moment, another order inside the block, or another stride."
    return "a different recursion (decay, momentum or the label term of the step)."
