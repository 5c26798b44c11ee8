"""``publish``: hand the results of a case to the tracker."""

from __future__ import annotations

from pathlib import Path

from telescope_pipeline.parameters import load_case
from telescope_pipeline.progress import spinner
from telescope_pipeline.publish.options import check_tracking
from telescope_pipeline.publish.publication import publish
from telescope_pipeline.publish.receipts import RECEIPT
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


def run(case_name: str, parameters_path: Path) -> None:
    """Publish a case and write ``results/<case>/receipt.json``.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Raises:
        TelescopeError: If the parameters or the results are not usable, or the receipt cannot be
            written.  A tracker that fails raises nothing: the receipt says what happened.
    """
    parameters, _ = load_case(parameters_path, case_name)
    check_tracking(parameters.tracking)
    layout = Layout.beside(parameters_path)
    with spinner(f"publish {case_name}"):
        receipt = publish(case_name, parameters, layout.root)
    files.write_json(layout.results(case_name) / RECEIPT, receipt)
