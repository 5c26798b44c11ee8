"""The report: one self-contained page about all cases, ``results/report.html``."""

from telescope_pipeline.report.build import build_report

__all__ = ["build_report"]
