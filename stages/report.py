"""``report``: one page about all cases."""

from __future__ import annotations

from pathlib import Path

from telescope_pipeline import files
from telescope_pipeline.layout import Layout
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.progress import spinner
from telescope_pipeline.report import build_report


def run(parameters_path: Path) -> None:
    """Write ``results/report.html``.

    Args:
        parameters_path: The parameter file.

    Raises:
        TelescopeError: If the parameters or the results are not usable, or the report cannot be
            written.
    """
    parameters = load_parameters(parameters_path)
    root = Layout.beside(parameters_path).root
    with spinner("report"):
        html = build_report(root, parameters)
    files.write_text(root / "results" / "report.html", html)


def run_wandb(parameters_path: Path) -> str:
    """Write a report about the published cases at Weights & Biases.

    Args:
        parameters_path: The parameter file.

    Returns:
        Its address.

    Raises:
        TelescopeError: If the parameters or the results are not usable, nothing was published, or
            the server does not take the report.
    """
    from telescope_core.trackers.wandb_reports import save_report
    from telescope_pipeline.report.wandb_page import report_page

    parameters = load_parameters(parameters_path)
    layout = Layout.beside(parameters_path)
    page = report_page(parameters, layout)
    with spinner("report: writing it and reading it back"):
        return save_report(page, root=layout.root)
