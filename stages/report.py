"""``report``: one page about all cases."""

from __future__ import annotations

from pathlib import Path

from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.progress import spinner
from telescope_pipeline.report import build_report
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


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


def run_against(parameters_path: Path, other: Path) -> Path:
    """Write ``results/comparison.html``: the report, compared with another checkout's results.

    A page of its own, since what it shows depends on more than the pipeline knows of.

    Args:
        parameters_path: The parameter file.
        other: The other checkout.

    Returns:
        The page.

    Raises:
        TelescopeError: If parameters or results are not usable, here or there, or the page cannot
            be written.
    """
    parameters = load_parameters(parameters_path)
    root = Layout.beside(parameters_path).root
    with spinner("report: comparing"):
        html = build_report(root, parameters, other)
    path = root / "results" / "comparison.html"
    files.write_text(path, html)
    return path


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
    from telescope_pipeline.publish.wandb.page import save_report
    from telescope_pipeline.report.wandb_page import report_page

    parameters = load_parameters(parameters_path)
    layout = Layout.beside(parameters_path)
    page = report_page(parameters, layout)
    with spinner("report: writing it and reading it back"):
        return save_report(page, root=layout.root)
