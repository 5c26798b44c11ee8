"""When to record: log-spaced steps, so that the early part of training is not lost."""

from __future__ import annotations

from telescope_core.errors import ConfigurationError

# How much finer than asked the grid may get to make up for steps that rounding merges.
_FINEST = 16


def log_spaced_steps(total: int, count: int, *, stride: int = 1) -> list[int]:
    """Choose at most ``count`` steps after step 0, evenly spaced in log(step).

    Steps count parameter updates done, so step 0 is the initialisation. Rounding to whole steps
    merges some of the first few; the grid is then made finer until as many as asked are left.

    Args:
        total: Number of training steps.
        count: Number of records after step 0; all steps are recorded if ``count >= total``.
        stride: Block length of the lens. Steps beyond one block are moved to the end of a block,
            where a record costs least.

    Returns:
        Strictly increasing steps; the first is 0 and the last is ``total``.

    Raises:
        ConfigurationError: An argument is smaller than one.
    """
    for name, value in {"total": total, "count": count, "stride": stride}.items():
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}")
    if count >= total:
        return list(range(total + 1))
    steps = {total}
    for points in range(2, _FINEST * count + 1):
        finer = {total}
        for position in range(points - 1):
            step = _to_block_end(round(total ** (position / (points - 1))), stride)
            finer.add(min(step, total))
        if len(finer) > count:
            break
        steps = finer
    return [0, *sorted(steps)]


def _to_block_end(step: int, stride: int) -> int:
    return step if step <= stride else stride * round(step / stride)
