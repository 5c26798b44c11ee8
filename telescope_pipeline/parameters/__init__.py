"""``params.yaml``: read, checked, and every problem named."""

from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.parameters.model import Parameters, RunSettings, TrackingSettings
from telescope_pipeline.parameters.reading import case_of, load_case, load_parameters

__all__ = [
    "KINDS",
    "Parameters",
    "RunSettings",
    "TrackingSettings",
    "case_of",
    "load_case",
    "load_parameters",
]
