"""What the lens saw at one step."""

from __future__ import annotations

from dataclasses import dataclass


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
            by ``/layer``.
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
