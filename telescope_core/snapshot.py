"""What the lens saw at one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Reading = Literal["telescoped", "end-to-end"]
"""How S is read off the columns that are carried."""


@dataclass(frozen=True)
class Snapshot:
    """Measures of one step, by name.

    Attributes:
        step: Training steps taken since the lens was attached.
        metrics: For each set s: ``s/approximation_error`` (mean |f − f̃|) and
            ``s/linearization_error`` (mean |f − f_lin|); for quadratic losses ``s/smoother_error``
            (mean |f − (S·Y + c)|); ``s/kernel_norm_mean`` and ``s/kernel_norm_max`` on request.
            With probes ``train/degrees_of_freedom``, the headline for classifiers, and
            ``s/effective_parameters`` where outputs are predictions.  Where they are logits,
            ``s/logit_sensitivity`` in its place and, exact, ``s/hat_sensitivity``: sizes, no
            counts.  Estimates have a ``…_stderr``.  With ``layer_shares`` the same names, followed
            by ``/layer``.  All of these are of the telescoped reading; those of the end-to-end
            reading are named ``s/end_to_end/...``.
        refusal: Why some measures are missing from here on, in the first snapshot without them.
        readings: How S was read; empty without a smoother.
        curvature: ``"gauss-newton"`` or ``"full"``; ``None`` without a smoother.
    """

    step: int
    metrics: dict[str, float]
    refusal: str | None = None
    readings: tuple[Reading, ...] = ()
    curvature: Literal["gauss-newton", "full"] | None = None

    def to_record(self) -> dict[str, float]:
        """A flat record, ready for any tracker.

        Returns:
            ``{"step": ..., name: value, ...}``; the first after a refusal has ``refused`` = 1, and
            all of a smoother with the full curvature have ``full_curvature`` = 1.
        """
        kind = {"full_curvature": 1.0} if self.curvature == "full" else {}
        news = {} if self.refusal is None else {"refused": 1.0}
        return {"step": self.step, **self.metrics, **kind, **news}


def named_by_reading(metrics: Mapping[str, float], reading: Reading) -> dict[str, float]:
    """Measures of S under names that say how it was read."""
    if reading == "telescoped":
        return dict(metrics)
    parts = {name: name.partition("/") for name in metrics}
    return {f"{parts[n][0]}/end_to_end/{parts[n][2]}": value for n, value in metrics.items()}
