"""What the lens saw at one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snapshot:
    """Measures of one step, by name.

    Attributes:
        step: Training steps taken since the lens was attached.
        metrics: For each set s: ``s/approximation_error`` (mean |f − f̃|), ``s/linearization_error``
            (mean |f − f_lin|) and, with probes, ``s/effective_parameters`` with
            ``s/effective_parameters_stderr``; ``s/smoother_error`` (mean |f − (S·Y + c)|) for
            quadratic losses; ``s/kernel_norm_mean`` and ``s/kernel_norm_max`` on request;
            ``train/degrees_of_freedom``.
        refusal: Why some measures are missing from here on, in the first snapshot without them.
    """

    step: int
    metrics: dict[str, float]
    refusal: str | None = None

    def to_record(self) -> dict[str, float]:
        """A flat record, ready for any tracker.

        Returns:
            ``{"step": ..., name: value, ...}``; the first after a refusal has ``refused`` = 1.
        """
        news = {} if self.refusal is None else {"refused": 1.0}
        return {"step": self.step, **self.metrics, **news}
